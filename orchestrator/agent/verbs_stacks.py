"""The verb that tells where the ranks of a run are: their stacks, by themselves, by py-spy, or by the kernel.

Only processes of the run are looked at, by their recorded identity. SIGUSR1 goes to those alone that have
announced what they do at it, and catch it still: any other it would kill. Whatever does not answer is not
waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections import Counter
from typing import Dict, Iterator, List, Optional

from orchestrator.agent import host_runs as runs
from orchestrator.agent import processes
from orchestrator.agent.ascend_tools import run_programs
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.agent.stop_grace import STACKS
from orchestrator.core.codec import to_json
from orchestrator.core.errors import AgentError
from orchestrator.core.host_answers import RankStacks, StacksAnswer
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import ProcessId, RankStatus
from orchestrator.core.states import RankState

__all__ = ["stacks"]

# A process writes its stacks at once, unless it gets no CPU; so long after the last byte they are whole.
_PATIENCE, _QUIET, _LOOK = 3.0, 0.2, 0.05
_LONGEST, _LONGEST_STATE = 1 << 16, 1 << 14
_SHORT = 1 << 12
_MOST_THREADS = 1024
_SPY, _SPY_SECONDS = "py-spy", 5.0
# A thread's head, or the frames below it, as faulthandler writes them.
_HEAD = re.compile(r"(?:Current t|T)hread 0x[0-9a-f]+|Stack \(most recent call first\)")
_FRAME = re.compile(r"  (?:File \"|\.\.\.|<|Binary file )")


def stacks(request: Request) -> Iterator[Answer]:
    """Where every rank of the run is that runs here."""
    run = runs.find(Workdir(request.root), request.args["run_id"])
    if os.lstat(run.root).st_uid != os.geteuid():
        raise AgentError(f"{run.root} is not a run of this account", kind="foreign")
    ranks = [rank for rank in runs.status(run).ranks if _lives(rank)]
    # Before it is disturbed.
    states = {rank.rank: _state_of(rank) for rank in ranks}
    told = _told(run, ranks)
    spied = _spied([rank for rank in ranks if rank.rank not in told])
    found = {}
    for rank in ranks:
        how, text = "kernel", ""
        if rank.rank in told:
            how, text = "faulthandler", told[rank.rank]
        elif rank.rank in spied:
            how, text = _SPY, spied[rank.rank]
        found[str(rank.rank)] = RankStacks(how, text, states[rank.rank])
    yield Answer(to_json(StacksAnswer(found)))


def _lives(rank: RankStatus) -> bool:
    return rank.state is RankState.RUNNING and processes.is_alive(rank.process)


# What processes tell themselves.


def _told(run: RunDir, ranks: List[RankStatus]) -> Dict[int, str]:
    """What the ranks that can have written to their logs, by rank."""
    logs = {rank.rank: _Log(run, rank.label) for rank in ranks if STACKS in rank.can}
    asked = {rank.rank for rank in ranks if rank.rank in logs and _signal(rank.process)}
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and not all(logs[rank].is_whole() for rank in asked):
        time.sleep(_LOOK)
    texts = {rank: logs[rank].stacks() for rank in asked}
    return {rank: text for rank, text in texts.items() if text}


def _signal(process: Optional[ProcessId]) -> bool:
    """Send SIGUSR1 to this very process, if that does no harm there."""
    if process is None or processes.state_of(process.pid) in ("T", "t") or not _catches(process.pid):
        return False
    # Again, as near to the signal as can be: in between it may have ended.
    if not processes.is_alive(process):
        return False
    with contextlib.suppress(OSError):
        os.kill(process.pid, signal.SIGUSR1)
        return True
    return False


def _catches(pid: int) -> bool:
    """Whether the process has a handler for SIGUSR1: one that has become another program has none."""
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", _read(f"/proc/{pid}/status"), re.MULTILINE)
    return found is not None and bool(int(found.group(1), 16) >> (signal.SIGUSR1 - 1) & 1)


class _Log:
    """What a worker's log gains from now on."""

    def __init__(self, run: RunDir, label: str) -> None:
        self._run, self._label = run, label
        self._start = self._size = self._now()
        self._grown = time.monotonic()

    def is_whole(self) -> bool:
        """Whether there are stacks, and nothing more has come for a while."""
        size, now = self._now(), time.monotonic()
        if size != self._size:
            self._size, self._grown = size, now
        return size > self._start and now - self._grown >= _QUIET and bool(self.stacks())

    def stacks(self) -> str:
        """The lines of stacks among what has come; what else the program writes meanwhile is left out."""
        kept, is_within = [], False
        for line in self._gained().splitlines():
            is_within = bool(_HEAD.match(line)) or (is_within and bool(_FRAME.match(line)))
            if is_within:
                kept.append(line)
        return "".join(line + "\n" for line in kept)[:_LONGEST]

    def _now(self) -> int:
        with contextlib.suppress(OSError):
            return os.stat(self._run.attempt.log(self._label)).st_size
        return 0

    def _gained(self) -> str:
        with contextlib.suppress(OSError, AgentError):
            data: bytes = runs.read_log(self._run, self._label, self._start, _LONGEST)["data"]
            return data.decode("utf-8", "replace")
        return ""


