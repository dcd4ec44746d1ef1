"""Status: the record of a run as it is now, from its monitor or, where that is gone, from the hosts."""

from __future__ import annotations

import time

from orchestrator.errors import RunNotFound
from orchestrator.fleet import fleet_of
from orchestrator.launch_plan import read_plan
from orchestrator.layout import ControlDir
from orchestrator.monitor.process import monitor_pid, spawn_monitor
from orchestrator.monitor.record import RunRecord, read_record, write_record
from orchestrator.monitor.watch import look_once
from orchestrator.states import RunState

__all__ = ["attach", "current_record", "load_record"]


def load_record(control: ControlDir) -> RunRecord:
    """The record as last written."""
    try:
        return read_record(control)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunNotFound(
            f"the record of run {control.run_id} cannot be read: {error}",
            remedy="delete its directory and use `orchestrate runs --rediscover`",
            where=str(control.record),
        ) from error


def current_record(control: ControlDir) -> RunRecord:
    """The record, brought up to date by asking the hosts if no monitor does that."""
    record = load_record(control)
    if record.state.is_terminal or monitor_pid(control) is not None:
        return record
    plan = read_plan(control.plan)
    # What a monitor had begun when it died, the hosts undo by themselves when the lease is over.
    if record.state is RunState.PREPARING and time.time() < record.updated + plan.timeouts.prepare:
        return record
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        record = look_once(record, fleet, plan.timeouts)
    write_record(control, record)
    return record


def attach(control: ControlDir) -> None:
    """Make sure that a run which has not ended has a monitor."""
    if not load_record(control).state.is_terminal and monitor_pid(control) is None:
        spawn_monitor(control, watch_only=True)
