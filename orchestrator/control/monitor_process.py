"""The monitor as a process: started detached, known to live by the lock it holds, and started again.

Without a monitor a run goes on, but nobody ends all of it when a part fails. So every verb that shows a run's
record and finds none starts another one; one that dies as soon as it lives is not started in a storm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import subprocess
import sys
import time

from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.core.errors import OrchestrateError, PreflightError
from orchestrator.core.paths import ControlDir
from orchestrator.core.safe_open import open_safely
from orchestrator.core.states import RunState

__all__ = ["cannot_write", "monitor_pid", "spawn_monitor", "watched_again"]

# So long after a monitor was started no other is, unless a person asks for it.
_PAUSE = 5.0


def spawn_monitor(control: ControlDir, *, watch_only: bool = False) -> None:
    """Start the monitor of a run in a session of its own; it outlives this process and its terminal.

    Does nothing where the run has one. The lock is taken here and inherited, so that there is no moment at
    which the run seems to have no monitor, nor one at which it could get two. It begins when its process id
    is noted: raises OSError, and nothing is started, where that cannot be.
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
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock,),
            )
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(monitor.pid).encode(), 0)
        except OSError as error:
            monitor.kill()
            monitor.communicate()
            error.filename = str(control.monitor_lock)
            raise
        assert monitor.stdin is not None
        with contextlib.suppress(BrokenPipeError), monitor.stdin:  # one that is dead already is found later
            monitor.stdin.write(b"go\n")
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


def watched_again(
    control: ControlDir, record: RunRecord, *, at_once: bool = False, start: bool = True
) -> RunRecord:
    """The record, with `unwatched` set where a monitor is needed and none lives; another one is started then.

    Not without `start`, nor so soon after the last one, nor for a run that nobody has watched from here, such
    as one of another control node: none of that counts where it is asked for `at_once`. Raises PreflightError
    where it cannot be started.
    """
    if not record.needs_monitor or monitor_pid(control) is not None:
        return record
    if not at_once and not _last_start(control):
        return record
    # It may have written its last record in between, and ended.
    if not (last := read_record(control)).needs_monitor:
        return last
    if start and (at_once or time.time() - _last_start(control) > _PAUSE):
        try:
            if last.state is RunState.PREPARING:
                write_record(control, last)  # what becomes of a launch must find room, or be told here
            spawn_monitor(control, watch_only=True)
        except OSError as error:
            raise cannot_write(control, error) from error
    return dataclasses.replace(record, unwatched=record.watched or record.updated)


def cannot_write(control: ControlDir, error: OSError) -> OrchestrateError:
    """The error of a file of this machine, above all of a state directory that takes nothing more."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return PreflightError(
        error.strerror or str(error),
        where=str(error.filename or control.root),
        remedy="free space there, or set XDG_STATE_HOME to another folder" if is_full else "",
    )


def _last_start(control: ControlDir) -> float:
    try:
        return os.lstat(control.monitor_lock).st_mtime
    except OSError:
        return 0.0


def _acquire(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
