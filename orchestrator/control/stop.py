"""Stop: end every worker of a run on every host. Stopping what has ended is no error."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.control.monitor_process import monitor_pid
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.control.runs import interrupt_launch
from orchestrator.control.watch import look_once
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["stop_run"]

_INTERVAL = 0.2
_MARGIN = 20.0


def stop_run(
    control: ControlDir, reason: StopReason, *, clock: Callable[[], float] = time.monotonic
) -> RunRecord:
    """Stop the run and return its record once every reachable host has none of its workers left.

    Raises the errors of hosts that could not be reached; the others are stopped all the same.
    """
    record = read_record(control)
    # A host that was lost may be back, with workers that nobody could tell that their run is over.
    if record.state.is_terminal and not any(view.lost for view in record.hosts.values()):
        return record
    plan = read_plan(control.plan)
    deadline = clock() + plan.timeouts.grace + _MARGIN
    if record.state is RunState.PREPARING:
        interrupt_launch(control)
        record = read_record(control)
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        told = fleet.each(lambda agent: _tell(agent, plan.run_id, reason))
        waiting = list(told.values)
        while waiting and clock() < deadline:
            answers = fleet.each(lambda agent: _is_over(agent, plan.run_id), waiting)
            waiting = [host for host in waiting if not answers.values.get(host, host in answers.errors)]
            time.sleep(_INTERVAL)
        if monitor_pid(control) is None and not record.state.is_terminal:
            record = look_once(record, fleet, plan.timeouts)
            write_record(control, record)
    told.raise_on_error()
    if waiting:
        raise OrchestrateError(
            f"workers still run after {plan.timeouts.grace:g} s of grace", where=", ".join(waiting)
        )
    return _settled(control, deadline, clock)


def _settled(control: ControlDir, deadline: float, clock: Callable[[], float]) -> RunRecord:
    """The record once the monitor has noticed the end."""
    record = read_record(control)
    while not record.state.is_terminal and monitor_pid(control) is not None and clock() < deadline:
        time.sleep(_INTERVAL)
        record = read_record(control)
    return record


def _tell(agent: Agent, run_id: str, reason: StopReason) -> None:
    try:
        agent.stop(run_id, reason)
    except AgentError as error:
        if error.kind != "no_run":
            raise


def _is_over(agent: Agent, run_id: str) -> bool:
    try:
        return agent.status(run_id).is_over
    except AgentError as error:
        if error.kind != "no_run":
            raise
        return True
