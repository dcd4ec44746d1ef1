"""The monitor as a process: started detached, and known to live by the lock it holds."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

from orchestrator.core.paths import ControlDir
from orchestrator.core.safe_open import open_safely

__all__ = ["monitor_pid", "spawn_monitor"]


def spawn_monitor(control: ControlDir, *, watch_only: bool = False) -> None:
    """Start the monitor of a run in a session of its own; it outlives this process and its terminal.

    Does nothing where the run has one. The lock is taken here and inherited, so that there is no moment at
    which the run seems to have no monitor, nor one at which it could get two.
    """
    lock = open_safely(control.monitor_lock, control.runs, os.O_RDWR | os.O_CREAT)
    try:
        if not _acquire(lock):
            return
        # -P: a folder of the user's that is called `orchestrator` must not be taken for ours.
        argv = [sys.executable, "-P", "-m", "orchestrator.control", str(control.root)]
        log = open_safely(control.monitor_log, control.runs, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with os.fdopen(log, "wb") as output:
            monitor = subprocess.Popen(
                [*argv, "--watch-only"] if watch_only else argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock,),
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(monitor.pid).encode(), 0)
    finally:
        os.close(lock)


def monitor_pid(control: ControlDir) -> int | None:
    """The living monitor's process id, or None. A held lock proves that the id is the monitor's."""
    try:
        handle = open_safely(control.monitor_lock, control.runs, os.O_RDWR)
    except OSError:
        return None
    try:
        if _acquire(handle):
            return None
        text = os.pread(handle, 32, 0)
        return int(text) if text.isdigit() else None
    finally:
        os.close(handle)


def _acquire(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
