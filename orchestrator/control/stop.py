"""Stop: end every worker of a run on every host. Stopping what has ended is no error.

The run's monitor does it, over the sessions that it has. Only where none lives are sessions opened for it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.config.host_ranges import fold
from orchestrator.control.held_hosts import Held
from orchestrator.control.let_go import LettingGo
from orchestrator.control.monitor_client import newest_record, stop_by_monitor
from orchestrator.control.monitor_lock import LivingMonitor, elsewhere_error, living_monitor
from orchestrator.control.monitor_process import cannot_write, watched_again
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.control.runs import interrupt_launch
from orchestrator.control.stop_progress import MARGIN, saving_line
from orchestrator.control.watch import look_once
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, HostsFailed, Interrupted, OrchestrateError, PreflightError
from orchestrator.core.host_answers import Told
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.hosts.scheduling import SYSTEM, Scheduling
from orchestrator.plan.launch_plan import LaunchPlan, read_plan

__all__ = ["Ways", "stop_everywhere", "stop_run"]

log = logging.getLogger(__name__)

# Between two looks at the hosts that are not over: soon at first, and not often where it takes long.
_SHORTEST, _LONGEST, _GROWTH = 0.1, 2.0, 1.6
_PATIENCE = 10.0
_LOOKS = 20
_PATIENCE_WITHOUT_SOCKET = 3.0


@dataclass(frozen=True)
class Ways:
    """The ways from here to a run: to its monitor, to its hosts, and to another monitor for it."""

    living: Callable[[ControlDir], LivingMonitor | None] = living_monitor
    newest: Callable[[ControlDir], RunRecord | None] = newest_record
    by_monitor: Callable[[ControlDir, StopReason], tuple[RunRecord, dict[str, OrchestrateError]] | None] = (
        stop_by_monitor
    )
    fleet: Callable[[LaunchPlan], Fleet] = lambda plan: fleet_of(plan.hosts, plan.ssh)
    watched_again: Callable[..., RunRecord] = watched_again
    scheduling: Scheduling = SYSTEM


def stop_run(
    control: ControlDir,
    reason: StopReason,
    *,
    say: Callable[[str], None] = log.warning,
    ways: Ways | None = None,
) -> RunRecord:
    """Stop the run and return its record once every reachable host has none of its workers left.

    Raises the errors of hosts that could not be reached, or where workers still live; the others are stopped
    all the same, and the run's monitor goes on trying there. `say` is told in a line what is out of the
    ordinary: a monitor that dies in the middle, or lives on another machine; that ranks save, and how long
    that may take. A reason that is `now` ends them at once, also while they do.
    """
    saving = functools.partial(_say_saving, say)
    ways = ways or Ways(by_monitor=functools.partial(stop_by_monitor, saving=saving))
    told = ways.newest(control)
    record = told or read_record(control)
    # A host that was lost may be back, with workers that nobody could tell that their run is over.
    if record.state.is_terminal and not any(view.may_have_workers for view in record.hosts.values()):
        if record.held is not None and record.held.at(ways.scheduling.time()):
            plan = read_plan(control.plan)
            with _all_hosts(plan, ways) as fleet:
                fleet.address(address_of(record))
                return _let_go(control, plan, fleet, record.held.hosts, say, ways)
        return record
    living = ways.living(control)
    # Between two attempts, and while one is launched, there is nothing that its monitor could stop.
    is_between = record.state in (RunState.PREPARING, RunState.RESTARTING)
    if living is not None and told is not None and not is_between:
        found = ways.by_monitor(control, reason)
        if found is not None:
            return _result(*found)
    if living is not None and not living.is_here:
        error = elsewhere_error(control, living)
        if living.is_sure:
            raise error
        say(f"{error}; the hosts are told from here")
    elif is_between:
        interrupt_launch(control)
    elif living is not None and _stays(control, ways):
        say("the run's monitor does not answer; the hosts are told from here")
    elif living is not None and not read_record(control).state.is_terminal:
        say("the run's monitor died while it stopped the run; the hosts are told from here")
    return _stop_from_here(control, reason, say, ways)


def _say_saving(say: Callable[[str], None], seconds: float) -> None:
    say(saving_line(seconds))


def _stays(control: ControlDir, ways: Ways) -> bool:
    """Whether the monitor is there after its line has ended: one that is killed takes a moment to go."""
    for _ in range(_LOOKS):
        if ways.living(control) is None:
            return False
        ways.scheduling.sleep(_SHORTEST)
    return True


def _result(record: RunRecord, errors: dict[str, OrchestrateError]) -> RunRecord:
    if errors:
        raise HostsFailed.of(errors)
    return record


def _stop_from_here(
    control: ControlDir, reason: StopReason, say: Callable[[str], None], ways: Ways
) -> RunRecord:
    _give_up_restart(control, ways)
    plan, scheduling = read_plan(control.plan), ways.scheduling
    patience = plan.timeouts.grace + MARGIN
    with _all_hosts(plan, ways) as fleet, fleet.part([host.name for host in plan.hosts]) as part:
        fleet.address(address_of(read_record(control)))
        deadline = scheduling.monotonic() + patience
        errors = stop_everywhere(
            part,
            plan.run_id,
            reason,
            plan.timeouts.grace,
            deadline,
            scheduling,
            saving=functools.partial(_say_saving, say),
        )
        seen = look_once(read_record(control), part, plan.timeouts, scheduling=scheduling)
        if ways.living(control) is None:
            try:
                write_record(control, seen)
            except OSError as error:
                say(f"{cannot_write(control, error)}; what the hosts say counts")
        held = read_record(control).held or Held()
        names = [*held.hosts, *(spare.name for spare in plan.spares)]
        _let_go(control, plan, fleet, names, say, ways)
    if errors:
        try:
            ways.watched_again(control, read_record(control), at_once=True)
        except OrchestrateError as error:
            say(str(error))
        raise HostsFailed.of(errors)
    record = _settled(control, scheduling.monotonic() + patience, ways)
    if seen.state.is_terminal and not record.state.is_terminal:
        # What the hosts say counts. The record is the monitor's to write, as long as it lives.
        if (living := ways.living(control)) is not None and living.is_here:
            who = f"the run's monitor (process {living.pid})"
            say(f"{who} is busy, or hangs: it has not noted the end of the run")
        return seen
    return ways.watched_again(control, record)


def _all_hosts(plan: LaunchPlan, ways: Ways) -> Fleet:
    return ways.fleet(dataclasses.replace(plan, hosts=(*plan.hosts, *plan.spares)))


def _let_go(
    control: ControlDir,
    plan: LaunchPlan,
    fleet: Fleet,
    names: Iterable[str],
    say: Callable[[str], None],
    ways: Ways,
) -> RunRecord:
    """Have these hosts let go of what they hold for the run, which its monitor may do as well; the record."""
    asked = LettingGo(fleet, plan.run_id, names, [spare.name for spare in plan.spares])
    left = asked.step(plan.timeouts.connect + _PATIENCE)
    asked.close()
    record = read_record(control)
    if record.held is not None and ways.living(control) is None:
        record = dataclasses.replace(record, held=dataclasses.replace(record.held, hosts=left))
        try:
            write_record(control, record)
        except OSError as error:
            say(str(cannot_write(control, error)))
    if left:
        until = f"{plan.restart.lease:g} s after they last heard of it"
        say(f"{fold(left)} do not answer: what they hold for the run they let go of {until}")
    return record


def _give_up_restart(control: ControlDir, ways: Ways) -> None:
    """Between two attempts, have no other one begin. Written first: then no monitor goes on with the run."""
    record = read_record(control)
    if record.state is not RunState.RESTARTING or ways.living(control) is not None:
        return
    now, state = ways.scheduling.time(), RunState.STOPPED
    code = Interrupted.exit_code
    plan = read_plan(control.plan)
    held = Held(tuple(host.name for host in (*plan.hosts, *plan.spares)), now + plan.restart.lease)
    stopped = dataclasses.replace(
        record, state=state, phase=str(state), updated=now, ended=now, exit_code=code, held=held
    )
    try:
        write_record(control, stopped)
    except OSError as error:
        raise cannot_write(control, error) from error


def stop_everywhere(
    fleet: Fleet,
    run_id: str,
    reason: StopReason,
    grace: float,
    deadline: float,
    scheduling: Scheduling = SYSTEM,
    *,
    saving: Callable[[float], None] = lambda seconds: None,
) -> dict[str, OrchestrateError]:
    """Have all hosts stop their workers and wait until they are over; why one is not, by host.

    `deadline`, of the scheduling's monotonic clock, is that of the first host; the time that it gives begins
    anew with each that is over, so that one that vanishes, or many that are busy, take nothing from others.
    Where ranks save, `saving` is told how long that may take, and it is waited for so long.
    """
    patience = deadline - scheduling.monotonic()
    told = fleet.each(lambda agent: _tell(agent, run_id, reason))
    saves = [each.grace for each in told.values.values() if each is not None and each.saves and each.grace]
    if saves and not reason.now:
        grace = max(grace, *saves)
        patience = max(patience, grace + MARGIN)
        deadline = scheduling.monotonic() + patience
        saving(grace)
    errors, left, pause = dict(told.errors), list(told.values), _SHORTEST
    while left:
        looked = scheduling.monotonic()
        answers = fleet.each(lambda agent: _is_over(agent, run_id), left)
        errors.update(answers.errors)
        before, left = len(left), [name for name, is_over in answers.values.items() if not is_over]
        if len(left) < before:
            deadline, pause = scheduling.monotonic() + patience, _SHORTEST
        elif looked > deadline:
            break
        if left:
            scheduling.sleep(pause)
            pause = min(_LONGEST, pause * _GROWTH)
    for name in left:
        errors[name] = PreflightError(f"workers still run after {grace:g} s of grace", where=name)
    return errors


def _settled(control: ControlDir, deadline: float, ways: Ways) -> RunRecord:
    """The record once the monitor has noticed the end; one that does not answer is not waited for."""
    blind = ways.scheduling.monotonic() + _PATIENCE_WITHOUT_SOCKET
    told = ways.newest(control)
    while not (told or read_record(control)).state.is_terminal and ways.scheduling.monotonic() < deadline:
        living = ways.living(control)
        if living is None or not living.is_here:
            break
        if told is None and ways.scheduling.monotonic() > blind:
            break  # it has no socket, or hangs
        ways.scheduling.sleep(_SHORTEST)
        told = ways.newest(control)
    # The last it says may be on disk alone: it ends then.
    on_disk = read_record(control)
    return on_disk if told is None or on_disk.state.is_terminal else told


def _tell(agent: Agent, run_id: str, reason: StopReason) -> Told | None:
    try:
        return agent.stop(run_id, reason, timeout=_PATIENCE)
    except AgentError as error:
        if error.kind != "no_run":
            raise
        return None


def _is_over(agent: Agent, run_id: str) -> bool:
    try:
        return agent.status(run_id, timeout=_PATIENCE).is_over
    except AgentError as error:
        if error.kind != "no_run":
            raise
        return True
