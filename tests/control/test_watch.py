"""The watch over a run, round by round: hosts that answer, fall silent, come back, and the gang rule."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from orchestrator.cli.sentences import cause_sentence, end_sentence, stop_sentence
from orchestrator.config.run_terms import Timeouts
from orchestrator.control.watch import Watch, look_once
from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.errors import ConnectError
from orchestrator.core.states import RunState
from tests.control.judged import (
    START,
    FakeHost,
    pass_time,
    rank,
    record,
    round_of,
    scheduler,
    states,
    watch,
)
from tests.hosts.push_host import Hands, HandScheduling, PushFleet

BECAUSE = StopReason.requested("because")
NO_ROUTE = ConnectError("no route to host", where="b")


def test_a_run_from_its_start_to_its_good_end(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    a.says(rank(0, "starting"), rank(1, "pending"), phase="started")
    run = round_of(watched)
    assert run.state is RunState.STARTING and run.phase == "starting" and run.updated == START
    a.says(rank(0), rank(1))
    assert round_of(watched).state is RunState.RUNNING
    a.says(rank(0, "succeeded"), rank(1, "succeeded"), phase="over")
    assert round_of(watched).state is RunState.RUNNING
    b.says(rank(2, "succeeded"), rank(3, "succeeded"), phase="over")
    clock.passes(7)
    run = round_of(watched)
    assert (run.state, run.exit_code, run.ended) == (RunState.SUCCEEDED, 0, START + 7)
    assert run.cause is None and run.victims == () and a.told == b.told == []


def test_a_host_that_is_over_is_not_asked_again(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    a.says(rank(0, "succeeded"), rank(1, "succeeded"), phase="over")
    pass_time(clock, watched, 120)
    assert a.asked == 1 and b.asked == 4  # to tell, then whenever two beats of 15 s were missed
    a.error = NO_ROUTE
    run = pass_time(clock, watched, 120)
    assert a.asked == 1 and not run.hosts["a"].error


def test_nobody_is_asked_again_while_it_pushes(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    for _ in range(60):
        round_of(watched)
        clock.passes(5)
        a.beat()
        b.beat()
    assert (a.asked, b.asked) == (1, 1) and states(watched.record) == ["running"] * 4


def test_the_first_rank_that_fails_ends_all_ranks_on_all_hosts(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    failed = rank(3, "failed", ended=START + 1, exit_code=1, tail=("Error: x",))
    b.says(rank(2, "stopped", ended=START + 2), failed, phase="stopping", failed_first=3)
    run = round_of(watched)
    assert run.cause is not None and (run.cause.host, run.cause.rank) == ("b", 3)
    assert run.cause.end.tail == ("Error: x",)
    assert run.state is RunState.RUNNING  # not over before its last worker is
    assert [stop_sentence(reason) for reason in a.told] == [
        "rank 3 on b exited with code 1"
    ] and b.told == []  # that host stops already
    a.says(rank(0, "stopped", ended=START + 3), rank(1, "succeeded", ended=START), phase="over")
    b.says(rank(2, "stopped", ended=START + 2), failed, phase="over")
    clock.passes(5)
    run = round_of(watched)
    assert (run.state, run.exit_code, run.ended) == (RunState.FAILED, 1, START + 5)
    assert run.victims == (0, 2)


def test_a_cause_once_found_stays(clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch) -> None:
    a, b = hosts
    b.says(rank(2), rank(3, "failed", ended=START + 2, signal=9), phase="stopping")
    cause = round_of(watched).cause
    a.says(rank(0, "failed", ended=START + 9, exit_code=1), rank(1), phase="stopping")
    clock.passes(10)
    assert round_of(watched).cause == cause


def test_a_gang_is_told_to_stop_until_it_does(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, _ = hosts
    watched.stop(BECAUSE)
    watched.stop(StopReason.requested("another reason"))
    for _ in range(3):
        round_of(watched)
        clock.passes(2)
    assert a.told == [BECAUSE]
    pass_time(clock, watched, 5)
    assert a.told == [BECAUSE, BECAUSE]
    a.says(rank(0), rank(1), phase="stopping")
    pass_time(clock, watched, 20)
    assert len(a.told) == 2


@pytest.mark.parametrize(
    ("phase", "times"), [("prepared", 0), ("started", 1), ("committed", 1), ("stopping", 0), ("over", 0)]
)
def test_only_workers_that_run_are_told_to_stop(
    hosts: tuple[FakeHost, FakeHost], watched: Watch, phase: str, times: int
) -> None:
    a, _ = hosts
    a.says(rank(0), rank(1), phase=phase)
    watched.stop(BECAUSE)
    round_of(watched)
    assert len(a.told) == times


def test_a_gang_of_which_a_part_was_stopped_on_its_host_is_stopped(
    hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    b.says(rank(2, "stopped"), rank(3, "stopped"), phase="over", stop=StopReason.requested("told by hand"))
    run = round_of(watched)
    assert run.cause is None
    round_of(watched)
    assert [stop_sentence(reason) for reason in a.told] == ["b has stopped: told by hand"]
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over", stop=StopReason.requested("b has stopped"))
    run = round_of(watched)
    assert (run.state, run.exit_code, run.victims) == (RunState.STOPPED, 5, ())


def test_a_host_that_stops_and_has_stopped_no_rank_yet_stops_nobody_else(
    hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    b.says(rank(2), rank(3, "succeeded"), phase="stopping", stop=StopReason.requested("told by hand"))
    for _ in range(2):
        round_of(watched)
    assert a.told == []


def test_a_host_that_cannot_be_reached_is_unreachable_and_nothing_is_claimed_of_it(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = NO_ROUTE
    run = pass_time(clock, watched, 55)
    assert states(run) == ["running", "running", "unreachable", "unreachable"]
    assert run.state is RunState.RUNNING and run.cause is None
    assert run.hosts["b"].error == "b: no route to host" and run.hosts["b"].last_contact == START
    assert (
        a.told == [] and b.dropped == b.asked - 1
    )  # each failure ends its session, so that one is made anew


def test_a_host_that_answers_again_is_as_if_nothing_had_been(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = NO_ROUTE
    pass_time(clock, watched, 50)
    b.error = None
    run = pass_time(clock, watched, 20)  # its next turn comes within 15 s
    assert states(run) == ["running"] * 4 and run.hosts["b"].error == "" and not run.hosts["b"].lost
    b.error = NO_ROUTE
    run = pass_time(clock, watched, 55)  # its time begins anew
    assert states(run)[2:] == ["unreachable"] * 2 and run.cause is None and a.told == []


def test_a_host_that_tells_of_the_ranks_of_another_is_not_believed(clock: Hands) -> None:
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    placed = {"a": frozenset({0, 1}), "b": frozenset({2, 3})}
    fleet: Any = PushFleet(a, b)
    watched = Watch(record(a, b), fleet, Timeouts(), placed=placed, scheduling=HandScheduling(clock))
    try:
        round_of(watched)
        b.says(rank(0, "failed", exit_code=1), rank(1, "failed", exit_code=1), phase="over")
        clock.passes(1)
        run = round_of(watched)
        assert run.cause is None and "expected the host's own ranks" in run.hosts["b"].error
        assert states(run) == ["running", "running", "unreachable", "unreachable"]
    finally:
        watched.close()


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (StopKind.LAUNCH_LAPSED, "on b failed: the launch broke off before every host had started"),
        (StopKind.GUARDIAN_ENDED, "on b failed: the guardian, the supervisor's parent, was killed"),
        (StopKind.SUPERVISOR_TERMINATED, "on b failed: the supervisor was told to end (SIGTERM)"),
    ],
)
def test_what_ended_and_nobody_asked_for_is_a_failure_with_its_cause(
    hosts: tuple[FakeHost, FakeHost], watched: Watch, kind: StopKind, sentence: str
) -> None:
    a, b = hosts
    round_of(watched)
    b.says(rank(2, "stopped"), rank(3, "stopped"), phase="over", stop=StopReason(kind))
    round_of(watched)
    round_of(watched)
    assert [stop_sentence(reason) for reason in a.told] == [sentence]
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over", stop=a.told[0])
    run = round_of(watched)
    assert (run.state, run.exit_code) == (RunState.FAILED, 1) and run.victims == (0, 1, 2, 3)
    assert run.cause is not None and cause_sentence(run.cause) == sentence


def test_the_cause_is_found_again_from_what_slower_hosts_tell(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    """The victim's host answers first; the culprit's a turn later."""
    a, b = hosts
    lost = "RuntimeError: Connection closed by peer"
    a.says(rank(0, "failed", ended=START + 2, exit_code=1, tail=(lost,)), rank(1), phase="stopping")
    run = round_of(watched)
    assert run.cause is not None and not run.cause.sure and run.cause.rank is None
    assert cause_sentence(run.cause) == (
        "not known: rank 0 exited with code 1 first, and tells of the loss of another"
    )
    b.says(rank(2), rank(3, "failed", ended=START + 3, signal=9), phase="stopping")
    run = round_of(watched)
    assert run.cause is not None and (run.cause.sure, run.cause.rank) == (True, 3)
    assert run.cause.reporters == (0,)


def test_a_host_that_fails_is_asked_less_and_less_often(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    _, b = hosts
    b.error = NO_ROUTE
    asked = []
    for _ in range(60):
        before = b.asked
        round_of(watched)
        if b.asked > before:
            asked.append(clock.now - START)
        clock.passes(1)
    # 2, 4, 8, then 15 s apart, a fifth of it more or less, and looked at once a second
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    for gap, due in zip(gaps, [2, 4, 8, 15, 15, 15, 15], strict=False):
        assert 0.8 * due <= gap <= 1.2 * due + 1, gaps
    assert len(gaps) >= 4


def test_a_host_that_keeps_its_answer_holds_up_nobody(clock: Hands) -> None:
    """It is asked, and takes what is written; the others are heard and told meanwhile."""
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    watched = watch(clock, a, b)
    try:
        round_of(watched)
        pass_time(clock, watched, 5)  # its clock is measured soon after it is there
        b.is_deaf = True
        run = pass_time(clock, watched, 40)  # twice its beat, and some
        assert states(run) == ["running"] * 4 and not run.hosts["b"].error
        a.says(rank(0, "failed", exit_code=1), rank(1), phase="committed")
        run = round_of(watched)
        assert run.cause is not None and a.told and not b.told
        run = pass_time(clock, watched, 10)
        assert "within 10 s" in run.hosts["b"].error
        b.is_deaf = False
        run = pass_time(clock, watched, 20)
        assert not run.hosts["b"].error and b.told
    finally:
        watched.close()


def test_a_training_whose_ranks_make_no_step_in_time_fails_and_names_them(clock: Hands) -> None:
    a = FakeHost("a", rank(0, progress={"step": 1}), rank(1))
    b = FakeHost("b", rank(2), rank(3, "succeeded"))
    watched = watch(clock, a, b, task="finetune")
    try:
        assert pass_time(clock, watched, 595).cause is None
        cause = pass_time(clock, watched, 5).cause
        assert cause is not None and (cause.host, cause.rank) == ("a", 1)
        assert end_sentence(cause.end) == "made no step within 600 s (2 of 4 ranks have; missing: 1, 2)"
    finally:
        watched.close()


def test_other_tasks_have_no_deadline_for_their_first_step(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    clock.passes(10_000)
    assert round_of(watched).cause is None


def test_a_scheduler_that_outlives_its_ranks_is_ended_after_the_grace_period(clock: Hands) -> None:
    a = FakeHost("a", rank(0, "succeeded"), rank(1, "succeeded"), scheduler=scheduler())
    watched = watch(clock, a)
    try:
        round_of(watched)
        clock.passes(10)
        round_of(watched)
        round_of(watched)
        assert a.told == []
        clock.passes(1)
        round_of(watched)
        round_of(watched)
        assert a.told == [StopReason(StopKind.RANKS_DONE)]
        a.says(rank(0, "succeeded"), rank(1, "succeeded"), scheduler=scheduler("stopped"), phase="over")
        run = round_of(watched)
        assert (run.state, run.exit_code) == (RunState.SUCCEEDED, 0)
    finally:
        watched.close()


def test_a_scheduler_waits_for_ranks_of_hosts_that_have_not_answered(clock: Hands) -> None:
    a, b = FakeHost("a", rank(0, "succeeded"), rank(1, "succeeded"), scheduler=scheduler()), FakeHost("b")
    b.error = NO_ROUTE
    watched = watch(clock, a, b)
    try:
        pass_time(clock, watched, 40)
        assert a.told == []
    finally:
        watched.close()


def test_looking_once_judges_and_stops_nobody(hosts: tuple[FakeHost, FakeHost]) -> None:
    a, b = hosts
    b.says(rank(2), rank(3, "failed", ended=START, exit_code=1), phase="stopping")
    run = look_once(record(a, b), PushFleet(a, b), Timeouts())  # type: ignore[arg-type]
    assert run.cause is not None and run.cause.rank == 3
    assert a.told == b.told == [] and (a.asked, b.asked) == (1, 1)


def test_a_bug_that_one_host_finds_ends_no_watch(clock: Hands, hosts: tuple[FakeHost, FakeHost]) -> None:
    a, b = hosts
    watched = watch(clock, a, b)
    try:
        round_of(watched)
        b.error = KeyError("no such key")
        for _ in range(3):
            clock.passes(5)
            run = round_of(watched)
        assert states(run) == ["running", "running", "unreachable", "unreachable"]
        assert "internal error: KeyError('no such key')" in run.hosts["b"].error
        assert run.cause is None
    finally:
        watched.close()