# What others can see of them.


def _spied(ranks: List[RankStatus]) -> Dict[int, str]:
    """What py-spy finds, where it is installed and may look; it does not stop whom it looks at."""
    spies = {rank.rank: _spy_of(rank) for rank in ranks}
    calls = {
        rank.rank: [spy, "dump", "--nonblocking", "--pid", str(rank.process.pid)]
        for rank in ranks
        if rank.process is not None and (spy := spies[rank.rank]) and processes.is_alive(rank.process)
    }
    answers = run_programs(list(calls.values()), timeout=_SPY_SECONDS) if calls else []
    return {
        rank: answer["text"][:_LONGEST]
        for rank, answer in zip(calls, answers)
        if answer["exit_code"] == 0 and answer["text"]
    }


def _spy_of(rank: RankStatus) -> str:
    """The path of py-spy: on the PATH, or beside the agent's Python or the worker's own."""
    folders = [*os.environ.get("PATH", "").split(":"), os.path.dirname(sys.executable)]
    if rank.process is not None:
        with contextlib.suppress(OSError):
            folders.append(os.path.dirname(os.readlink(f"/proc/{rank.process.pid}/exe")))
    paths = (os.path.join(folder, _SPY) for folder in folders if os.path.isabs(folder))
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")


def _state_of(rank: RankStatus) -> str:
    """What /proc tells of a process, as far as it may be read, and of its threads, equal ones folded."""
    if rank.process is None:
        return ""
    home = f"/proc/{rank.process.pid}"
    told = _read(f"{home}/status").splitlines()
    lines = [" ".join(line.split()) for line in told if line.startswith("State:")]
    for name in ("wchan", "syscall"):
        text = _read(f"{home}/{name}").strip()
        if text and text != "0":
            lines.append(f"{name}: {text}")
    lines += [f"kernel: {line}" for line in _read(f"{home}/stack").splitlines()]
    counted = Counter(_threads(home))
    lines += [f"threads: {count} x {what}" for what, count in counted.most_common()]
    if not processes.is_alive(rank.process):
        return ""  # it was of another process by then, perhaps
    return "".join(line + "\n" for line in lines)[:_LONGEST_STATE]


def _threads(home: str) -> Iterator[str]:
    """State and wait channel of each thread."""
    try:
        names = os.listdir(f"{home}/task")[:_MOST_THREADS]
    except OSError:
        return
    for name in names:
        stat = _read(f"{home}/task/{name}/stat")
        if stat:
            where = _read(f"{home}/task/{name}/wchan").strip()
            yield " ".join([stat[stat.rindex(")") + 2 :][:1], *([where] if where and where != "0" else [])])


def _read(path: str) -> str:
    """The beginning of a file of /proc; empty where there is none, or it may not be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_SHORT).decode("utf-8", "replace")
    except OSError:
        return ""
