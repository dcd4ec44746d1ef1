"""The lock of a run's monitor, and the note of where it lives: there is never more than one.

The lock (`monitor.lock`) is held with flock by the monitor while it lives. Beside it a note (`monitor.json`)
says on which machine that is, in which boot, and which process: a home may be shared by many machines, whose
locks know nothing of each other on some network file systems, and whose process ids never do. Where a file
system knows no flock at all, the process of the note decides.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.core.codec import DecodeError, Stored, dumps, load
from orchestrator.core.errors import TransportError
from orchestrator.core.paths import ControlDir, atomic_write
from orchestrator.core.records import ProcessId
from orchestrator.core.safe_open import open_safely

__all__ = [
    "LivingMonitor",
    "Lock",
    "MonitorNote",
    "acquired",
    "elsewhere_error",
    "forget_monitor",
    "living_monitor",
    "monitor_pid",
    "note_monitor",
    "noted_monitor",
    "starting_alone",
]

Lock = Callable[[int, int], None]

# What a file system says that knows no flock, or has nobody who keeps locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# A monitor writes at least every few seconds, but while a launch waits for a host.
_FRESH = 180.0
# Longer than one takes to start another.
_STARTING = 30.0


@dataclass(frozen=True)
class MonitorNote(Stored):
    """Which process is, or was, the monitor of a run; `started` in seconds since the epoch."""

    LARGEST = 1 << 16

    host: str
    process: ProcessId
    started: float = 0.0

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, in this boot or in one that is over."""
        return self.host == socket.gethostname()


@dataclass(frozen=True, slots=True)
class LivingMonitor:
    """The monitor of a run. `host` is empty where it is this machine.

    Of another machine it is not always known that it lives: `is_sure` where it holds the lock, or has
    written something lately.
    """

    pid: int
    host: str = ""
    is_sure: bool = True

    @property
    def is_here(self) -> bool:
        return not self.host


def note_monitor(control: ControlDir, pid: int) -> None:
    """Note that this process of this machine is the monitor. Raises OSError."""
    from orchestrator.agent.processes import boot_id, identify

    process = identify(pid) or ProcessId(pid, 0, boot_id())
    note = MonitorNote(socket.gethostname(), process, time.time())
    atomic_write(control.monitor_note, dumps(note))


def forget_monitor(control: ControlDir) -> None:
    """This process is the monitor no more."""
    from orchestrator.agent.processes import identify

    note = _note(control)
    if note is not None and note.is_here and note.process == identify(os.getpid()):
        for path in (control.monitor_socket, control.monitor_note):
            with contextlib.suppress(OSError):
                path.unlink()


def living_monitor(control: ControlDir, *, lock: Lock = fcntl.flock) -> LivingMonitor | None:
    """The run's monitor, as far as anybody can know; None where none lives."""
    held, pid = _held(control, lock)
    return noted_monitor(control, held, pid)


def noted_monitor(control: ControlDir, held: bool | None, pid: int | None = None) -> LivingMonitor | None:
    """What the note says, where the lock is in the hands of process `pid`, or not, or nobody knows (None)."""
    note = _note(control)
    if note is not None and (held is None or not note.is_here):
        # Late: it brings ctypes along, and who only shows a run on its own machine does without.
        from orchestrator.agent.processes import boot_id, is_alive

        return _by_note(control, note, held, note.process.boot_id == boot_id(), is_alive(note.process))
    return LivingMonitor(pid) if held and pid is not None else None


def _by_note(
    control: ControlDir, note: MonitorNote, held: bool | None, is_of_this_boot: bool, is_alive: bool
) -> LivingMonitor | None:
    if not note.is_here:
        if held is False and is_of_this_boot:
            return None  # another container on the same kernel, whose locks are ours
        return LivingMonitor(note.process.pid, note.host, is_sure=bool(held) or _is_fresh(control))
    return LivingMonitor(note.process.pid) if is_alive else None


def monitor_pid(control: ControlDir) -> int | None:
    """The process id of the monitor that lives on this machine, or None."""
    found = living_monitor(control)
    return found.pid if found is not None and found.is_here else None


def elsewhere_error(control: ControlDir, monitor: LivingMonitor) -> TransportError:
    """What is said where only the monitor could do something, and it lives on another machine."""
    how = "lives" if monitor.is_sure else "was, and may live,"
    return TransportError(
        f"the monitor of {control.run_id} {how} on this machine (process {monitor.pid})",
        where=monitor.host,
        remedy=f"give the command there; if that machine is gone for good: rm {control.monitor_note}",
    )


def acquired(handle: int, lock: Lock = fcntl.flock) -> bool | None:
    """Whether the lock is ours now; None where the file system knows no locks."""
    try:
        lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


@contextlib.contextmanager
def starting_alone(control: ControlDir) -> Iterator[bool]:
    """Without locks: whether nobody else is starting a monitor of this run at this moment."""
    path = control.root / "monitor.starting"
    with contextlib.suppress(FileNotFoundError):
        if time.time() - os.lstat(path).st_mtime > _STARTING:
            path.unlink()  # who was starting one has died
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def _note(control: ControlDir) -> MonitorNote | None:
    try:
        return load(MonitorNote, control.monitor_note, control.runs)
    except (OSError, DecodeError):
        return None


def _held(control: ControlDir, lock: Lock) -> tuple[bool | None, int | None]:
    """Whether somebody holds the lock, and who; None where that cannot be known."""
    try:
        handle = open_safely(control.monitor_lock, control.runs, os.O_RDWR)
    except OSError:
        return False, None
    try:
        is_ours = acquired(handle, lock)
        if is_ours is None:
            return None, None
        text = b"" if is_ours else os.pread(handle, 32, 0)
        return not is_ours, int(text) if text.isdigit() else None
    finally:
        os.close(handle)


def _is_fresh(control: ControlDir) -> bool:
    """Whether something was written lately, by the clock of the file system that both machines share."""
    try:
        with tempfile.TemporaryFile(dir=control.root) as file:
            now = os.fstat(file.fileno()).st_mtime
    except OSError:
        now = time.time()
    for path in (control.journal, control.record, control.monitor_note):
        with contextlib.suppress(OSError):
            if now - os.lstat(path).st_mtime < _FRESH:
                return True
    return False
