"""The account of a run's time: its parts add up to the whole, whatever the attempts were."""

from __future__ import annotations

import dataclasses
from dataclasses import astuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.control.run_record import AttemptRecord, RunRecord
from orchestrator.control.step_times import Spent
from orchestrator.control.time_account import AttemptTimes, TimeAccount, account_of, account_of_run
from orchestrator.core.states import RunState

moments = st.one_of(st.none(), st.floats(-10, 1000))
attempts = st.builds(
    AttemptTimes,
    launched=st.floats(0, 1000),
    first=moments,
    ended=moments,
    working=st.floats(-5, 500),
    steps=st.integers(0, 50),
    kept=st.one_of(st.none(), st.integers(-1, 60)),
    restarts=st.booleans(),
    unknown=moments,
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


# Of a run's record.

times = st.floats(0, 2000)
steps = st.one_of(st.none(), st.integers(0, 60))


@st.composite
def spents(draw: st.DrawFn) -> Spent | None:
    if draw(st.booleans()):
        return None
    first, last = sorted((draw(times), draw(times)))
    begun, step = sorted((draw(st.integers(0, 60)), draw(st.integers(0, 60))))
    has_steps = draw(st.booleans())
    return Spent(
        running=draw(st.one_of(st.none(), times)),
        first=first if has_steps else None,
        first_step=begun if has_steps else None,
        newest=last if has_steps else None,
        step=step if has_steps else None,
        working=draw(st.floats(-1, 2500)),
        saving=draw(st.floats(0, 500)),
    )


@st.composite
def runs(draw: st.DrawFn) -> RunRecord:
    """Any run, also one of which little or nonsense was noted."""
    attempts = []
    launched = 0.0
    for number in range(1, draw(st.integers(1, 4)) + 1):
        ended = draw(st.one_of(st.none(), st.floats(launched, launched + 500)))
        decided = draw(
            st.one_of(
                st.none(),
                st.builds(
                    Decision,
                    st.sampled_from(Choice),
                    st.just(Ground.CRASH),
                    st.floats(launched, launched + 600),
                ),
            )
        )
        attempts.append(
            AttemptRecord(
                number,
                started=launched,
                ended=ended,
                decision=decided,
                last_step=draw(steps),
                origin=draw(st.one_of(st.none(), st.tuples(st.integers(0, number), st.integers(0, 60)))),
                spent=draw(spents()),
                kept=draw(steps),
            )
        )
        launched = draw(st.floats(ended or launched, (ended or launched) + 600))
    state = draw(st.sampled_from(RunState))
    return RunRecord(
        "r1",
        "job",
        draw(st.sampled_from(["pretrain", "command"])),
        2,
        0.0,
        state,
        ended=attempts[-1].ended or attempts[-1].started if state.is_terminal else None,
        attempts=tuple(attempts),
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), st.floats(0, 5000))
def test_the_account_of_any_record_adds_up_from_launch_to_end_or_now(record: RunRecord, now: float) -> None:
    account = account_of_run(record, now)
    until = record.ended if record.state.is_terminal and record.ended is not None else now
    assert account.whole == pytest.approx(max(0.0, until), abs=1e-6)
    assert min(astuple(account)) >= -1e-9


def decided(choice: Choice, time: float) -> Decision:
    return Decision(choice, Ground.CRASH, time)


def training(state: RunState, *attempts: AttemptRecord, ended: float | None = None) -> RunRecord:
    return RunRecord("r1", "job", "pretrain", 2, 1000.0, state, ended=ended, attempts=attempts)


FIRST = AttemptRecord(
    1,
    state=RunState.FAILED,
    started=1000.0,
    ended=1260.0,
    decision=decided(Choice.AGAIN, 1255.0),
    spent=Spent(1020.0, 1030.0, 1, 1250.0, 100, working=198.0, saving=20.0),
    kept=80,
)


