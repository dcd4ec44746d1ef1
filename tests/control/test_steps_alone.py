"""What hosts say of steps alone goes a shorter way, and comes to the same as if all were looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.run_terms import Health
from orchestrator.control.health import RunHealth
from orchestrator.control.run_tally import RunTally
from orchestrator.control.step_limits import StepLimits
from orchestrator.control.step_times import StepTimes
from orchestrator.core.push import Digest
from orchestrator.core.records import Phase, RankStatus, StallKind
from orchestrator.core.states import RankState
from tests.control.judged import FakeHost, rank, round_of, watch
from tests.hosts.push_host import Hands

HOST = "a"
Story = list[tuple[int, str, Any, float]]

steps = st.tuples(st.just("step"), st.integers(1, 3))
others = st.one_of(
    st.tuples(st.just("phase"), st.sampled_from([None, *Phase])),
    st.tuples(st.just("state"), st.sampled_from([RankState.RUNNING, RankState.SUCCEEDED])),
    st.tuples(st.just("stalled"), st.sampled_from([None, *StallKind])),
)
stories: st.SearchStrategy[Story] = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(steps, steps, others), st.sampled_from([0.5, 2.0, 40.0])).map(
        lambda each: (each[0], *each[1], each[2])
    ),
    max_size=40,
)


def lived(story: Story, told: Callable[[tuple[RankStatus, ...], float, bool], object]) -> list[object]:
    """What `told` makes of three ranks that live through this: they, the time, whether only a step."""
    now, found = 1000.0, []
    ranks = tuple(rank(number, started=now) for number in range(3))
    found.append(told(ranks, now, False))
    for number, what, value, pause in story:
        now += pause
        each = ranks[number]
        if what == "step":
            if each.state is not RankState.RUNNING:
                continue
            step = each.progress.get("step", 0) + value
            first = each.progress.get("first", {"step": step, "time": now})
            new = dataclasses.replace(each, progress={"step": step, "time": now, "first": first})
        elif what == "phase":
            new = dataclasses.replace(each, phase=value, phase_since=now)
        else:
            new = dataclasses.replace(each, **{what: value})
        ranks = tuple(new if each.rank == number else each for each in ranks)
        found.append(told(ranks, now, what == "step"))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories)
def test_the_health_of_a_run_is_the_same(story: Story) -> None:
    def made(short: bool) -> Callable[[tuple[RankStatus, ...], float, bool], object]:
        rules = Health()
        health = RunHealth(rules, StepLimits(rules, 2.0), trains=True, now=1000.0)

        def told(ranks: tuple[RankStatus, ...], now: float, is_step: bool) -> object:
            if is_step and short:
                health.heard_steps(HOST, ranks, now, None)
            else:
                health.heard(HOST, ranks, now)
            for _ in health.to_ask():
                health.answered(HOST)
            return health.judge(now, now), health.due(), health.ranks, health.taken_back()

        return told

    assert lived(story, made(short=True)) == lived(story, made(short=False))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories)
def test_the_times_of_steps_are_the_same(story: Story) -> None:
    def made(short: bool) -> Callable[[tuple[RankStatus, ...], float, bool], object]:
        times = StepTimes(3)

        def told(ranks: tuple[RankStatus, ...], now: float, is_step: bool) -> object:
            (times.note_steps if is_step and short else times.note)(ranks, lambda there: there, now)
            return times.spent

        return told

    assert lived(story, made(short=True)) == lived(story, made(short=False))


@pytest.mark.parametrize(
    "numbers",
    [{"step": 5, "loss": 1.0}, {"step": "five"}, {"loss": 1.0}, {}],
    ids=["step", "text", "none", "no"],
)
def test_the_tally_is_that_of_what_is_known(clock: Hands, numbers: dict[str, Any]) -> None:
    a = FakeHost("a", rank(0), rank(1))
    watched = watch(clock, a)
    round_of(watched)
    for told in (
        Digest(0, 1001.0, 2, 3, {"1": 2}, rank=0, numbers={"step": 3}),
        Digest(0, 1002.0, 4, 5, {}, rank=0, numbers=numbers),
    ):
        clock.passes(2)
        a.push(told)
        run = round_of(watched)
        assert parts(watched._views.tally) == parts(RunTally(run.hosts))
    assert run.hosts["a"].status is not None and run.hosts["a"].status.ranks[1].progress["step"] == 5


def parts(tally: RunTally) -> dict[str, Any]:
    """All that it has counted."""
    return {name: value for name, value in vars(tally).items()}


def test_steps_are_judged_once_a_second_and_all_else_sooner(clock: Hands) -> None:
    a = FakeHost("a", rank(0, progress={"step": 1}), rank(1, progress={"step": 1}))
    watched = watch(clock, a)
    round_of(watched)
    views = watched._views
    a.push(Digest(0, 1001.0, 2, 2, rank=0, numbers={"step": 2}))
    views.take()
    assert views.is_changed and views.is_calm and not views.is_relevant
    a.says(rank(0, phase=Phase.SAVE, progress={"step": 2}), rank(1, progress={"step": 2}))
    views.take()
    assert views.is_changed and not views.is_calm and not views.is_relevant
    round_of(watched)
    assert views.is_calm and not views.is_changed
