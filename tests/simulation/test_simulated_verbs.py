"""Verbs at simulated runs of 200 hosts: the real stop and the real look, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.control.run_record import read_record
from orchestrator.control.stop import Ways, stop_run
from orchestrator.control.watch import look_once
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import HostsFailed, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RankState, RunState
from orchestrator.plan.launch_plan import read_plan
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import Simulation
from orchestrator.simulation.workload import Workload
from tests.simulation.simulated import Runs, plan_of

HOSTS = 200
AT = 60.0  # all make steps
HOURS = 0.045
NAMES = [f"node{number:04d}" for number in range(1, HOSTS + 1)]
SILENT = NAMES[::20]
BY_ME = StopReason.requested("stopped by me")
DEAD = {RankState.UNREACHABLE, RankState.LOST}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("verbs")
    return Runs(plan_of(folder, HOSTS, 1), folder)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Where it is not their number that matters."""
    folder = tmp_path_factory.mktemp("few")
    return Runs(plan_of(folder, 20, 1), folder)


class Stop:
    """Somebody's `orchestrate stop`, and what came of it."""

    def __init__(self, simulation: Simulation, time: float = AT) -> None:
        self.seconds = 0.0
        self.errors: dict[str | None, OrchestrateError] = {}
        self.said: list[str] = []
        simulation.at(time, self._give)

    def _give(self, control: ControlDir, ways: Ways) -> None:
        begun = ways.scheduling.monotonic()
        try:
            self.record = stop_run(control, BY_ME, say=self.said.append, ways=ways)
        except OrchestrateError as failed:
            of_host = failed.errors if isinstance(failed, HostsFailed) else {failed.where: failed}
            self.errors = dict(of_host)
            self.record = read_record(control)
        self.seconds = ways.scheduling.monotonic() - begun


def silent(names: Sequence[str], time: float) -> list[Fault]:
    return [Fault(time=time, kind="partition", host=name) for name in names]


def states_of(simulation: Simulation, stop: Stop) -> dict[str, RankState]:
    assert stop.record is not None
    return {name: rank.state for name, view in stop.record.hosts.items() for rank in view.ranks()}


LONG = Workload(peer_timeout=3600.0)


def test_a_stop_by_the_monitor_at_200_hosts(runs: Runs) -> None:
    simulation = runs.simulation(workload=LONG, hours=HOURS)
    stop = Stop(simulation)
    found = simulation.run()
    assert (stop.errors, stop.said) == ({}, []) and stop.seconds <= 10.0
    assert (stop.record.state, stop.record.exit_code) == (RunState.STOPPED, 5)
    assert set(states_of(simulation, stop).values()) == {RankState.STOPPED} and found.orphans == ()
    assert found.traffic.connections == HOSTS  # no sessions of its own


def test_a_stop_where_no_monitor_lives(few: Runs) -> None:
    simulation = few.simulation(
        Fault(time=AT - 1, kind="monitor_kill", seconds=7200.0), workload=LONG, hours=HOURS
    )
    stop = Stop(simulation)
    found = simulation.run()
    assert stop.errors == {} and stop.seconds <= 10.0
    assert (stop.record.state, stop.record.exit_code) == (RunState.STOPPED, 5)
    assert set(states_of(simulation, stop).values()) == {RankState.STOPPED} and found.orphans == ()
    assert found.traffic.connections == 2 * 20


@pytest.mark.parametrize("monitor", ["lives", "is dead"])
def test_hosts_that_never_answer_hold_up_nobody_else_and_nobody_else_is_accused(
    runs: Runs, monitor: str
) -> None:
    faults = silent(SILENT, AT - 30)
    if monitor == "is dead":
        faults.append(Fault(time=AT - 1, kind="monitor_kill", seconds=7200.0))
    simulation = runs.simulation(*faults, workload=LONG, hours=HOURS)
    stop = Stop(simulation)
    found = simulation.run()
    stopped_at = {each.host: each.time for each in found.happenings if each.what.startswith("stopped")}
    assert set(stop.errors) == set(SILENT)
    states = states_of(simulation, stop)
    healthy = [name for name in NAMES if name not in SILENT]
    assert {states[name] for name in healthy} == {RankState.STOPPED}
    assert all(states[name] in DEAD for name in SILENT)
    living = {there.name for there, _ in simulation.cluster.processes}
    assert living <= set(SILENT)
    if monitor == "lives":
        assert max(stopped_at[name] for name in healthy) - AT <= 10.0


def test_a_host_that_vanishes_meanwhile_is_named_alone(few: Runs) -> None:
    simulation = few.simulation(
        Fault(time=AT + 0.05, kind="power_off", host=NAMES[7]),
        workload=Workload(term=2.0, peer_timeout=3600.0),
        hours=HOURS,
    )
    stop = Stop(simulation)
    found = simulation.run()
    [(name, error)] = stop.errors.items()
    assert name == NAMES[7] and "still run" not in str(error)  # nobody has seen that
    states = states_of(simulation, stop)
    states.pop(NAMES[7])
    assert set(states.values()) == {RankState.STOPPED} and found.orphans == ()
    assert {rank.state for rank in found.record.hosts[NAMES[7]].ranks()} <= DEAD  # once that is known


@pytest.mark.parametrize("after", [0.05, 2.5])
def test_a_monitor_that_dies_meanwhile_is_not_waited_for(few: Runs, after: float) -> None:
    simulation = few.simulation(
        Fault(time=AT + after, kind="monitor_kill", seconds=7200.0),
        workload=Workload(term=3.0, peer_timeout=3600.0),
        hours=HOURS,
    )
    stop = Stop(simulation)
    found = simulation.run()
    assert stop.errors == {} and stop.seconds <= 10.0
    assert stop.said == ["the run's monitor died while it stopped the run; the hosts are told from here"]
    assert stop.record.state is RunState.STOPPED and found.orphans == ()
    assert set(states_of(simulation, stop).values()) == {RankState.STOPPED}


def test_a_look_without_a_monitor_judges_nobody_and_stops_nobody(runs: Runs) -> None:
    simulation = runs.simulation(
        Fault(time=AT - 1, kind="monitor_kill", seconds=7200.0),
        *silent(SILENT, AT - 30),
        workload=LONG,
        hours=HOURS,
    )
    seen = []

    def look(control: ControlDir, ways: Ways) -> None:
        plan, begun = read_plan(control.plan), ways.scheduling.monotonic()
        with ways.fleet(plan) as fleet:
            found = look_once(read_record(control), fleet, plan.timeouts, scheduling=ways.scheduling)
        seen.append((found, ways.scheduling.monotonic() - begun))

    simulation.at(AT, look)
    simulation.run()
    [(record, seconds)] = seen
    plan = runs.plan
    assert seconds <= plan.timeouts.connect + 10.0 + 1.0
    assert record.state is RunState.RUNNING and record.cause is None
    states = {name: {rank.state for rank in view.ranks()} for name, view in record.hosts.items()}
    assert all(states[name] == {RankState.UNREACHABLE} for name in SILENT)
    assert all(states[name] == {RankState.RUNNING} for name in NAMES if name not in SILENT)
    assert len(simulation.cluster.processes) >= HOSTS