def test_steps_behind_the_one_that_the_next_attempt_went_on_from_are_lost() -> None:
    second = AttemptRecord(2, started=1275.0, origin=(1, 80), spent=Spent(1280, 1300, 81, 1398, 130, 98.0))
    account = account_of_run(training(RunState.RUNNING, FIRST, second), 1400.0)
    assert account == TimeAccount(
        productive=198.0 * 0.8 + 100.0,
        lost=pytest.approx(198.0 * 0.2),
        waiting=1255.0 - 1030.0 - 198.0 - 20.0,
        restarting=20.0,
        saving=20.0,
        starting=30.0 + 25.0,
    )


def test_an_attempt_that_nobody_went_on_from_has_lost_all_its_steps() -> None:
    """Attempt 3 goes on from attempt 1, so that nothing of attempt 2 is kept, whatever that had saved."""
    second = AttemptRecord(
        2,
        state=RunState.FAILED,
        started=1275.0,
        ended=1400.0,
        origin=(1, 80),
        spent=Spent(1280, 1300, 81, 1398, 130, 98.0),
        kept=120,
        decision=decided(Choice.REPLACE, 1400.0),
    )
    third = AttemptRecord(3, started=1400.0, origin=(1, 60), spent=Spent())
    account = account_of_run(training(RunState.STARTING, FIRST, second, third), 1450.0)
    assert account.productive == pytest.approx(198.0 * 0.6)
    assert account.lost == pytest.approx(198.0 * 0.4 + 98.0)


def test_a_run_that_waits_for_hosts_is_restarting_until_now() -> None:
    first = dataclasses.replace(FIRST, decision=decided(Choice.WAIT, 1255.0))
    account = account_of_run(training(RunState.RESTARTING, first), 2255.0)
    assert account.restarting == 1000.0
    assert account.productive == pytest.approx(198.0 * 0.8)  # of an attempt that is over, what it has saved


def test_between_a_run_that_gave_up_and_a_resume_it_was_down() -> None:
    first = dataclasses.replace(FIRST, decision=decided(Choice.GIVE_UP, 1255.0))
    second = AttemptRecord(2, started=1360.0, origin=(1, 80), spent=Spent())
    account = account_of_run(training(RunState.STARTING, first, second), 1400.0)
    assert (account.down, account.restarting) == (100.0, 0.0)


def test_what_an_earlier_version_has_not_noted_is_not_known() -> None:
    first = dataclasses.replace(FIRST, spent=None, last_step=100)
    second = AttemptRecord(2, started=1275.0, origin=(1, 80), spent=Spent(1280, 1300, 81, 1398, 130, 98.0))
    account = account_of_run(training(RunState.RUNNING, first, second), 1400.0)
    assert (account.unknown, account.productive, account.starting) == (255.0, 100.0, 25.0)


def test_where_nobody_tells_of_checkpoints_it_is_not_known_what_was_kept() -> None:
    first = dataclasses.replace(FIRST, kept=None, decision=None)
    account = account_of_run(training(RunState.FAILED, first, ended=1260.0), 9999.0)
    assert (account.productive, account.lost, account.unknown) == (0.0, 0.0, 198.0)


def test_workers_that_tell_of_no_steps_have_started_when_all_of_them_run() -> None:
    attempt = AttemptRecord(1, started=1000.0, spent=Spent(running=1010.0))
    record = dataclasses.replace(training(RunState.RUNNING, attempt), task="command")
    assert account_of_run(record, 1100.0) == TimeAccount(starting=10.0, unknown=90.0)


def test_the_step_that_is_being_made_is_no_waiting() -> None:
    attempt = AttemptRecord(1, started=1000.0, spent=Spent(1010, 1020, 1, 1060, 11, 40.0))
    record = training(RunState.RUNNING, attempt)
    assert account_of_run(record, 1065.0).waiting == 0.0
    assert account_of_run(record, 1160.0).waiting == 100.0
