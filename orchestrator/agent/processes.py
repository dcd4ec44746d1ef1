"""Processes by identity: pid, start time and boot, so that a used-again pid is never taken for ours.

Linux only: reads /proc and calls prctl(2).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import signal
import time
from pathlib import Path
from typing import List, Optional

from orchestrator.core.records import ProcessId

__all__ = [
    "become_subreaper",
    "boot_id",
    "die_with_parent",
    "identify",
    "is_alive",
    "kill_descendants",
    "kill_group",
    "kill_one",
    "signal_group",
    "state_of",
    "switches_of",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Looked up once and before any fork: the child of a fork must not take the loader's locks.
_LIBC = ctypes.CDLL(None, use_errno=True)
# As prctl(2) reads them: ctypes would hand over ints, whose upper halves are not promised on every machine.
_LIBC.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def _stat_fields(pid: int) -> Optional[List[str]]:
    """The fields of /proc/<pid>/stat from the third (state) on, see proc(5); None without a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # gone, or (with hidepid) another account's and so none of ours
    # The command name may hold blanks and parentheses: what counts starts after the last one.
    return text[text.rindex(")") + 2 :].split()


@functools.lru_cache(maxsize=None)
def boot_id() -> str:
    """The kernel's name for this boot; start times of different boots say nothing about each other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identify(pid: int) -> Optional[ProcessId]:
    """The identity of a living process, or None."""
    fields = _stat_fields(pid)
    return ProcessId(pid, int(fields[19]), boot_id()) if fields else None


def state_of(pid: int) -> str:
    """The letter of a process's state in proc(5); empty where there is no such process."""
    fields = _stat_fields(pid)
    return fields[0] if fields else ""


def switches_of(pid: int) -> Optional[int]:
    """How often the process's first thread has been taken off a CPU; None where that cannot be read."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    counts = re.findall(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)$", text, re.MULTILINE)
    return sum(map(int, counts)) if counts else None


def is_alive(process: Optional[ProcessId]) -> bool:
    """Whether this very process still runs; a zombie does not."""
    if process is None or process.boot_id != boot_id():
        return False
    fields = _stat_fields(process.pid)
    return fields is not None and int(fields[19]) == process.start_time and fields[0] not in "ZX"


def signal_group(pid: int, number: int) -> bool:
    """Send a signal to the process group that `pid` leads; False where nobody is left in it."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_group(process: ProcessId) -> bool:
    """SIGKILL the group of a recorded process, if that very process is still there."""
    return is_alive(process) and signal_group(process.pid, signal.SIGKILL)


def kill_one(process: ProcessId) -> bool:
    """SIGKILL a recorded process, if that very process is still there; not its group."""
    try:
        if not is_alive(process):
            return False
        os.kill(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def die_with_parent(number: int, parent: int) -> None:
    """Have the kernel send `number` to this process when its parent dies, or now if it is dead already."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's, so that they can be found."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> List[int]:
    found = []
    for entry in os.listdir("/proc"):
        fields = _stat_fields(int(entry)) if entry.isdigit() else None
        if fields and int(fields[1]) == os.getpid():
            found.append(int(entry))
    return found


def _has_children() -> bool:
    """Whether this process has any, be they dead; much sooner known than which. Buries one that is dead."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def kill_descendants(timeout: float = 10.0) -> bool:
    """SIGKILL every child, then every orphan that becomes one, until none is left; needs `become_subreaper`.

    True when all are gone, False when some outlived the timeout (uninterruptible sleep).
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not _has_children():
            return True
        children = _children()
        for pid in children:
            signal_group(pid, signal.SIGKILL)
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                continue
        time.sleep(0.01)
    return False
