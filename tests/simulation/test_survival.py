"""Simulated runs that go on by themselves: what must hold whatever fails, on small clusters, and for one day
of two hundred hosts.

- on hosts that answer, two attempts of a run never compute at once;
- a step that was told to be kept is never lost: the next attempt goes on from there, or behind it;
- every run ends, or goes on.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.job_file import load_job
from orchestrator.control import monitor
from orchestrator.control.decisions import Choice, Ground
from orchestrator.control.spare_view import SpareState
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.simulation.cluster import synthetic_inventory
from orchestrator.simulation.fault_rates import drawn_faults
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import Outcome, Simulation
from orchestrator.simulation.timeline import EPOCH
from orchestrator.simulation.workload import Workload

CASES = int(os.environ.get("VERDICTS", "30")) // 2
HOSTS, RANKS, SPARES = 3, 2, 1
JOB = """\
name: survives
task: command
command: [sleep, "100"]
devices_per_host: {ranks}
device_target: {target}
networking: {{mode: dynamic}}
timeouts: {{unreachable: 60, lost: 600, prepare: 60, grace: 5}}
restart: {restart}
"""
POLICY = "{max: 8, window: 1h, wait: 30m, spares: ready}"
SAVING = Workload(
    imports=2.0,
    first_step=4.0,
    step=2.0,
    save_every=20,
    save=2.0,
    peer_timeout=120.0,
    shard_bytes=1e8,
    tells_saved=True,
    replica=RANKS,
    can=("stacks",),
)
# A host that is back may compute until it is asked for the first time.
CONTACT = 40.0


def plan_of(
    folder: Path, policy: str = POLICY, *, hosts: int = HOSTS, spares: int = SPARES, target: str = "CPU"
) -> LaunchPlan:
    """A launch of a command on so many hosts, of which others stand ready."""
    job = folder / "job.yaml"
    job.write_text(JOB.format(ranks=RANKS, target=target, restart=policy))
    like = Inventory(path=folder / "inventory.yaml", hosts=(Host(name="first", address="10.0.0.1"),))
    made = synthetic_inventory(like, hosts + spares, RANKS)
    names = tuple(host.name for host in made.hosts[hosts:])
    inventory = dataclasses.replace(made, groups={"ready": names}) if spares else made
    return make_plan(load_job(job), inventory, now=EPOCH, token=lambda size: "7" * (2 * size))


class Lived:
    """One simulation with a look every second at who computes and what was told to be kept."""

    def __init__(
        self, plan: LaunchPlan, folder: Path, *faults: Fault, hours: float = 1.0, **more: object
    ) -> None:
        self.simulation = Simulation(
            plan,
            folder,
            workload=more.pop("workload", SAVING),  # type: ignore[arg-type]
            faults=faults,
            hours=hours,
            limit=300.0,
            **more,  # type: ignore[arg-type]
        )
        self.both: list[tuple[float, set[int]]] = []
        self._silent_until: dict[str, float] = {}
        self.simulation.world.after(1.0, self._look)

    def _look(self) -> None:
        world = self.simulation.world
        world.after(1.0, self._look)
        found = set()
        for name, there in self.simulation.cluster.hosts.items():
            if not there.is_on or there.link.is_silent:
                self._silent_until[name] = world.now + CONTACT
            if world.now < self._silent_until.get(name, 0.0):
                continue
            for run in there.runs.values():
                processes = run.supervisor.processes.values() if run.supervisor is not None else ()
                if any(process.is_running for process in processes):
                    found.add(run.manifest.attempt.number)
        if len(found) > 1:
            self.both.append((world.true_now, found))

    def run(self) -> Outcome:
        outcome = self.simulation.run()
        assert self.simulation.world.lost_errors == []
        return outcome


def assert_it_survived(lived: Lived, outcome: Outcome) -> None:
    """The three that hold whatever happens."""
    assert lived.both == []
    for before, after in itertools.pairwise(outcome.attempts):
        assert after.told is None or after.resumed >= before.saved, (before, after)
    if outcome.state.is_terminal:
        assert outcome.orphans == ()
        decision = outcome.attempts[-1].decision
        is_decided = decision is not None and not decision.choice.goes_on
        assert outcome.state is RunState.SUCCEEDED or is_decided or not outcome.record.has_started
    else:
        assert outcome.state in (RunState.RUNNING, RunState.RESTARTING, RunState.STARTING, RunState.PREPARING)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LaunchPlan:
    return plan_of(tmp_path_factory.mktemp("survival"))


crash = Fault(300.0, "exit", rank=3, code=1, lines=("RuntimeError: Exec graph failed",))


def test_a_crash_is_gone_on_from_on_the_same_hosts_within_seconds(plan: LaunchPlan, tmp_path: Path) -> None:
    lived = Lived(plan, tmp_path, crash)
    outcome = lived.run()
    first, second = outcome.attempts
    assert first.decision is not None and first.decision.choice is Choice.AGAIN
    assert first.decision.hosts == tuple(host.name for host in plan.hosts)
    assert second.resumed == first.saved > 0
    assert first.broke is not None and second.told is not None
    assert 0 < second.told - first.broke <= 10.0
    assert outcome.state is RunState.RUNNING
    assert_it_survived(lived, outcome)


def test_a_host_that_is_gone_for_good_gives_way_to_a_spare(plan: LaunchPlan, tmp_path: Path) -> None:
    lived = Lived(plan, tmp_path, Fault(300.0, "power_off", host="node0002"))
    outcome = lived.run()
    decision = outcome.attempts[0].decision
    assert decision is not None and decision.ground is Ground.HOST_GONE
    assert decision.out == ("node0002",) and decision.spares == ("node0004",)
    assert set(outcome.record.hosts) == {"node0001", "node0003", "node0004"}
    assert outcome.state is RunState.RUNNING
    assert_it_survived(lived, outcome)


def test_a_hang_is_found_and_gone_on_from(plan: LaunchPlan, tmp_path: Path) -> None:
    """Peers wait for it for an hour."""
    load = dataclasses.replace(SAVING, peer_timeout=3600.0)
    lived = Lived(plan, tmp_path, Fault(600.0, "hang", rank=2), workload=load)
    outcome = lived.run()
    first, second = outcome.attempts
    assert first.ended is not None and first.ended < 900.0
    assert second.resumed == first.saved > 0 and outcome.state is RunState.RUNNING
    assert_it_survived(lived, outcome)


def test_the_first_host_is_a_spare_once_it_is_back(tmp_path: Path) -> None:
    """It is compared with the first host of the attempt in force, not with itself of before."""
    loss = Fault(100.0, "reboot", host="node0001", seconds=200.0)
    plan = plan_of(tmp_path, target="Ascend")
    record = Lived(plan, tmp_path / "state", loss, hours=0.15, jumps=False).run().record
    assert next(iter(record.hosts)) != "node0001"
    assert record.spares["node0001"].state is SpareState.READY, record.spares["node0001"].why


def test_without_a_spare_the_host_is_waited_for(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{max: 8, window: 1h, wait: 30m}", spares=0)
    lived = Lived(plan, tmp_path / "state", Fault(300.0, "reboot", host="node0002", seconds=600.0))
    outcome = lived.run()
    first, second = outcome.attempts
    assert second.begun >= 900.0
    assert second.resumed == first.saved > 0 and outcome.state is RunState.RUNNING
    assert_it_survived(lived, outcome)


def test_an_endless_crash_loop_ends_by_itself(plan: LaunchPlan, tmp_path: Path) -> None:
    faults = [Fault(100.0 + 60.0 * n, "exit", rank=n % 6, code=1, lines=(f"E: {n}",)) for n in range(50)]
    lived = Lived(plan, tmp_path, *faults)
    outcome = lived.run()
    assert outcome.state is RunState.FAILED and 1 < len(outcome.attempts) <= 10
    assert_it_survived(lived, outcome)


def test_a_disk_that_is_full_here_for_a_while_does_not_end_what_was_to_go_on(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, full = monitor.put_next_in_force, iter([True] * 3)

    def put_next_in_force(*given: Any) -> None:
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        put(*given)

    monkeypatch.setattr(monitor, "put_next_in_force", put_next_in_force)
    lived = Lived(plan, tmp_path, crash)
    outcome = lived.run()
    first, second = outcome.attempts
    assert next(full, None) is None and second.resumed == first.saved > 0
    assert outcome.state is RunState.RUNNING
    assert_it_survived(lived, outcome)


def test_without_a_policy_a_failure_is_the_end(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{max: 0}", spares=0)
    outcome = Lived(plan, tmp_path / "state", crash).run()
    assert outcome.state is RunState.FAILED and len(outcome.attempts) == 1


def _rank_faults() -> st.SearchStrategy[Fault]:
    return st.builds(
        Fault,
        st.floats(5.0, 1500.0),
        st.sampled_from(["kill", "exit", "hang"]),
        rank=st.integers(0, HOSTS * RANKS - 1),
        code=st.sampled_from([1, 3, 134]),
        lines=st.sampled_from([("RuntimeError: Exec graph failed",), ("Killed",), ()]),
    )


def _host_faults() -> st.SearchStrategy[Fault]:
    names = st.sampled_from([f"node000{number}" for number in range(1, HOSTS + SPARES + 1)])
    kinds = st.sampled_from(["reboot", "partition", "power_off", "kill_supervisor", "return", "refuse_login"])
    return st.builds(
        Fault, st.floats(5.0, 1500.0), kinds, host=names, seconds=st.sampled_from([20.0, 200.0, 900.0])
    )


def _monitor_faults() -> st.SearchStrategy[Fault]:
    return st.builds(
        Fault, st.floats(5.0, 1500.0), st.just("monitor_kill"), seconds=st.sampled_from([1.0, 30.0])
    )


@settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(faults=st.lists(st.one_of(_rank_faults(), _host_faults(), _monitor_faults()), max_size=5))
def test_whatever_fails_nothing_is_lost_that_was_kept(
    plan: LaunchPlan, tmp_path_factory: pytest.TempPathFactory, faults: list[Fault]
) -> None:
    ordered = sorted(faults, key=lambda fault: fault.time)
    lived = Lived(plan, tmp_path_factory.mktemp("case"), *ordered, hours=0.8)
    assert_it_survived(lived, lived.run())


def test_a_day_of_two_hundred_hosts(tmp_path: Path) -> None:
    """A failure in four hours: every one of them is gone on from."""
    plan = plan_of(tmp_path, "{max: 50, window: 1h, wait: 2h, spares: ready}", hosts=200, spares=4)
    ranks: dict[str, tuple[int, ...]] = {}
    for item in plan.placements:
        ranks[item.host] = (*ranks.get(item.host, ()), item.rank)
    faults = drawn_faults(4 * 3600.0, 86400.0, ranks, 5)
    load = Workload(
        imports=2.0,
        first_step=4.0,
        save_every=70,
        save=1.0,
        write=20.0,
        tells_saved=True,
        shard_bytes=1e8,
        replica=RANKS,
    )
    lived = Lived(plan, tmp_path / "state", *faults, hours=24.0, workload=load, direct=True)
    outcome = lived.run()
    assert_it_survived(lived, outcome)
    assert outcome.state is RunState.RUNNING and len(outcome.attempts) > 3
    crashes = [
        after.told - before.broke
        for before, after in itertools.pairwise(outcome.attempts)
        if before.crashed and before.decision and before.decision.choice is Choice.AGAIN
        if after.told is not None and before.broke is not None
    ]
    assert crashes and max(crashes) <= 10.0
    assert outcome.steps * load.step >= 0.9 * 86400.0
