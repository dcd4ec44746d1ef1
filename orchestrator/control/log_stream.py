"""The stream of a run's logs from all hosts at once: bounded in memory, and no host waits for another.

Each host is asked for one block at a time, its logs in turn, and for the next one while what it has sent is
being shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.control.log_reader import LogReader
from orchestrator.core.errors import HostsFailed, OrchestrateError
from orchestrator.core.host_answers import LogPart

if TYPE_CHECKING:  # else a command line brings in paramiko before it knows what is asked
    from orchestrator.hosts.agent_client import Agent
    from orchestrator.hosts.fleet import Fleet

__all__ = ["LogBatch", "LogLine", "iter_batches", "iter_lines"]

_INTERVAL = 0.5
# How long the first output waits for all hosts, so that short logs come in the order of the ranks.
_TOGETHER = 2.0
# To log in takes this machine's processor: of all hosts at once, the first one is as late as the last.
_HEAD_START = 0.1
_LONGEST_BLOCK, _SHORTEST_BLOCK = 1 << 20, 1 << 16
# Of all hosts together: with what is split and shown meanwhile, some four times as much is held.
_ALL_BLOCKS = 8 << 20


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Lines of one worker, one after the other. In `text` each ends with `\\n`, but for the last of them
    where it goes on in this worker's next batch, which then does not begin one (`begins`).

    `time` is when they were read, seconds since the epoch; where they had been there before (`was_there`),
    when the log was last written, by its host's clock, or None where that is not known.
    """

    host: str
    label: str
    text: str
    begins: bool
    time: float | None
    was_there: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of one worker, without its line end; `goes_on` where a very long one comes in pieces.

    `time` and `was_there` are those of its batch.
    """

    host: str
    label: str
    text: str
    goes_on: bool = False
    time: float | None = None
    was_there: bool = False


_Answer = tuple[list[LogBatch], None] | tuple[None, OrchestrateError]


class _HostLogs:
    """The logs of one host, of which one is read at a time."""

    def __init__(self, name: str, run_id: str, readers: Sequence[LogReader], block: int) -> None:
        self.name = name
        self.readers = list(readers)
        self.due = 0.0
        self.error: OrchestrateError | None = None
        self.is_closing = False
        self._run_id = run_id
        self._block = block
        self._turn = 0

    @property
    def is_behind(self) -> bool:
        return self._turn > 0 or any(reader.is_behind for reader in self.readers)

    @property
    def is_done(self) -> bool:
        return self.is_closing and (self.error is not None or all(reader.is_done for reader in self.readers))

    def close(self) -> None:
        self.is_closing = True
        for reader in self.readers:
            reader.close()

    def read(self, agent: Agent) -> list[LogBatch]:
        """About one block of lines: of many short logs, or of a part of a long one."""
        batches: list[LogBatch] = []
        taken = 0
        while taken < self._block and self._turn < len(self.readers):
            reader = self.readers[self._turn]
            if not reader.is_done:
                try:
                    taken += self._step(reader, agent, batches)
                except OrchestrateError:
                    if not batches:
                        raise
                    return batches  # told at the next turn, when it will be met again
            self._turn += 1
        self._turn %= len(self.readers)
        return batches

    def _step(self, reader: LogReader, agent: Agent, batches: list[LogBatch]) -> int:
        def read(offset: int, limit: int) -> tuple[LogPart, bytes]:
            return agent.read_log(self._run_id, reader.label, offset, limit)

        part = reader.step(read)
        if part.text:
            when = part.modified if part.was_there else time.time()
            batches.append(LogBatch(self.name, reader.label, part.text, part.begins, when, part.was_there))
        return part.size


def iter_batches(
    run_id: str,
    fleet: Fleet,
    labels: Mapping[str, Sequence[str]],
    *,
    tail: int | None = None,
    block: int = _LONGEST_BLOCK,
    is_over: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[LogBatch | None]:
    """What is in these logs, at most `block` bytes of one at a time; None where there is nothing just now.

    Goes on until `is_over` has said so and all has come that had been written then. A host that cannot be
    reached is asked again from where it was read to; if it still cannot be when all else is read, its error
    is raised.
    """
    block = max(_SHORTEST_BLOCK, min(block, _ALL_BLOCKS // max(1, len(labels))))
    hosts = [
        _HostLogs(name, run_id, [LogReader(label, block=block, tail=tail) for label in names], block)
        for name, names in labels.items()
    ]
    with _Over(is_over, clock) as over:
        turns = _Turns(fleet, hosts, clock)
        try:
            yield from turns.batches(over)
        finally:
            turns.leave()
    errors = {host.name: host.error for host in hosts if host.error is not None}
    if errors:
        raise HostsFailed.of(errors)


class _Turns:
    """Which hosts are being asked, and which are to be asked when."""

    def __init__(self, fleet: Fleet, hosts: Sequence[_HostLogs], clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._hosts = hosts
        self._clock = clock
        self._asked: dict[Future[_Answer], _HostLogs] = {}

    def batches(self, over: _Over) -> Iterator[LogBatch | None]:
        is_over = over.check()
        self._ask(is_over, self._hosts[:1])
        wait(self._asked, timeout=_HEAD_START)
        self._ask(is_over)
        self._await_all()
        while self._asked or not all(host.is_done for host in self._hosts):
            done, _ = wait(self._asked, timeout=_INTERVAL / 5, return_when=FIRST_COMPLETED)
            if not self._asked:
                time.sleep(_INTERVAL / 5)
            batches = [batch for host, answer in self._in_order(done) for batch in self._take(host, answer)]
            self._ask(over.check())
            yield from batches
            yield None

    def _await_all(self) -> None:
        """All hosts' first answers, so that short logs come in their order; a long one has no place in it."""
        until, waiting = self._clock() + _TOGETHER, set(self._asked)
        while waiting and (patience := until - self._clock()) > 0:
            done, waiting = wait(waiting, timeout=patience, return_when=FIRST_COMPLETED)
            if not done or any(self._asked[future].is_behind for future in done):
                return

    def _in_order(self, done: set[Future[_Answer]]) -> list[tuple[_HostLogs, _Answer]]:
        found = {self._asked.pop(future).name: future.result() for future in done}
        return [(host, found[host.name]) for host in self._hosts if host.name in found]

    def _take(self, host: _HostLogs, answer: _Answer) -> list[LogBatch]:
        batches, host.error = answer
        host.due = self._clock() + (0.0 if host.error is None and host.is_behind else _INTERVAL)
        return batches or []

    def _ask(self, is_over: bool, hosts: Sequence[_HostLogs] | None = None) -> None:
        asked, now = set(self._asked.values()), self._clock()
        for host in self._hosts if hosts is None else hosts:
            if host in asked or host.is_done:
                continue
            if is_over and not host.is_closing:
                host.close()
                host.error, host.due = None, now
            if host.due <= now:
                self._asked[self._fleet.begin(host.read, host.name)] = host

    def leave(self) -> None:
        """Nobody wants more: hang up where an answer does not come at once."""
        _, late = wait(self._asked, timeout=_INTERVAL)
        for future in late:
            future.cancel()
            with contextlib.suppress(OrchestrateError):
                self._fleet.drop(self._asked[future].name)


class _Over:
    """Asks whether the run is over, not more often than once an interval, and without holding up the logs."""

    def __init__(self, is_over: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._is_over = is_over
        self._clock = clock
        self._pool = ThreadPoolExecutor(1)
        self._asked: Future[bool] | None = None
        self._due = 0.0
        self._answer = False

    def check(self) -> bool:
        """What is known so far; True stays."""
        if self._asked is None and not self._answer and self._clock() >= self._due:
            self._asked = self._pool.submit(self._is_over)
            # What is known without asking a host is known at once.
            wait([self._asked], timeout=_INTERVAL / 5)
        if self._asked is not None and self._asked.done():
            self._answer, self._asked = self._asked.result(), None
            self._due = self._clock() + _INTERVAL
        return self._answer

    def __enter__(self) -> _Over:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def iter_lines(batches: Iterator[LogBatch | None]) -> Iterator[LogLine]:
    """The batches line by line."""
    for batch in batches:
        if batch is not None:
            *whole, rest = batch.text.split("\n")
            for text in whole:
                yield LogLine(batch.host, batch.label, text, False, batch.time, batch.was_there)
            if rest:
                yield LogLine(batch.host, batch.label, rest, True, batch.time, batch.was_there)
