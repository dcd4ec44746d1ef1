"""Health in simulated runs: no alarm for what only takes long, and the right one soon for what does hang.

Time is not jumped over here, but for what is as long as a day: the timers are what is tested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.run_record import RunRecord
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import Outcome, Simulation
from orchestrator.simulation.workload import Workload
from tests.simulation.simulated import plan_of

HOST = "node0002"  # has ranks 2 and 3
FLOOR, SOON = 60.0, 5.0


def at(time: float, kind: str, **more: Any) -> Fault:
    return Fault(time=time, kind=kind, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LaunchPlan:
    """Three hosts of two ranks each."""
    made = plan_of(tmp_path_factory.mktemp("plan"))
    return dataclasses.replace(made, timeouts=replace(made.timeouts, unreachable=120.0, start=7200.0))


class Seen:
    """One run, and what was found not to be well in it: each with the true time when it was first said."""

    def __init__(
        self,
        plan: LaunchPlan,
        folder: Path,
        workload: Workload,
        *faults: Fault,
        hours: float = 1.0,
        before: Callable[[Simulation], None] = lambda simulation: None,
        told: Callable[[Simulation, RunRecord], None] = lambda simulation, record: None,
    ) -> None:
        self.first: dict[FindingKind, float] = {}
        self.last: dict[FindingKind, Finding] = {}
        self._told = told
        self.simulation = Simulation(
            plan,
            folder,
            workload=workload,
            faults=faults,
            hours=hours,
            jumps=False,
            limit=100.0,
            told=self.take,
        )
        before(self.simulation)
        self.outcome: Outcome = self.simulation.run()

    def take(self, record: RunRecord) -> None:
        for each in record.health:
            self.first.setdefault(each.kind, self.simulation.world.true_now)
            self.last[each.kind] = each
        self._told(self.simulation, record)


LONG = [
    pytest.param(Workload(first_step=600.0, steps=60, has_phases=True), id="compilation of 10 minutes"),
    pytest.param(Workload(first_step=600.0, steps=60), id="slow first step of a training without phases"),
    pytest.param(
        Workload(steps=130, save_every=60, save=300.0, has_phases=True), id="saves of 5 minutes"
    ),
    pytest.param(
        Workload(steps=70, save_every=30, save=5.0, evaluate_every=30, evaluate=400.0, has_phases=True),
        id="evaluations",
    ),
    pytest.param(
        Workload(steps=60, recompile_at=30, recompile=600.0, has_phases=True), id="another compilation"
    ),
    pytest.param(Workload(steps=600, report_every=100, has_phases=True), id="a line in 100 steps"),
    pytest.param(Workload(steps=600, report_every=100), id="a line in 100 steps, without phases"),
    pytest.param(Workload(first_step=300.0, step=100.0, steps=12, has_phases=True), id="slow steps"),
]  # fmt: skip


@pytest.mark.parametrize("workload", LONG)
def test_what_only_takes_long_is_no_alarm(plan: LaunchPlan, tmp_path: Path, workload: Workload) -> None:
    seen = Seen(dataclasses.replace(plan, task="pretrain"), tmp_path, workload)
    assert seen.outcome.exit_code == 0 and seen.outcome.steps == workload.steps
    assert seen.first == {} and seen.outcome.record.recovered == ()


def test_a_command_without_metrics_is_no_alarm(plan: LaunchPlan, tmp_path: Path) -> None:
    seen = Seen(plan, tmp_path, Workload(reports=False, steps=600))
    assert seen.outcome.exit_code == 0 and seen.first == {}


ALL = ["node0001", "node0002", "node0003"]


@pytest.mark.parametrize(
    ("hosts", "seconds", "has_phases"),
    [
        pytest.param([HOST], 80.0, True, id="one"),
        pytest.param([HOST], 400.0, False, id="one, for long"),
        pytest.param(ALL, 80.0, False, id="all"),
        pytest.param(ALL, 400.0, True, id="all, for long"),
    ],
)
def test_a_network_that_is_away_for_minutes_is_no_alarm(
    plan: LaunchPlan, tmp_path: Path, hosts: list[str], seconds: float, has_phases: bool
) -> None:
    away = [at(90, "partition", host=host, seconds=seconds) for host in hosts]
    seen = Seen(plan, tmp_path, Workload(steps=300, has_phases=has_phases), *away)
    assert seen.outcome.exit_code == 0 and seen.first == {}


def test_a_network_that_is_away_again_and_again_is_no_alarm(plan: LaunchPlan, tmp_path: Path) -> None:
    away = [
        at(90 + 50 * number, "partition", host=f"node000{1 + number % 3}", seconds=45.0)
        for number in range(12)
    ]
    seen = Seen(plan, tmp_path, Workload(steps=350, has_phases=True), *away)
    assert seen.outcome.exit_code == 0 and seen.first == {}


def test_a_monitor_that_sleeps_and_one_that_is_new_give_no_alarm(plan: LaunchPlan, tmp_path: Path) -> None:
    """A lid that is closed for ten minutes, twice; then another monitor, in the middle of a long save."""
    slept: list[float] = []

    def told(simulation: Simulation, record: RunRecord) -> None:
        now = simulation.world.true_now
        if len(slept) < 2 and now > (90, 800)[len(slept)]:
            slept.append(now)
            simulation.scheduling.sleep(600.0)

    load = Workload(steps=900, save_every=800, save=300.0, has_phases=True)
    seen = Seen(plan, tmp_path, load, at(1650, "monitor_kill", seconds=60.0), told=told)
    assert len(slept) == 2 and seen.outcome.exit_code == 0 and seen.first == {}


def test_a_host_that_is_slow_to_answer_or_lies_for_a_while_is_no_alarm(
    plan: LaunchPlan, tmp_path: Path
) -> None:
    faults = [
        at(90, "slow", host=HOST, delay=4.0, factor=3.0, seconds=200.0),
        at(350, "lie", host="node0003", lie="garbage", seconds=90.0),
        at(500, "clock_jump", host=HOST, jump=-5000.0),
        at(550, "clock_jump", host="node0001", jump=7000.0),
    ]
    load = Workload(steps=300, save_every=100, save=40.0, has_phases=True)
    seen = Seen(plan, tmp_path, load, *faults)
    assert seen.outcome.exit_code == 0 and seen.first == {}


# What does hang.


@pytest.mark.parametrize(
    ("kind", "can", "detail"),
    [
        pytest.param("freeze", ("stacks",), "", id="one rank frozen"),
        pytest.param("freeze", (), "", id="one rank frozen, no stacks"),
        pytest.param("hang", ("stacks",), "read (data.py:12)", id="a dead loop"),
    ],
)
def test_a_hang_is_named_soon_with_the_right_rank(
    plan: LaunchPlan, tmp_path: Path, kind: str, can: tuple[str, ...], detail: str
) -> None:
    load = Workload(has_phases=True, can=can, peer_timeout=900.0, heartbeat=900.0)
    seen = Seen(plan, tmp_path, load, at(200, kind, rank=3), hours=0.1)
    found = seen.last[FindingKind.HANG]
    assert 200 + FLOOR - 5 < seen.first[FindingKind.HANG] <= 200 + FLOOR + SOON
    assert (found.ranks, found.host) == ((3,), HOST)
    assert not detail or found.detail == detail
    assert (FindingKind.STOPPED in seen.first) is (kind == "freeze")
    if kind == "freeze":
        assert seen.first[FindingKind.STOPPED] <= 200 + 15 and seen.last[FindingKind.STOPPED].ranks == (3,)
    assert seen.outcome.cause is None  # nothing was ended for it


def test_ranks_that_all_wait_in_a_collective_that_nobody_joins(plan: LaunchPlan, tmp_path: Path) -> None:
    def before(simulation: Simulation) -> None:
        simulation.world.at(200, lambda: [gang.hold(99) for gang in simulation.cluster.gangs.values()])

    load = Workload(has_phases=True, can=("stacks",), peer_timeout=900.0, heartbeat=900.0)
    seen = Seen(plan, tmp_path, load, before=before, hours=0.1)
    found = seen.last[FindingKind.HANG]
    assert seen.first[FindingKind.HANG] <= 200 + FLOOR + SOON and set(seen.first) == {FindingKind.HANG}
    assert (found.ranks, found.detail) == ((), "all_reduce (collectives.py:40)")


def test_a_hang_that_ends_is_taken_back(plan: LaunchPlan, tmp_path: Path) -> None:
    load = Workload(steps=200, has_phases=True, peer_timeout=900.0, heartbeat=900.0)
    seen = Seen(plan, tmp_path, load, at(200, "hang", rank=3, seconds=120.0))
    assert seen.outcome.exit_code == 0 and seen.outcome.record.health == ()
    (ended,) = seen.outcome.record.recovered
    assert ended.kind is FindingKind.HANG and ended.ended is not None
    assert ended.ended - ended.since == pytest.approx(120, abs=8)


def test_a_straggler_is_named_and_taken_back(plan: LaunchPlan, tmp_path: Path) -> None:
    load = Workload(steps=400, step=2.0, compute=1.0, has_phases=True)
    slow = at(200, "slow", host=HOST, delay=0.0, factor=1.5, seconds=200.0)
    seen = Seen(plan, tmp_path, load, slow)
    assert set(seen.first) == {FindingKind.STRAGGLER} and seen.outcome.record.health == ()
    assert 200 < seen.first[FindingKind.STRAGGLER] <= 200 + 20 * 3.0
    assert seen.last[FindingKind.STRAGGLER].host == HOST


def test_a_host_that_is_off_is_not_accused(plan: LaunchPlan, tmp_path: Path) -> None:
    load = Workload(has_phases=True, peer_timeout=300.0)
    seen = Seen(plan, tmp_path, load, at(200, "power_off", host=HOST), hours=0.3)
    assert seen.outcome.cause is not None and seen.outcome.cause.host == HOST
    named = {rank for found in seen.last.values() for rank in found.ranks}
    assert not named & {2, 3}


def test_a_host_that_is_away_while_all_save_is_not_lost(plan: LaunchPlan, tmp_path: Path) -> None:
    """That no steps are made is no second sign then. It was one, and the run was ended."""
    short = replace(plan.timeouts, unreachable=60.0, lost=900.0)
    load = Workload(steps=100, save_every=50, save=300.0, has_phases=True)
    away = at(150, "partition", host=HOST, seconds=250.0)
    seen = Seen(dataclasses.replace(plan, timeouts=short), tmp_path, load, away)
    assert seen.outcome.exit_code == 0 and seen.first == {}
