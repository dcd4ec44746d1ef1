"""What holds whatever befalls a run: fault schedules over a small cluster, drawn by hypothesis.

VERDICTS is how many schedules there are; `make test-long` takes 2,000.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.states import RankState, RunState
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.workload import Workload
from tests.simulation.simulated import Runs, plan_of

CASES = int(os.environ.get("VERDICTS", "30"))
HOSTS = ("node0001", "node0002", "node0003")
LOAD = Workload(steps=60, save_every=25, save=10.0, peer_timeout=120.0)
LEASE = 60.0  # `timeouts.prepare` of the plan

on_rank = st.fixed_dictionaries(
    {"kind": st.sampled_from(["kill", "exit", "freeze", "hang"]), "rank": st.integers(0, 5)}
)
on_host = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(
            [
                "fill_disk",
                "reboot",
                "power_off",
                "partition",
                "refuse_login",
                "slow",
                "clock_jump",
                "lie",
                "return",
            ]
        ),
        "host": st.sampled_from(HOSTS),
        "jump": st.sampled_from([-400.0, 3600.0]),
        "lie": st.sampled_from(["no_answer", "other_ranks", "garbage"]),
        "scope": st.sampled_from(["control", "all"]),
    }
)
on_monitor = st.just({"kind": "monitor_kill"})
# In the launch, which takes a second, and while the run makes steps.
times = st.one_of(st.floats(0.05, 1.3), st.floats(2.0, 200.0))
lasts = st.sampled_from([None, 3.0, 20.0, 90.0, 400.0])


# The same cases each time, however long one takes.
tried = settings(
    max_examples=CASES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Fault, ...]:
    what = draw(st.lists(st.one_of(on_rank, on_host, on_monitor), max_size=4))
    return tuple(Fault(time=draw(times), seconds=draw(lasts), **each) for each in what)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("invariants")
    return Runs(plan_of(folder), folder)


@tried
@given(schedules())
def test_every_run_ends_or_goes_on_and_nobody_is_left_behind(runs: Runs, faults: tuple[Fault, ...]) -> None:
    simulation = runs.simulation(*faults, workload=LOAD, hours=2.0)
    found = simulation.run()
    away = {name for name, host in simulation.cluster.hosts.items() if host.link.is_silent or host.lie}
    left = {there.name for there, _ in simulation.cluster.processes}
    assert simulation.world.lost_errors == []
    if found.state.is_terminal:
        # Workers may be left only where nobody could tell them, and the record says so.
        assert left <= away
        assert left <= {name for name, view in found.record.hosts.items() if not view.is_over}
        assert found.exit_code in (0, 1, 2, 3, 4, 5)
        assert (found.exit_code == 0) is (found.state is RunState.SUCCEEDED)
    elif found.state is RunState.PREPARING:
        assert left == set()  # nobody took the launch up, and its leases are over
    if found.exit_code == 0:
        assert found.steps == LOAD.steps
        assert all(rank.state is RankState.SUCCEEDED for rank in found.record.ranks())
    if found.state is RunState.FAILED and found.record.errors:
        assert found.steps == 0 and found.cause is None  # a launch that was refused has run nobody


@st.composite
def launches(draw: st.DrawFn) -> tuple[Fault, ...]:
    """What befalls hosts and the monitor while a run is launched; hosts that are away are back in time."""
    kinds = ["partition", "reboot", "fill_disk", "refuse_login", "slow"]
    on_launch = st.one_of(
        st.fixed_dictionaries({"kind": st.sampled_from(kinds), "host": st.sampled_from(HOSTS)}), on_monitor
    )
    what = draw(st.lists(on_launch, min_size=1, max_size=3))
    times = st.one_of(st.floats(0.05, 1.5), st.floats(1.0, 4.0))
    lasts = st.sampled_from([0.3, 3.0, 20.0, 90.0])
    return tuple(Fault(time=draw(times), seconds=draw(lasts), **each) for each in what)


def test_all_are_started_or_none_and_no_orphan_outlives_the_leases(runs: Runs) -> None:
    """Once every host is back and the launch's leases are over."""
    count: Counter[str] = Counter()
    partly: list[object] = []
    orphaned: list[object] = []

    @tried
    @given(launches())
    def judge(faults: tuple[Fault, ...]) -> None:
        simulation = runs.simulation(*faults, workload=Workload(peer_timeout=120.0), hours=0.2)
        found = simulation.run()
        world = {rank for worker in runs.plan.manifests.values() for rank in (w.rank for w in worker.workers)}
        alive = {process.rank for _, process in simulation.cluster.processes if process.rank >= 0}
        begun = {process.rank for _, process in simulation.cluster.members(found.record.run_id)} & world
        goes_on = found.state is RunState.RUNNING
        count["go on" if goes_on else "launched, then ended" if begun else "undone"] += 1
        # A run that has begun has begun everywhere, though what befell a host may have ended it since.
        if goes_on and alive != world:
            partly.append((faults, alive))
        if not goes_on and alive:
            orphaned.append((faults, str(found.state), alive))

    judge()
    cases = f"of {count.total()} launches: {dict(count)}"
    assert count["go on"] > 0 and count["undone"] > 0, cases
    assert not partly, (cases, partly)
    assert not orphaned, (cases, orphaned)


def test_a_workload_knows_its_steps_by_a_formula(tmp_path: Path) -> None:
    found = Runs(plan_of(tmp_path, 1, 1), tmp_path)(
        workload=Workload(steps=7, save_every=3, save=5.0, step=1.0)
    )
    # imports 8 s, the first step 20 s, six more, and two saves on the way
    assert found.ended == pytest.approx(1 + 8 + 20 + 6 + 10, abs=1.5)
    assert found.steps == 7 and found.exit_code == 0
