"""The monitor as a process: started detached, known to live by the lock it holds, and started again.

Without a monitor a run goes on, but nobody ends all of it when a part fails. So every verb that shows a run's
record and finds none starts another one; one that dies as soon as it lives is not started in a storm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
import warnings

from orchestrator.control.monitor_lock import (
    Lock,
    acquired,
    elsewhere_error,
    living_monitor,
    monitor_pid,
    note_monitor,
    noted_monitor,
    starting_alone,
)
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.core.errors import AssumedWarning, OrchestrateError, PreflightError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.safe_open import open_safely
from orchestrator.core.states import RunState

__all__ = ["cannot_write", "end_monitor", "explained", "monitor_pid", "spawn_monitor", "watched_again"]

log = logging.getLogger(__name__)

# So long after a monitor was started no other is, unless a person asks for it.
_PAUSE = 5.0
_PATIENCE = 20.0


def spawn_monitor(control: ControlDir, *, watch_only: bool = False, lock: Lock = fcntl.flock) -> None:
    """Start the monitor of a run in a session of its own; it outlives this process and its terminal.

    Does nothing where the run has one. The lock is taken here and inherited, so that there is no moment at
    which the run seems to have no monitor, nor one at which it could get two. It begins when its process id
    is noted: raises OSError, and nothing is started, where that cannot be. Raises TransportError where one
    lives, or may live, on another machine.
    """
    handle = open_safely(control.monitor_lock, control.runs, os.O_RDWR | os.O_CREAT)
    try:
        is_ours = acquired(handle, lock)
        if is_ours is False:
            return
        if is_ours is None:
            what = f"{control.monitor_lock}: this file system knows no locks, the process noted there counts"
            warnings.warn(AssumedWarning(what), stacklevel=2)
        with starting_alone(control) if is_ours is None else contextlib.nullcontext(True) as alone:
            # The lock is ours, or there are none: the note may say of another machine, or of a process.
            living = noted_monitor(control, None if is_ours is None else False)
            if living is not None and not living.is_here:
                raise elsewhere_error(control, living)
            if alone and living is None:
                _begin(control, handle, watch_only)
    finally:
        os.close(handle)


def _begin(control: ControlDir, handle: int, watch_only: bool) -> None:
    # -P: a folder of the user's that is called `orchestrator` must not be taken for ours.
    argv = [sys.executable, "-P", "-m", "orchestrator.recovery", str(control.root)]
    output_file = open_safely(control.monitor_log, control.runs, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with os.fdopen(output_file, "wb") as output:
        monitor = subprocess.Popen(
            [*argv, "--watch-only"] if watch_only else argv,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(handle,),
        )
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(monitor.pid).encode(), 0)
        note_monitor(control, monitor.pid)
    except OSError as error:
        monitor.kill()
        monitor.communicate()
        error.filename = str(control.monitor_lock)
        raise
    assert monitor.stdin is not None
    with contextlib.suppress(BrokenPipeError), monitor.stdin:  # one that is dead already is found later
        monitor.stdin.write(b"go\n")


def end_monitor(control: ControlDir) -> None:
    """End the monitor of a run, if one lives; it undoes a launch that is under way.

    That of a run that has ended may live on, to stop what is left on hosts that were lost. Raises
    TransportError where it lives on another machine, UsageError where it does not end.
    """
    deadline = time.monotonic() + _PATIENCE
    living = living_monitor(control)
    if living is not None and not living.is_here and living.is_sure:
        raise elsewhere_error(control, living)
    while (pid := monitor_pid(control)) is not None:
        if time.monotonic() > deadline:
            raise UsageError(f"the monitor of run {control.run_id} does not end", remedy="try again")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)


def watched_again(
    control: ControlDir, record: RunRecord, *, at_once: bool = False, start: bool = True
) -> RunRecord:
    """The record, with `unwatched` set where a monitor is needed and none lives; another one is started then.

    Not without `start`, nor so soon after the last one, nor for a run that nobody has watched from here, such
    as one of another control node: none of that counts where it is asked for `at_once`. Where the monitor
    lives on another machine `elsewhere` is set. Raises PreflightError where it cannot be started.
    """
    if not record.needs_monitor:
        return record
    if (living := living_monitor(control)) is not None:
        return record if living.is_here else dataclasses.replace(record, elsewhere=living.host)
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


def explained(control: ControlDir, error: Exception) -> OrchestrateError:
    """Why a launch broke off, as people are told it; what nobody has foreseen is in the monitor's log."""
    if isinstance(error, OrchestrateError):
        return error
    if isinstance(error, OSError):
        return cannot_write(control, error)
    log.error("the launch broke off", exc_info=error)
    return OrchestrateError(f"internal error: {error!r}", where=str(control.monitor_log))


def _last_start(control: ControlDir) -> float:
    try:
        return os.lstat(control.monitor_lock).st_mtime
    except OSError:
        return 0.0
