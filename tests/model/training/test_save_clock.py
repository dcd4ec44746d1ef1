"""When rank 0 asks to save, by a clock that is set; and how often that is, by the formula."""

from __future__ import annotations

import math

import pytest

from model.phases import Saved
from model.training.save_clock import SaveClock
from model.training.step_requests import asked_for, told_by
from orchestrator.checkpoint.save_interval import best_interval, default_mtbf, guessed_stall, lost_share


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_interval_counts_from_the_first_step_and_from_the_end_of_each_save() -> None:
    time = Time()
    clock = SaveClock(600.0, mtbf=1.0, guess=1.0, clock=time)
    time.now += 5000  # it compiles
    assert not clock.is_due()
    clock.start()
    time.now += 599
    clock.start()
    assert not clock.is_due()
    time.now += 1
    assert clock.is_due()
    time.now += 30  # the save
    clock.note(30.0, None)
    assert not clock.is_due()
    time.now += 600
    assert clock.is_due()


def test_auto_learns_from_the_last_save() -> None:
    time = Time()
    clock = SaveClock(None, mtbf=20_000.0, guess=10.0, clock=time)
    assert clock.interval == pytest.approx(math.sqrt(2 * 10 * 20_000))
    clock.start()
    clock.note(0.4, None)  # behind the steps: nobody knows yet when it is whole
    assert clock.interval == pytest.approx(math.sqrt(2 * 0.4 * 20_000))
    clock.note(0.4, Saved(7, 0.4, 300.0))
    assert clock.interval == 300.0, "one save is under way at most"


def test_the_interval_is_the_one_that_costs_least() -> None:
    stall, mtbf = 8.0, 3 * 3600.0
    best = best_interval(stall, mtbf)
    assert best == pytest.approx(math.sqrt(2 * stall * mtbf))
    cost = lost_share(best, stall, mtbf)
    assert all(lost_share(best * factor, stall, mtbf) > cost for factor in (0.5, 0.9, 1.1, 2.0))
    assert best_interval(500.0, 600.0) == 500.0, "longer than half of it"
    assert best_interval(100.0, 600.0) == 300.0


def test_the_default_is_the_published_rate_for_as_many_devices() -> None:
    assert default_mtbf(16_384) == pytest.approx(3.09 * 3600, rel=0.01)
    assert default_mtbf(8) == pytest.approx(2048 * default_mtbf(16_384))
    assert guessed_stall(10**9, asynchronous=True) < guessed_stall(10**9, asynchronous=False)


@pytest.mark.parametrize("ranks", [1, 4, 1_000_000])
@pytest.mark.parametrize("stops", [0, 1, "all"])
@pytest.mark.parametrize("saves", [False, True])
def test_all_ranks_read_the_same_of_the_sum_in_float32(ranks: int, stops: int | str, saves: bool) -> None:
    numpy = pytest.importorskip("numpy")
    asked = numpy.zeros(ranks, numpy.float32)
    count = ranks if stops == "all" else int(stops)
    asked[ranks - count :] = asked_for(stop=True, save=False)
    asked[0] = asked_for(stop=count == ranks, save=saves)
    total = numpy.float32(0)
    for part in numpy.array_split(asked, min(ranks, 8)):
        total += part.sum(dtype=numpy.float32)
    assert told_by(float(total)) == (count > 0, saves)
