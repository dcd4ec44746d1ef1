"""Attempts of simulated runs: one more begins, a second control node takes over, who was away comes back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.control.monitor import Monitor
from orchestrator.control.next_attempt import put_next_in_force
from orchestrator.control.our_claim import take_over
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.control.runs import make_control_dir
from orchestrator.control.stop import Ways, stop_run
from orchestrator.core.claims import NO_CLAIM
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import HostsFailed, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt
from orchestrator.core.states import RunState
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from orchestrator.simulation.cluster import SimAllocation
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.sim_process import SimRun
from orchestrator.simulation.simulate import Simulation
from orchestrator.simulation.workload import Workload
from tests.simulation.simulated import plan_of

CASES = int(os.environ.get("VERDICTS", "30")) // 2
FAILS, GOES_ON = 50.0, 70.0
SHORT, LONG = Workload(steps=60, peer_timeout=120.0), Workload(peer_timeout=3600.0)
# A host that is back may compute until it is asked for the first time.
CONTACT = 40.0
HOSTS = ("node0001", "node0002", "node0003")


class Lived:
    """A simulation of a plan with what people do in it, and a look every second at who computes."""

    def __init__(
        self, plan: LaunchPlan, folder: Path, *faults: Fault, workload: Workload = SHORT, hours: float = 0.2
    ) -> None:
        self.plan, self.folder = plan, folder
        self.simulation = Simulation(
            plan, folder, faults=faults, workload=workload, hours=hours, jumps=False, after=1e6
        )
        self.cluster = self.simulation.cluster
        self.both: list[float] = []  # when two attempts computed on hosts that answer
        self.errors: list[OrchestrateError] = []
        self.firsts: dict[str, SimRun] = {}
        self.record: RunRecord | None = None
        self.simulation.world.after(1.0, self._look)

    def _look(self) -> None:
        self.simulation.world.after(1.0, self._look)
        found = set()
        for name, there in self.cluster.hosts.items():
            for run in there.runs.values():
                if run.manifest.attempt.number == 1:
                    self.firsts.setdefault(name, run)
                processes = run.supervisor.processes.values() if run.supervisor is not None else ()
                if there.is_on and not there.link.is_silent and any(each.is_running for each in processes):
                    found.add(run.manifest.attempt)
        if len(found) > 1:
            self.both.append(self.simulation.world.true_now)

    def at(self, time: float, verb: Callable[[ControlDir, Ways], None]) -> None:
        def tried(control: ControlDir, ways: Ways) -> None:
            try:
                verb(control, ways)
            except OrchestrateError as error:
                self.errors.append(error)

        self.simulation.at(time, tried)

    def go_on(self, time: float, plan: LaunchPlan, where: ControlDir | None = None) -> None:
        """Somebody has the next attempt started, and its monitor watches it."""

        def begin(control: ControlDir, ways: Ways) -> None:
            monitor = self.simulation._monitor
            if where is None and monitor is not None and monitor.is_alive:
                self.simulation.world.kill(monitor)  # as `start_next_attempt` ends it
            control = where or control
            put_next_in_force(control, read_record(control), plan, ways.scheduling.time())
            self.monitor(control, ways, watch_only=False)

        self.at(time, begin)

    def monitor(self, control: ControlDir, ways: Ways, *, watch_only: bool) -> None:
        names = [host.name for host in read_plan(control.plan).hosts]
        allocation = Some(self.cluster, ways.scheduling, 5.0, names=tuple(names))
        Monitor(
            control,
            allocation,
            scheduling=ways.scheduling,
            fleet_of=lambda hosts, ssh: self.cluster.fleet(ways.scheduling, timeout=5.0),
            told=self._told,
        ).run(watch_only=watch_only)

    def _told(self, record: RunRecord) -> None:
        self.record = record

    def run(self) -> RunRecord:
        """The record of the control node that launched, at the end."""
        self.simulation.run()
        assert self.simulation.world.lost_errors == []
        return read_record(self.control)

    @property
    def control(self) -> ControlDir:
        return ControlDir(self.folder / "runs" / self.plan.run_id)

    def chain(self, host: str) -> list[SimRun]:
        """The attempts that this host has, the newest first."""
        found, run = [], self.cluster.hosts[host].runs.get(self.plan.run_id)
        while run is not None:
            found.append(run)
            run = run.before
        return found


@dataclasses.dataclass(frozen=True)
class Some(SimAllocation):
    """Some of the hosts of the cluster."""

    names: tuple[str, ...] = ()

    def fleet(self) -> Fleet:
        return super().fleet().part(self.names)


def attempt_of(plan: LaunchPlan, number: int, token: str, run_id: str = "") -> LaunchPlan:
    attempt, name = Attempt(number, token), run_id or plan.run_id
    manifests = {
        host: dataclasses.replace(manifest, attempt=attempt, run_id=name)
        for host, manifest in plan.manifests.items()
    }
    return dataclasses.replace(plan, attempt=attempt, run_id=name, manifests=manifests)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LaunchPlan:
    return plan_of(tmp_path_factory.mktemp("attempts"))


FAILURE = Fault(time=FAILS, kind="exit", rank=1, code=3)


def test_a_run_that_has_failed_goes_on_as_its_second_attempt(plan: LaunchPlan, tmp_path: Path) -> None:
    lived = Lived(plan, tmp_path, FAILURE)
    lived.go_on(GOES_ON, attempt_of(plan, 2, "two"))
    record = lived.run()
    assert (lived.errors, lived.both) == ([], [])
    assert (record.state, record.exit_code, record.refused) == (RunState.SUCCEEDED, 0, None)
    first, second = record.attempts
    assert (first.number, first.state, second.number, second.state) == (
        1,
        RunState.FAILED,
        2,
        RunState.SUCCEEDED,
    )
    assert first.cause is not None and first.cause.rank == 1 and first.left == ()
    assert (first.hosts, first.last_step is None) == (HOSTS, False)
    assert [run.manifest.attempt.number for run in lived.chain("node0001")] == [2, 1]
    assert read_plan(lived.control.plan).attempt.number == 2
    assert read_plan(lived.control.plan_of(1)).attempt.number == 1


@pytest.mark.parametrize("after", [0.1, 0.4, 0.7, 1.0, 1.15, 1.25, 1.3])
def test_a_launch_that_comes_to_nothing_leaves_the_record_as_it_was(
    plan: LaunchPlan, tmp_path: Path, after: float
) -> None:
    """A host loses its power in the middle, also between start and commit; once it is back, all goes well."""
    off = Fault(time=GOES_ON + after, kind="power_off", host="node0002", seconds=60.0)
    lived = Lived(plan, tmp_path, FAILURE, off)
    kept: list[RunRecord] = []
    lived.at(GOES_ON - 1, lambda control, ways: kept.append(read_record(control)))
    lived.go_on(GOES_ON, attempt_of(plan, 2, "two"))
    lived.at(GOES_ON + 59, lambda control, ways: kept.append(read_record(control)))
    lived.go_on(GOES_ON + 150, attempt_of(plan, 2, "again"))
    record = lived.run()
    before, between = kept
    if between.refused is not None:
        assert between.refused.number == 2 and between.refused.errors and between.refused.exit_code in (3, 4)
        changed = {"refused": None, "watched": before.watched}
        assert dataclasses.replace(between, **changed) == before  # type: ignore[arg-type]
        assert record.state is RunState.SUCCEEDED and [each.token for each in record.attempts] == [
            plan.attempt.token,
            "again",
        ]
    else:  # it came when all had been started
        assert between.attempts[-1].number == 2 and "stopped" not in str(record.state)
    assert lived.both == []
    for name, first in lived.firsts.items():
        assert lived.chain(name)[-1] is first and first.status is not None and first.status.is_over


def test_a_lost_host_that_returns_learns_that_its_attempt_is_over(plan: LaunchPlan, tmp_path: Path) -> None:
    """The next attempt runs on the two others."""
    (tmp_path / "two").mkdir()
    fewer = attempt_of(plan_of(tmp_path / "two", 2), 2, "two", plan.run_id)
    gone = Fault(time=FAILS, kind="partition", host="node0003", seconds=400.0)
    lived = Lived(plan, tmp_path, gone, Fault(time=FAILS + 1, kind="exit", rank=1, code=3), workload=LONG)
    lived.go_on(FAILS + 100, fewer)
    record = lived.run()
    assert lived.errors == [] and record.state is RunState.RUNNING
    assert record.attempts[0].left == () and set(record.hosts) == {"node0001", "node0002"}
    assert lived.both == [] or max(lived.both) - (FAILS + 400) <= CONTACT
    assert {there.name for there, _ in lived.cluster.processes} == {"node0001", "node0002"}
    assert lived.cluster.hosts["node0003"].busy_devices([0, 1]) == []


def test_the_launch_of_another_run_frees_hosts_of_one_that_has_ended(
    plan: LaunchPlan, tmp_path: Path
) -> None:
    """Nobody has told the hosts: the record says that the run has ended, and its monitor is dead."""
    lived = Lived(plan, tmp_path, Fault(time=FAILS, kind="monitor_kill", seconds=1e5), workload=LONG)
    other = make_control_dir(attempt_of(plan, 1, "other", "other-run"), tmp_path)

    def end(control: ControlDir, ways: Ways) -> None:
        now, record = ways.scheduling.time(), read_record(control)
        write_record(control, dataclasses.replace(record, state=RunState.FAILED, ended=now, exit_code=1))

    lived.at(100.0, end)
    lived.at(120.0, lambda control, ways: lived.monitor(other, ways, watch_only=False))
    lived.run()
    assert lived.errors == []
    assert read_record(other).state is RunState.RUNNING, read_record(other).errors
    hosts = lived.cluster.hosts.values()
    assert {run.manifest.run_id for there in hosts for run in there.runs.values() if _lives(run)} == {
        "other-run"
    }


def _lives(run: SimRun) -> bool:
    return run.supervisor is not None and run.supervisor.is_alive


def watcher(plan: LaunchPlan, folder: Path) -> ControlDir:
    """A second control node, which knows the run from its hosts."""
    return make_control_dir(plan, folder, NO_CLAIM)


def taking_over(lived: Lived, control: ControlDir) -> Callable[[ControlDir, Ways], None]:
    def take(_: ControlDir, ways: Ways) -> None:
        with ways.fleet(lived.plan) as fleet:
            take_over(control, fleet)
        lived.monitor(control, ways, watch_only=True)

    return take


BY_ME = StopReason.requested("stopped by me")


def test_a_second_control_node_takes_over_and_the_first_is_refused(plan: LaunchPlan, tmp_path: Path) -> None:
    lived = Lived(plan, tmp_path / "first", workload=LONG)
    other = watcher(plan, tmp_path / "second")
    seen: list[object] = []

    def refused(control: ControlDir, ways: Ways) -> None:
        with pytest.raises(HostsFailed) as caught:
            stop_run(control, BY_ME, ways=ways)
        seen.extend([*caught.value.hosts_by_message(), caught.value.exit_code, len(lived.cluster.processes)])

    lived.at(40.0, taking_over(lived, other))
    lived.at(60.0, refused)
    lived.at(90.0, lambda control, ways: stop_run(other, BY_ME, ways=without_monitor(ways)) and None)
    record = lived.run()
    assert lived.errors == []
    message, code, running = seen
    assert f"{tmp_path / 'second'}" in str(message) and "(claim 2)" in str(message)
    assert code == 4 and running == 7  # six ranks and their scheduler
    assert (record.state, read_record(other).state) == (RunState.STOPPED, RunState.STOPPED)
    assert lived.cluster.processes == []


def without_monitor(ways: Ways) -> Ways:
    return dataclasses.replace(
        ways,
        living=lambda control: None,
        newest=lambda control: None,
        watched_again=lambda _, record, **__: record,
    )


def test_who_only_watches_stops_nobody(plan: LaunchPlan, tmp_path: Path) -> None:
    lived = Lived(plan, tmp_path / "first", workload=LONG)
    other = watcher(plan, tmp_path / "second")
    lived.at(40.0, lambda control, ways: stop_run(other, BY_ME, ways=without_monitor(ways)) and None)
    record = lived.run()
    (error,) = lived.errors
    assert "is in the hands of" in str(error) and error.exit_code == 4
    assert record.state is RunState.RUNNING


def test_a_control_node_that_comes_back_late_harms_nobody(plan: LaunchPlan, tmp_path: Path) -> None:
    """It was away while another took the run over, which failed there and went on as its second attempt."""
    away = Fault(time=40.0, kind="monitor_kill", seconds=260.0)
    lived = Lived(
        plan, tmp_path / "first", away, Fault(time=100.0, kind="exit", rank=1, code=3), workload=LONG
    )
    other = watcher(plan, tmp_path / "second")
    lived.at(60.0, taking_over(lived, other))
    lived.go_on(150.0, attempt_of(plan, 2, "two"), other)

    def stop(control: ControlDir, ways: Ways) -> None:
        stop_run(control, BY_ME, ways=ways)

    lived.at(320.0, stop)
    lived.at(400.0, lambda control, ways: stop_run(control, BY_ME, ways=without_monitor(ways)) and None)
    lived.run()
    assert lived.both == []
    assert read_record(other).state is RunState.RUNNING and read_record(other).attempts[-1].number == 2
    running = {process.rank for _, process in lived.cluster.processes}
    assert running == {-1, 0, 1, 2, 3, 4, 5}


def test_two_control_nodes_do_not_both_have_the_next_attempt(plan: LaunchPlan, tmp_path: Path) -> None:
    """At the same moment: the hosts take one of them, by its claim."""
    lived = Lived(plan, tmp_path / "first", FAILURE, workload=LONG)
    other = watcher(plan, tmp_path / "second")
    lived.at(40.0, taking_over(lived, other))
    lived.go_on(GOES_ON, attempt_of(plan, 2, "theirs"))
    lived.go_on(GOES_ON + 0.01, attempt_of(plan, 2, "ours"), other)
    record = lived.run()
    assert lived.both == []
    assert record.attempts[-1].number == 1 and record.refused is not None
    assert "is in the hands of" in " ".join(record.refused.errors)
    assert read_record(other).attempts[-1].token == "ours" and read_record(other).state is RunState.RUNNING
    assert {run.manifest.attempt.token for name in HOSTS for run in lived.chain(name)[:1]} == {"ours"}


# Whatever befalls the hosts while another attempt begins.

faults = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["partition", "power_off", "reboot", "fill_disk", "refuse_login", "slow"]),
        "host": st.sampled_from(HOSTS),
        "scope": st.sampled_from(["control", "all"]),
    }
)
times = st.one_of(st.floats(FAILS - 5, GOES_ON), st.floats(GOES_ON, GOES_ON + 1.6), st.floats(GOES_ON, 200.0))
lasts = st.sampled_from([0.3, 3.0, 20.0, 90.0, 300.0])


@st.composite
def schedules(draw: st.DrawFn) -> Sequence[Fault]:
    what = draw(st.lists(faults, min_size=1, max_size=3))
    return tuple(Fault(time=draw(times), seconds=draw(lasts), **each) for each in what)


@settings(
    max_examples=CASES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(schedules())
def test_there_are_never_two_attempts_and_the_first_is_never_lost(
    plan: LaunchPlan, tmp_path_factory: pytest.TempPathFactory, befall: Sequence[Fault]
) -> None:
    lived = Lived(plan, tmp_path_factory.mktemp("drawn"), FAILURE, *befall)
    lived.go_on(GOES_ON, attempt_of(plan, 2, "two"))
    record = lived.run()
    ends = [fault.time + (fault.seconds or 0.0) for fault in befall]
    assert all(any(0 <= time - end <= CONTACT for end in ends) for time in lived.both), lived.both
    for name, first in lived.firsts.items():
        assert lived.chain(name)[-1] is first
    if record.attempts[-1].number == 1 and record.state.is_terminal and record.refused is not None:
        left = {there.name for there, process in lived.cluster.processes if not there.link.is_silent}
        assert left == set()
    assert record.state is not RunState.STOPPED


@pytest.mark.parametrize("when", [0.9, 1.05, 1.15, 1.25, 1.35])
def test_without_power_and_monitor_between_start_and_commit_a_run_fails_and_says_why(
    plan: LaunchPlan, tmp_path: Path, when: float
) -> None:
    """The monitor is back when the leases are over, the host before that."""
    dead = Fault(time=when, kind="monitor_kill", seconds=90.0)
    off = Fault(time=when + 0.005, kind="power_off", host="node0002", seconds=20.0)
    record = Lived(plan, tmp_path, dead, off, hours=0.1).run()
    assert record.state is RunState.FAILED and record.exit_code != 0
    assert record.errors or record.cause is not None
