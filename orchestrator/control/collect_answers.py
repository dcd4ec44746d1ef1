"""The answers of a prediction job, from all hosts, in the order of its prompts."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import read_record
from orchestrator.core.errors import AgentError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["Answers", "collect_answers", "lines_of"]

_MOST_BYTES = 1 << 32  # of one host
_LONGEST_LINE = 16 << 20
_MOST_ANSWERS = 1 << 22  # of all hosts: each of them is 80 bytes of memory
_DEEPEST = 50
_NAMES = re.compile(r"rank_\d+\.jsonl", re.ASCII)


class Answers:
    """Answers in a file without a name in `folder`, told by `index`; of equal ones the first host's first.

    In memory is where each of them is, and no text. To be closed, which a `with` block does.
    """

    def __init__(self, folder: Path | None = None, *, most: int = _MOST_ANSWERS) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._lock = threading.Lock()
        self._most = most
        self._end = self._count = 0
        # By host: index, offset and length of one answer after another.
        self._hosts: dict[str, array[int]] = {}

    def add(self, host: str, lines: Iterable[tuple[str, bytes]]) -> None:
        """Take whole lines of a host, with the name of their file; from any thread.

        AgentError: one is no answer, or there are too many.
        """
        places = self._hosts.setdefault(host, array("q"))
        for name, line in lines:
            index = _index_of(name, line, host)
            with self._lock:
                self._count += 1
                if self._count > self._most:
                    raise AgentError(f"there are more than {self._most} answers", where=host)
                self._file.write(line)
                places.extend((index, self._end, len(line)))
                self._end += len(line)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        places = array("q")
        for each in self._hosts.values():
            places.extend(each)
        for at in sorted(range(0, len(places), 3), key=places.__getitem__):
            self._file.seek(places[at + 1])
            answer: dict[str, Any] = json.loads(self._file.read(places[at + 2]))
            yield answer

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def collect_answers(control: ControlDir) -> Answers:
    """Every answer there is so far.

    Raises UsageError where the run's task makes none, HostsFailed or the error of a host that could not be
    reached, AgentError where an answer file cannot be read.
    """
    plan = read_plan(control.plan)
    if plan.task != "predict":
        what = f"{plan.run_id} is a run of task {plan.task}: only those of task predict write answers"
        remedies = {"chat": "orchestrate chat", "command": "orchestrate logs has what the program printed"}
        raise UsageError(
            what, remedy=remedies.get(plan.task, "orchestrate collect-ckpt has what was trained")
        )
    answers = Answers(control.root)
    try:
        for host in plan.hosts:
            answers.add(host.name, ())  # the order of the hosts is that of the inventory
        with fleet_of(plan.hosts, plan.ssh) as fleet:
            fleet.address(address_of(read_record(control)))
            fleet.each(lambda agent: answers.add(agent.host, lines_of(agent, plan.run_id))).raise_on_error()
    except BaseException:
        answers.close()
        raise
    return answers


def lines_of(agent: Agent, run_id: str) -> Iterator[tuple[str, bytes]]:
    """The whole lines of the answer files on one host, each with the name of its file.

    Files come in pieces: a line may begin in one and end in another. The last one may just be being written.
    AgentError: a line is too long.
    """
    before: str | None = None
    begun: list[bytes] = []
    held = 0
    for name, data in agent.small_files(run_id, "answers", _NAMES, total=_MOST_BYTES):
        if name != before:
            before, begun, held = name, [], 0
        first, *more = data.split(b"\n")
        begun.append(first)
        held += len(first)
        if held > _LONGEST_LINE:
            raise AgentError(f"{name} holds a line of more than {_LONGEST_LINE >> 20} MiB", where=agent.host)
        if more:
            yield str(name), b"".join(begun)
            *whole, last = more
            yield from ((str(name), line) for line in whole)
            begun, held = [last], len(last)


def _index_of(name: str, line: bytes, host: str) -> int:
    """The index of an answer, which then can be read and written again."""
    try:
        answer = json.loads(line)
        index = answer["index"]
        if type(index) is not int or not 0 <= index < 1 << 63 or not _is_flat(answer):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AgentError(f"{name} holds a line that is no answer", where=host) from error
    return index


def _is_flat(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for each in level for item in _items(each)]
        if not level:
            return True
    return False


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
