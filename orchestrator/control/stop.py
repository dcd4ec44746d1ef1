"""Stop: end every worker of a run on every host. Stopping what has ended is no error."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.control.monitor_process import monitor_pid, watched_again
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.control.runs import interrupt_launch
from orchestrator.control.watch import look_once
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, HostsFailed, OrchestrateError, PreflightError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["stop_everywhere", "stop_run"]

_INTERVAL = 0.2
_MARGIN = 20.0
_PATIENCE = 10.0


def stop_run(
    control: ControlDir, reason: StopReason, *, clock: Callable[[], float] = time.monotonic
) -> RunRecord:
    """Stop the run and return its record once every reachable host has none of its workers left.

    Raises the errors of hosts that could not be reached, or where workers still live; the others are stopped
    all the same, and the run's monitor goes on trying there.
    """
    record = read_record(control)
    # A host that was lost may be back, with workers that nobody could tell that their run is over.
    if record.state.is_terminal and not any(view.may_have_workers for view in record.hosts.values()):
        return record
    plan = read_plan(control.plan)
    deadline = clock() + plan.timeouts.grace + _MARGIN
    if record.state is RunState.PREPARING:
        interrupt_launch(control)
        record = read_record(control)
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        errors = stop_everywhere(fleet, plan.run_id, reason, plan.timeouts.grace, deadline, clock)
        if monitor_pid(control) is None:
            record = look_once(record, fleet, plan.timeouts)
            write_record(control, record)
    if errors:
        watched_again(control, record, at_once=True)
        raise HostsFailed.of(errors)
    return watched_again(control, _settled(control, deadline, clock))


def stop_everywhere(
    fleet: Fleet,
    run_id: str,
    reason: StopReason,
    grace: float,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, OrchestrateError]:
    """Have all hosts stop their workers and wait for each by itself; why it is not over, by host.

    So a host that vanishes meanwhile keeps nobody from being seen to have ended.
    """

    def wait(agent: Agent) -> None:
        while not _is_over(agent, run_id):
            if clock() > deadline:
                what = f"workers still run after {grace:g} s of grace"
                raise PreflightError(what, where=agent.host)
            time.sleep(_INTERVAL)

    told = fleet.each(lambda agent: _tell(agent, run_id, reason))
    return {**told.errors, **fleet.each(wait, told.values).errors}


def _settled(control: ControlDir, deadline: float, clock: Callable[[], float]) -> RunRecord:
    """The record once the monitor has noticed the end."""
    record = read_record(control)
    while not record.state.is_terminal and monitor_pid(control) is not None and clock() < deadline:
        time.sleep(_INTERVAL)
        record = read_record(control)
    return record


def _tell(agent: Agent, run_id: str, reason: StopReason) -> None:
    try:
        agent.stop(run_id, reason, timeout=_PATIENCE)
    except AgentError as error:
        if error.kind != "no_run":
            raise


def _is_over(agent: Agent, run_id: str) -> bool:
    try:
        return agent.status(run_id, timeout=_PATIENCE).is_over
    except AgentError as error:
        if error.kind != "no_run":
            raise
        return True
