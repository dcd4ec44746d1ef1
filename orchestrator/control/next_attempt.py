"""The next attempt of a run that has ended: what `resume` hands over when its plan is complete."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from orchestrator.control.attempts import keep_record, next_record
from orchestrator.control.monitor_process import cannot_write, end_monitor, spawn_monitor
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.control.runs import current_record, interrupt_launch
from orchestrator.core.errors import UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan

__all__ = ["plan_in_force", "put_next_in_force", "start_next_attempt"]


def start_next_attempt(control: ControlDir, plan: LaunchPlan) -> None:
    """Put the plan's attempt in force here, and hand it to a monitor; the record tells how it goes.

    `plan.attempt` has the number after that of the attempt in force, and a token of its own. Where its launch
    comes to nothing the record is again as it was before, and `refused` of it says why. Raises UsageError for
    a run that has not ended, or another number; TransportError where its monitor lives on another machine;
    PreflightError where nothing can be written here. Then nothing has changed.
    """
    with _alone(control):
        _start(control, plan)


@contextlib.contextmanager
def _alone(control: ControlDir) -> Iterator[None]:
    """Nobody else here begins an attempt of this run: of two at once the later would end the monitor that the
    other has just started, and undo its launch."""
    handle = os.open(control.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system that knows no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _start(control: ControlDir, plan: LaunchPlan) -> None:
    record = current_record(control)
    if record.state.is_terminal:
        end_monitor(control)  # it may live on, for hosts that were lost: the next one looks after them
        record = read_record(control)
    before = record.attempts[-1].number
    try:
        put_next_in_force(control, record, plan, time.time())
        spawn_monitor(control)
    except OSError as error:
        _take_back(control, record, before)
        raise cannot_write(control, error) from error
    except KeyboardInterrupt:
        # Before the monitor was told to begin: else the run would be `preparing` for a while.
        if read_record(control).attempts[-1].number == plan.attempt.number:
            interrupt_launch(control, begun=False)
        raise


def put_next_in_force(control: ControlDir, record: RunRecord, plan: LaunchPlan, now: float) -> None:
    """Write down that the attempt of this plan is the one in force, which nobody has started yet.

    Raises UsageError where it cannot follow; OSError.
    """
    if not record.state.is_terminal and record.state is not RunState.RESTARTING:
        raise UsageError(
            f"run {record.run_id} is {record.state}", remedy=f"`orchestrate stop {record.run_id}` ends it"
        )
    last = record.attempts[-1]
    if plan.run_id != record.run_id or plan.attempt.number != last.number + 1:
        what = f"attempt {plan.attempt.number} of {plan.run_id} cannot follow"
        raise UsageError(f"{what} attempt {last.number} of {record.run_id}")
    if control.in_force is None:
        raise UsageError(
            f"run {record.run_id} was launched by an older version, in which a run has one attempt alone",
            remedy="collect its checkpoint and launch the job anew with it",
        )
    keep_record(control, record)
    control.folder_of(plan.attempt.number).mkdir(mode=0o700, exist_ok=True)
    write_plan(control.plan_of(plan.attempt.number), plan)
    # The record first: where it ends here, who looks next finds which attempt it is of (`Monitor`).
    write_record(control, next_record(record, plan, now))
    control.put_in_force(plan.attempt.number)


def plan_in_force(control: ControlDir, record: RunRecord) -> LaunchPlan:
    """The plan of the attempt that the record is of, which counts: who wrote both may have died between."""
    number = record.attempts[-1].number
    if control.in_force not in (None, number) and control.plan_of(number).exists():
        control.put_in_force(number)
    return read_plan(control.plan)


def _take_back(control: ControlDir, record: RunRecord, number: int) -> None:
    # The disk may take nothing: then the monitor that is started next finds a launch, and takes it back.
    with contextlib.suppress(OSError):
        write_record(control, record)
        control.put_in_force(number)
        control.discard(number + 1)
