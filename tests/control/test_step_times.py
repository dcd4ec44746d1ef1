"""The times of an attempt's steps: what its watch notes of them, by a clock that is set."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.control.step_times import Spent, StepTimes
from orchestrator.core.records import Phase, RankStatus
from orchestrator.core.states import RankState
from tests.control.judged import rank

AHEAD = 500.0  # of the host's clock


def ours(there: float) -> float:
    return there - AHEAD


class Gang:
    """Two ranks of a host whose clock is ahead; they make a step at a time."""

    def __init__(self, before: Spent | None = None, step: int = 0) -> None:
        self.now = 1000.0
        self.times = StepTimes(2, before)
        self.step_number = step
        self.ranks = [rank(number, started=self.now + AHEAD) for number in range(2)]

    @property
    def spent(self) -> Spent:
        return self.times.spent

    def tell(self, **fields: Any) -> None:
        self.ranks = [dataclasses.replace(each, **fields) for each in self.ranks]
        self.times.note(self.ranks, ours, self.now)

    def step(self, count: int = 1, *, seconds: float = 2.0, told_late: float = 0.5) -> None:
        """So many steps, of which the last is told."""
        self.now += seconds * count
        self.step_number += count
        made = {"step": self.step_number, "time": self.now + AHEAD}
        first = self.ranks[0].progress.get("first", made)
        self.now += told_late
        self.tell(progress={**made, "first": first}, phase=Phase.STEP)
        self.now -= told_late

    def save(self, seconds: float, *, is_seen: bool = True) -> None:
        if is_seen:
            self.tell(phase=Phase.SAVE, phase_since=self.now + AHEAD)
        self.now += seconds
        saving = self.ranks[0].saving + seconds
        self.tell(phase=Phase.STEP, phase_since=self.now + AHEAD, saving=saving)


def test_steps_at_their_pace_are_work_and_times_are_of_our_clock() -> None:
    gang = Gang()
    for _ in range(10):
        gang.step()
    assert gang.spent == Spent(1000.0, 1002.0, 1, 1020.0, 10, working=18.0)


def test_many_steps_told_at_once_are_work() -> None:
    gang = Gang()
    for _ in range(5):
        gang.step(100)
    assert (gang.spent.working, gang.spent.step) == (800.0, 500)


def test_a_pause_is_no_work_but_for_the_step_in_it() -> None:
    gang = Gang()
    for _ in range(10):
        gang.step()
    gang.now += 300.0
    gang.step()
    assert gang.spent.working == pytest.approx(18.0 + 2.0)


@pytest.mark.parametrize("is_seen", [True, False])
@pytest.mark.parametrize("seconds", [0.4, 30.0])
def test_saves_are_saves_and_no_work(seconds: float, is_seen: bool) -> None:
    gang = Gang()
    for _ in range(10):
        gang.step()
        gang.save(seconds, is_seen=is_seen)
    gang.step()
    assert gang.spent.saving == pytest.approx(10 * seconds)
    assert gang.spent.working == pytest.approx(20.0)


def test_who_ends_in_its_save_has_saved_until_then() -> None:
    gang = Gang()
    gang.step()
    gang.tell(phase=Phase.SAVE, phase_since=gang.now + AHEAD)
    gang.now += 50.0
    ended = rank(0, "failed", ended=gang.now - 10.0 + AHEAD, exit_code=1).end
    gang.tell(state=RankState.FAILED, end=ended)
    assert gang.spent.saving == 40.0


def test_an_evaluation_is_work() -> None:
    gang = Gang()
    for _ in range(10):
        gang.step()
    gang.tell(phase=Phase.EVALUATE, phase_since=gang.now + AHEAD)
    gang.now += 300.0
    gang.step()
    assert gang.spent.working == pytest.approx(18.0 + 302.0)


def test_another_monitor_goes_on_with_what_was_noted() -> None:
    """Nobody watched for 100 steps, and then they stood for ten minutes."""
    gang = Gang()
    for _ in range(10):
        gang.step()
    again = Gang(gang.spent, step=10)
    again.now = gang.now
    again.step(100)
    assert again.spent.working == pytest.approx(218.0)
    again.now += 600.0
    again.step()
    assert again.spent.working == pytest.approx(220.0)
    assert (again.spent.first, again.spent.running) == (1002.0, 1000.0)


def test_what_is_first_seen_in_its_middle_is_work_between_the_first_step_and_the_newest() -> None:
    gang = Gang()
    gang.now = 2000.0
    made = {"step": 400, "time": 1900.0 + AHEAD, "first": {"step": 1, "time": 1102.0 + AHEAD}}
    gang.tell(progress=made, saving=50.0)
    assert gang.spent == Spent(1000.0, 1102.0, 1, 1900.0, 400, working=748.0, saving=50.0)


@pytest.mark.parametrize("time", ["yesterday", None, -5, True, 1e300, float("nan"), [], 3.0])
def test_a_time_that_cannot_be_is_that_of_the_telling(time: object) -> None:
    gang = Gang()
    gang.tell()
    gang.now = 1100.0
    gang.tell(progress={"step": 5, "time": time, "first": {"step": time, "time": time}})
    assert (gang.spent.first, gang.spent.newest, gang.spent.step) == (1100.0, 1100.0, 5)


moments = st.sampled_from([None, "x", -1.0, 0.0, 900.0, 1100.0, 1500.0, 1e9, float("nan"), float("inf")])
lines = st.fixed_dictionaries(
    {},
    optional={
        "step": st.sampled_from([None, "x", -1, 0, 1, 2, 7, 50, 10**20]),
        "time": moments,
        "first": st.fixed_dictionaries({"step": st.sampled_from([None, 0, 1, 9]), "time": moments}),
    },
)
seconds = st.sampled_from([None, 0.0, 900.0, 1400.0, 1500.0, 9000.0])
told = st.builds(
    RankStatus,
    st.integers(0, 1),
    st.just(0),
    st.just(0),
    st.sampled_from([RankState.STARTING, RankState.RUNNING, RankState.FAILED]),
    started=seconds,
    progress=lines,
    phase=st.sampled_from([None, *Phase]),
    phase_since=seconds,
    saving=st.sampled_from([0.0, 1.0, 50.0]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(told, st.sampled_from([0.0, 1.0, 90.0])), max_size=8))
def test_whatever_is_told_the_times_lie_in_their_order(said: list[tuple[RankStatus, float]]) -> None:
    times, now = StepTimes(2), 1000.0
    for status, later in said:
        now += later
        times.note([status], ours, now)
        spent = times.spent
        if spent.first is not None and spent.newest is not None:
            assert spent.first <= spent.newest <= now
        assert spent.saving >= 0.0
