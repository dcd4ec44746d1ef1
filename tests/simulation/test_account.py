"""The account of a run's time: its parts add up to the whole, whatever the attempts were."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulation.account import AttemptTimes, TimeAccount, account_of

moments = st.one_of(st.none(), st.floats(-10, 1000))
attempts = st.builds(
    AttemptTimes,
    launched=st.floats(0, 1000),
    first=moments,
    ended=moments,
    working=st.floats(-5, 500),
    steps=st.integers(0, 50),
    kept=st.integers(-1, 60),
    saving=st.floats(-5, 500),
)


@given(st.lists(attempts, max_size=6), st.floats(0, 1500))
def test_the_parts_add_up_to_the_whole_and_none_is_negative(found: list[AttemptTimes], until: float) -> None:
    ordered = sorted(found, key=lambda attempt: attempt.launched)
    account = account_of(ordered, until)
    whole = max(0.0, until - ordered[0].launched) if ordered else 0.0
    assert account.whole == pytest.approx(whole, abs=1e-6)
    assert min(astuple(account)) >= -1e-9


def test_a_run_that_failed_and_was_launched_again() -> None:
    """30 s to the first step; 100 steps of 2 s, a save of 10 s after every 40; it ends 5 s later."""
    first = AttemptTimes(launched=0, first=30, ended=255, working=200, saving=20, steps=100, kept=80)
    second = AttemptTimes(launched=855, first=885, working=100, steps=50, kept=50)
    assert account_of([first, second], until=985) == TimeAccount(
        starting=60.0, productive=160.0 + 100.0, lost=40.0, saving=20.0, waiting=5.0, down=600.0
    )


def test_an_attempt_that_never_made_a_step_has_only_started() -> None:
    account = account_of([AttemptTimes(launched=10, ended=25)], until=40)
    assert account == TimeAccount(starting=15.0, down=15.0)


def test_nothing_is_accounted_without_a_launch() -> None:
    assert account_of([], until=40) == TimeAccount()
