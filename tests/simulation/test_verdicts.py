"""The real monitor under fault schedules that hypothesis thinks of, on small simulated clusters.

A run ends or goes on. The verdict names who was really faulted in 95 of 100 schedules whose evidence
suffices, which the schedule itself decides, and in all others it names nobody who was not.
VERDICTS is how many schedules there are; `make test-long` takes 2,000.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.states import RankState, RunState
from orchestrator.simulation.fault_evidence import Circumstances, expected, named_by
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import Outcome
from orchestrator.simulation.workload import Workload
from tests.simulation.simulated import Runs, plan_of

CASES = int(os.environ.get("VERDICTS", "40"))
HOSTS = {f"node000{number + 1}": (2 * number, 2 * number + 1) for number in range(3)}
WORK = Workload(steps=300, peer_timeout=300.0)
AROUND = Circumstances(HOSTS, running=35.0, done=625.0, unreachable=60.0, patience=60.0)

hosts, ranks, times = st.sampled_from(sorted(HOSTS)), st.integers(0, 5), st.integers(20, 500).map(float)
lasts = st.sampled_from([None, 5.0, 40.0, 200.0, 1000.0])
words = st.sampled_from(
    [(), ("KeyError: 'labels'",), ("RuntimeError: connection to rank 1 lost",), ("error code is 507015",)]
)
faults = st.one_of(
    st.builds(Fault, times, st.just("kill"), rank=ranks),
    st.builds(Fault, times, st.just("exit"), rank=ranks, code=st.sampled_from([1, 1, 3, 139]), lines=words),
    st.builds(Fault, times, st.sampled_from(["freeze", "hang"]), rank=ranks, seconds=lasts),
    st.builds(
        Fault, times, st.sampled_from(["reboot", "fill_disk", "refuse_login"]), host=hosts, seconds=lasts
    ),
    st.builds(Fault, times, st.sampled_from(["power_off", "return"]), host=hosts),
    st.builds(
        Fault,
        times,
        st.just("partition"),
        host=hosts,
        seconds=lasts,
        scope=st.sampled_from(["control", "all"]),
    ),
    st.builds(Fault, times, st.just("slow"), host=hosts, seconds=lasts, delay=st.sampled_from([0.5, 5.0])),
    st.builds(
        Fault, times, st.just("clock_jump"), host=hosts, jump=st.sampled_from([-3600.0, -1.0, 86400.0])
    ),
    st.builds(
        Fault,
        times,
        st.just("lie"),
        host=hosts,
        seconds=lasts,
        lie=st.sampled_from(["garbage", "other_ranks"]),
    ),
    st.builds(Fault, times, st.just("monitor_kill"), seconds=st.sampled_from([1.0, 30.0])),
)
schedules = st.lists(faults, min_size=1, max_size=4).map(
    lambda found: sorted(found, key=lambda one: one.time)
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("verdicts")
    return Runs(plan_of(folder), folder)


def require_whole(outcome: Outcome) -> None:
    """What holds of every run, whatever befell it."""
    states = [rank.state for rank in outcome.record.ranks()]
    if outcome.state.is_terminal:
        assert outcome.exit_code is not None
        assert all(state.is_terminal or state is RankState.UNREACHABLE for state in states)
    else:
        assert outcome.state in (RunState.PREPARING, RunState.STARTING, RunState.RUNNING)
    if outcome.state is RunState.SUCCEEDED:
        assert set(states) == {RankState.SUCCEEDED} and outcome.cause is None


def test_the_verdict_names_who_was_really_faulted(runs: Runs) -> None:
    count: Counter[str] = Counter()
    wrong: list[tuple[list[Fault], object]] = []  # the evidence suffices, and another or nobody is named
    accused: list[tuple[list[Fault], object]] = []  # it does not, and somebody is named who was not faulted
    misjudged: list[tuple[list[Fault], str]] = []  # it fails though it should not, or the reverse

    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(schedules)
    def judge(schedule: list[Fault]) -> None:
        outcome = runs(*schedule, workload=WORK)
        require_whole(outcome)
        found, named = expected(schedule, AROUND), named_by(outcome.cause)
        is_right = found.allows(named)
        kind = "suffices" if found.suffices else "may name" if found.named else "abstains"
        count[kind] += 1
        count[f"{kind}, right"] += is_right
        if not is_right:
            (wrong if found.suffices else accused).append((schedule, outcome.cause))
        if found.fails is not None and (outcome.state is RunState.FAILED) != found.fails:
            misjudged.append((schedule, str(outcome.state)))

    judge()
    cases = f"of {sum(count[kind] for kind in ('suffices', 'may name', 'abstains'))} schedules: {dict(count)}"
    assert count["suffices"] > CASES // 8, cases
    assert count["suffices, right"] >= 0.95 * count["suffices"], (cases, wrong)
    assert count["abstains"] > CASES // 20, cases
    assert not accused, (cases, accused)
    assert not misjudged, (cases, misjudged)
