"""The verb that injects one fault into a run on this host, for people who want to see before they trust.

Only what belongs to the run is touched: a process by its recorded identity (pid, start time, boot), never by
its name, and a file without a name in the run's directory. What ends after a while is ended by a process of
its own on this host, the keeper, whether the control node is still there or not. It holds the file that fills
a disk open, and is the only one: however the keeper ends, the kernel frees the space.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, NoReturn, Optional, Sequence, Tuple

from orchestrator.agent import host_runs as runs
from orchestrator.agent import processes
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.codec import to_json
from orchestrator.core.ends import label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.host_answers import Injected, Size
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import HostStatus, ProcessId, RankStatus
from orchestrator.core.safe_open import open_safely
from orchestrator.core.states import RankState

__all__ = ["inject"]

_LONGEST = 24 * 3600.0
_LONGEST_FULL = 3600.0
_FULL_FOR = 60.0
# What is left free on a disk that counts as full, and what may be left where the file system gives no more.
_LEFT = 16 << 10
_MOST_LEFT = 1 << 20
_FILLS_WITHIN = 30.0
_FIRST_PIECE, _LARGEST_PIECE = 64 << 20, 64 << 30
_PAGE = 4096
_TURN = 0.2
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def inject(request: Request) -> Iterator[Answer]:
    """Kill or freeze the worker of a rank, or fill the disk, for so many seconds where they are given."""
    run = runs.find(Workdir(request.root), request.args["run_id"])
    if os.lstat(run.root).st_uid != os.geteuid():
        raise AgentError(f"{run.root} is not a run of this account", kind="foreign")
    status = runs.status(run)
    if status.phase not in ("started", "committed"):
        raise AgentError(f"the run has no workers to hurt here (phase {status.phase})", kind="not_running")
    kind, rank, seconds = request.args["fault"], request.args.get("rank"), _seconds(request.args)
    if kind == "fill_disk":
        yield Answer(to_json(_fill_disk(run, status, seconds)))
    elif kind in ("kill", "freeze"):
        yield Answer(to_json(_hurt(run, _running(status, rank), kind, seconds)))
    else:
        raise AgentError(f"no kind of fault `{kind}` is known here", kind="bad_kind")


def _seconds(args: Mapping[str, Any]) -> Optional[float]:
    seconds = args.get("seconds")
    if seconds is None:
        return None
    if not isinstance(seconds, (int, float)) or not 0 < seconds <= _LONGEST:
        raise AgentError(f"{seconds!r} seconds are no time for a fault", kind="bad_time")
    return float(seconds)


def _running(status: HostStatus, rank: object) -> RankStatus:
    for each in status.ranks:
        if each.rank == rank and each.state is RankState.RUNNING and processes.is_alive(each.process):
            return each
    raise AgentError(f"rank {rank} does not run on this host", kind="no_rank")


def _hurt(run: RunDir, rank: RankStatus, kind: str, seconds: Optional[float]) -> Injected:
    assert rank.process is not None
    number = signal.SIGKILL if kind == "kill" else signal.SIGSTOP
    seconds = seconds if kind == "freeze" else None
    _note(run, f"{signal.Signals(number).name} to {label_of(rank.rank)}", seconds)
    if seconds is not None:
        # Before the signal: where there can be no keeper nothing is frozen that nobody would thaw.
        _leave_keeper(seconds, [rank.process], undo=_thaw(rank.process))
    # Again, as near to the signal as can be: in between the worker may have ended.
    if not processes.is_alive(rank.process) or not processes.signal_group(rank.process.pid, number):
        raise AgentError(f"rank {rank.rank} has just ended by itself", kind="no_rank")
    return Injected(rank=rank.rank, pid=rank.process.pid, seconds=seconds)


def _thaw(process: ProcessId) -> Callable[[], None]:
    def thaw() -> None:
        if processes.is_alive(process):
            processes.signal_group(process.pid, signal.SIGCONT)

    return thaw


def _fill_disk(run: RunDir, status: HostStatus, seconds: Optional[float]) -> Injected:
    if seconds is None:
        if os.stat(run.root).st_dev == os.stat("/").st_dev:
            raise AgentError(
                f"{run.root} is on the file system of /, which everything here needs",
                remedy="say for how long it may be full: --for 30s",
                kind="needs_time",
            )
        seconds = _FULL_FOR
    seconds = min(seconds, _LONGEST_FULL)
    _spare_memory(run.root)
    owners = [process for process in (status.supervisor, status.guardian) if process is not None]
    _note(run, "the disk is filled", seconds)
    with contextlib.ExitStack() as held:
        files: List[int] = []

        def one_more() -> int:
            files.append(held.enter_context(tempfile.TemporaryFile(dir=str(run.root))).fileno())
            return files[-1]

        filled, free = _fill(one_more)
        _leave_keeper(seconds, owners, keep=files)
    return Injected(seconds=seconds, filled=Size(filled), free=Size(free))


def _spare_memory(folder: Path) -> None:
    """Raise AgentError where the file system is in memory, and to fill it would take most of what is left."""
    device = os.stat(folder).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    rows = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    kinds = {row[row.index("-") + 1] for row in rows if row[2] == name}
    if not kinds & {"tmpfs", "ramfs"}:
        return
    found = os.statvfs(folder)
    memory = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()
    if found.f_bfree * found.f_frsize > int(memory[0]) * 1024 // 2:
        raise AgentError(
            f"{folder} is a file system in memory: to fill it would take more than half of what is free",
            remedy="choose a workdir on a disk, or a smaller tmpfs",
            kind="in_memory",
        )


def _fill(one_more: Callable[[], int]) -> Tuple[int, int]:
    """Take all space but a little, in files without names; the bytes taken, and those that are free."""
    handle, size, filled, piece = one_more(), 0, 0, _FIRST_PIECE
    deadline = time.monotonic() + _FILLS_WITHIN
    while _free(handle) > _LEFT and piece >= _PAGE:
        if time.monotonic() > deadline:
            raise AgentError(
                f"the disk is not full after {_FILLS_WITHIN:g} s; it was left as it was", kind="slow"
            )
        begun = time.monotonic()
        wanted = max(_PAGE, min(piece, _free(handle) - _LEFT))
        try:
            os.posix_fallocate(handle, size, wanted)
        except OSError as error:
            if error.errno == errno.EFBIG and size:
                handle, size = one_more(), 0
            elif error.errno in _NO_SPACE:
                piece = wanted // 2
            else:
                raise
            continue
        size, filled = size + wanted, filled + wanted
        if piece < _LARGEST_PIECE and wanted == piece and time.monotonic() - begun < 0.1:
            piece *= 2
    if _free(handle) > _MOST_LEFT:
        raise AgentError(f"the disk gives no more, with {_free(handle):,} bytes free", kind="not_full")
    return filled, _free(handle)


def _free(handle: int) -> int:
    """The bytes that this account may still write; those kept for root count for root alone."""
    found = os.fstatvfs(handle)
    return (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize


def _note(run: RunDir, what: str, seconds: Optional[float]) -> None:
    """A line in the supervisor's log, so that nobody looks for another cause later."""
    limit = "" if seconds is None else f", for {seconds:g} s"
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} orchestrate chaos: {what}{limit}\n"
    with contextlib.suppress(OSError):
        handle = open_safely(run.root / "supervisor.log", run.runs, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(handle, "ab") as log:
            log.write(line.encode())


def _nothing() -> None:
    pass


def _leave_keeper(
    seconds: float,
    owners: Sequence[ProcessId],
    *,
    keep: Sequence[int] = (),
    undo: Callable[[], None] = _nothing,
) -> None:
    """Leave a process behind that holds `keep` open and undoes at the end: of the time, or of the owners."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            if os.fork() == 0:
                _keep_until(time.monotonic() + seconds, owners, keep, undo)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise AgentError("no process can be started here that would end the fault", kind="no_keeper")


def _keep_until(
    deadline: float, owners: Sequence[ProcessId], keep: Sequence[int], undo: Callable[[], None]
) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: _end(undo))
        _leave_session(keep)
        while time.monotonic() < deadline and any(map(processes.is_alive, owners)):
            time.sleep(min(_TURN, max(0.0, deadline - time.monotonic())))
    finally:
        _end(undo)


def _end(undo: Callable[[], None]) -> NoReturn:
    try:
        undo()
    finally:
        os._exit(0)


def _leave_session(keep: Sequence[int]) -> None:
    """Let go of the session's descriptors: sshd waits for them before it closes a channel."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.chdir("/")
