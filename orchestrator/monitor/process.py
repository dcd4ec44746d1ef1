"""The monitor as a process: started detached, and known to live by the lock it holds."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

from orchestrator.layout import ControlDir

__all__ = ["hold_lock", "monitor_pid", "spawn_monitor"]


def spawn_monitor(control: ControlDir, *, watch_only: bool = False) -> None:
    """Start the monitor of a run in a session of its own; it outlives this process and its terminal."""
    # -P: a folder of the user's that is called `orchestrator` must not be taken for ours.
    argv = [sys.executable, "-P", "-m", "orchestrator.monitor", str(control.root)]
    with open(control.monitor_log, "ab") as log:
        subprocess.Popen(
            [*argv, "--watch-only"] if watch_only else argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def hold_lock(control: ControlDir) -> bool:
    """Become the run's monitor; False where another process is. The lock lasts until this process ends."""
    handle = os.open(control.monitor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return True


def monitor_pid(control: ControlDir) -> int | None:
    """The living monitor's process id, or None. A held lock proves that the id is the monitor's."""
    try:
        handle = os.open(control.monitor_lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 32, 0)
        return int(text) if text.isdigit() else None
    finally:
        os.close(handle)
    return None
