"""The watch over a run, round by round: hosts that answer, fall silent, come back, and the gang rule."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.cli.sentences import cause_sentence, end_sentence, host_note, stop_sentence
from orchestrator.config.job import Timeouts
from orchestrator.control.run_record import RunRecord, Waits
from orchestrator.control.watch import Watch, look_once
from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.errors import AgentError, AuthenticationError, ConnectError
from orchestrator.core.records import HostStatus
from orchestrator.core.states import RunState
from orchestrator.testing.waiting import eventually
from tests.control.judged import START, Clock, FakeFleet, FakeHost, rank, record, round_of, scheduler, watch

BECAUSE = StopReason.requested("because")
NO_ROUTE = ConnectError("no route to host", where="b")
NO_LOGIN = AuthenticationError("no key was accepted", where="b")


def refused() -> ConnectError:
    error = ConnectError("connection refused", where="b")
    error.refused = True
    return error


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hosts() -> tuple[FakeHost, FakeHost]:
    """Two hosts of two running ranks each."""
    return FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))


@pytest.fixture
def watched(clock: Clock, hosts: tuple[FakeHost, FakeHost]) -> Iterator[Watch]:
    made = watch(clock, *hosts)
    yield made
    made.close()


def states(run: RunRecord) -> list[str]:
    return [str(item.state) for item in run.ranks()]


def pass_time(clock: Clock, watched: Watch, seconds: float, step: float = 5.0) -> RunRecord:
    """Rounds until so much time is over."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        round_of(watched)
    return watched.record


def test_a_run_from_its_start_to_its_good_end(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
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
    clock.now += 7
    run = round_of(watched)
    assert (run.state, run.exit_code, run.ended) == (RunState.SUCCEEDED, 0, START + 7)
    assert run.cause is None and run.victims == () and a.told == b.told == []


def test_a_host_that_is_over_is_not_asked_again(hosts: tuple[FakeHost, FakeHost], watched: Watch) -> None:
    a, b = hosts
    a.says(rank(0, "succeeded"), rank(1, "succeeded"), phase="over")
    for _ in range(3):
        round_of(watched)
    assert (a.asked, b.asked) == (1, 3)


def test_the_first_rank_that_fails_ends_all_ranks_on_all_hosts(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    failed = rank(3, "failed", ended=START + 1, exit_code=1, tail=("Error: x",))
    b.says(rank(2, "stopped", ended=START + 2), failed, phase="stopping", failed_first=3)
    run = round_of(watched)
    assert run.cause is not None and (run.cause.host, run.cause.rank) == ("b", 3)
    assert run.cause.end.tail == ("Error: x",)
    assert run.state is RunState.RUNNING  # not over before its last worker is
    assert a.told == []  # those who were asked in this round learn of it in the next
    round_of(watched)
    assert [stop_sentence(reason) for reason in a.told] == [
        "rank 3 on b exited with code 1"
    ] and b.told == []  # that host stops already
    a.says(rank(0, "stopped", ended=START + 3), rank(1, "succeeded", ended=START), phase="over")
    b.says(rank(2, "stopped", ended=START + 2), failed, phase="over")
    clock.now += 5
    run = round_of(watched)
    assert (run.state, run.exit_code, run.ended) == (RunState.FAILED, 1, START + 5)
    assert run.victims == (0, 2)


def test_a_cause_once_found_stays(clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch) -> None:
    a, b = hosts
    b.says(rank(2), rank(3, "failed", ended=START + 2, signal=9), phase="stopping")
    cause = round_of(watched).cause
    a.says(rank(0, "failed", ended=START + 9, exit_code=1), rank(1), phase="stopping")
    clock.now += 10
    assert round_of(watched).cause == cause


def test_a_gang_is_told_to_stop_until_it_does(hosts: tuple[FakeHost, FakeHost], watched: Watch) -> None:
    a, _ = hosts
    watched.stop(BECAUSE)
    watched.stop(StopReason.requested("another reason"))
    for _ in range(2):
        round_of(watched)
    assert a.told == [BECAUSE, BECAUSE]
    a.says(rank(0), rank(1), phase="stopping")
    round_of(watched)
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
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
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
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
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


def test_a_host_that_refuses_connections_for_longer_than_unreachable_is_lost_and_ends_the_run(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = refused()
    run = pass_time(clock, watched, 60 + 15)
    assert run.cause is not None
    assert (run.cause.host, run.cause.rank, run.cause.time) == ("b", 2, START)
    assert end_sentence(run.cause.end) == "was lost: b: connection refused"
    assert states(run) == ["running", "running", "lost", "lost"] and run.state is RunState.RUNNING
    round_of(watched)
    assert stop_sentence(a.told[0]) == "rank 2 on b was lost: b: connection refused"
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over")
    run = round_of(watched)
    assert (run.state, run.exit_code) == (RunState.FAILED, 1)
    assert run.victims == (0, 1, 3)


def test_a_lost_host_that_comes_back_is_told_to_stop_and_the_run_has_failed_all_the_same(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = refused()
    cause = pass_time(clock, watched, 75).cause
    b.says(rank(2), rank(3))
    run = pass_time(clock, watched, 20)
    assert states(run) == ["running"] * 4 and run.cause == cause is not None
    assert b.told and b.told[0] == a.told[0]
    for host, ranks in ((a, (0, 1)), (b, (2, 3))):
        host.says(*(rank(number, "stopped") for number in ranks), phase="over")
    run = round_of(watched)
    assert (run.state, run.cause) == (RunState.FAILED, cause)


def test_a_host_that_has_never_answered_is_lost_by_the_time_of_the_watch(clock: Clock) -> None:
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b")
    b.error = refused()
    watched = watch(clock, a, b)
    try:
        assert pass_time(clock, watched, 55).cause is None
        run = pass_time(clock, watched, 20)
        assert run.cause is not None and (run.cause.host, run.cause.rank) == ("b", None)
    finally:
        watched.close()


def test_without_a_second_sign_it_takes_until_lost_and_the_record_says_that_it_waits(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = NO_ROUTE
    run = pass_time(clock, watched, 590)
    view = run.hosts["b"]
    assert run.cause is None and a.told == [] and states(run)[2:] == ["unreachable"] * 2
    assert (view.waits, view.limit) == (Waits.NO_SIGN, 600.0) and 560 < view.silent <= 590
    assert host_note(view) == (
        "b: no route to host; not lost: nothing else says that it is gone, until it has been silent for 600 s"
        f" ({view.silent:.0f} s so far)"
    )
    run = pass_time(clock, watched, 30)
    assert run.cause is not None and run.cause.host == "b" and run.hosts["b"].lost


def test_a_refused_login_is_never_a_loss(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    """The agent with the key is gone, or a certificate has run out."""
    a, b = hosts
    round_of(watched)
    b.error = NO_LOGIN
    run = pass_time(clock, watched, 3000)
    assert run.cause is None and a.told == [] and run.hosts["b"].waits is Waits.LOGIN
    assert states(run) == ["running", "running", "unreachable", "unreachable"]
    a.says(rank(0), rank(1, "failed", ended=START, exit_code=1), phase="stopping")
    b.error = None
    pass_time(clock, watched, 20)
    assert b.told  # the gang rule reaches it once it lets us in


def test_a_run_that_has_failed_ends_though_a_host_lets_nobody_in(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = NO_LOGIN
    a.says(rank(0, "stopped"), rank(1, "failed", ended=START, exit_code=1), phase="over")
    run = pass_time(clock, watched, 80)
    assert run.state is RunState.FAILED and run.cause is not None and run.cause.rank == 1
    assert run.hosts["b"].may_have_workers


def test_a_management_network_that_is_away_ends_nothing(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    a.error = b.error = NO_ROUTE
    run = pass_time(clock, watched, 3000)
    assert run.cause is None and {view.waits for view in run.hosts.values()} == {Waits.NO_HOST}
    a.error = b.error = None
    run = pass_time(clock, watched, 20)
    assert states(run) == ["running"] * 4 and a.told == b.told == []


def test_a_monitor_that_slept_has_seen_nothing(hosts: tuple[FakeHost, FakeHost]) -> None:
    """It wakes on a train: for a minute nobody answers. Its steady clock stood still, or did not."""
    for steady_too in (False, True):
        wall, steady = Clock(), Clock()
        a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
        limits = Timeouts(unreachable=60.0, lost=90.0, start=600.0)
        watched = Watch(record(a, b), FakeFleet(a, b), limits, clock=wall, steady=steady)  # type: ignore[arg-type]
        try:
            round_of(watched)
            b.error = refused()
            for _ in range(10):
                wall.now, steady.now = wall.now + 5, steady.now + 5
                round_of(watched)
            wall.now += 9 * 3600
            steady.now += 9 * 3600 if steady_too else 0
            for _ in range(11):
                run = round_of(watched)
                wall.now, steady.now = wall.now + 5, steady.now + 5
            assert run.cause is None and a.told == [] and run.hosts["b"].silent <= 55
            b.error = None
            for _ in range(4):
                run = round_of(watched)
                wall.now, steady.now = wall.now + 5, steady.now + 5
            assert states(run) == ["running"] * 4 and b.told == []
        finally:
            watched.close()


def test_a_training_that_goes_on_elsewhere_loses_no_host(clock: Clock) -> None:
    """Its ranks cannot make a step without each other: the host that refuses us works."""
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    watched = watch(clock, a, b, task="finetune")

    def train(rounds: int, step: int = 0) -> RunRecord:
        for number in range(rounds):
            clock.now += 5
            done = {"step": step + number // 2}
            a.says(rank(0, progress=done), rank(1, progress=done))
            round_of(watched)
        return watched.record

    try:
        b.says(rank(2, progress={"step": 1}), rank(3, progress={"step": 1}))
        train(4)
        b.error = refused()
        run = train(200, 10)
        assert run.cause is None and run.hosts["b"].waits is Waits.STEPS and a.told == []
        # Now nobody makes steps any more: that is the second sign.
        b.error = NO_ROUTE
        run = pass_time(clock, watched, 90)
        assert run.cause is not None and run.cause.host == "b"
    finally:
        watched.close()


@pytest.mark.parametrize("kind", ["damaged", "newer", "foreign"])
def test_a_status_that_cannot_be_read_is_no_loss(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch, kind: str
) -> None:
    a, b = hosts
    b.error = AgentError("status.json is damaged", kind=kind, where="b")
    run = pass_time(clock, watched, 100)
    assert run.cause is None and a.told == [] and not run.hosts["b"].lost


def test_a_host_that_tells_of_the_ranks_of_another_is_not_believed(clock: Clock) -> None:
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    placed = {"a": frozenset({0, 1}), "b": frozenset({2, 3})}
    fleet: Any = FakeFleet(a, b)
    watched = Watch(record(a, b), fleet, Timeouts(), placed=placed, clock=clock, steady=clock)
    try:
        round_of(watched)
        b.says(rank(0, "failed", exit_code=1), rank(1, "failed", exit_code=1), phase="over")
        clock.now += 1
        run = round_of(watched)
        assert run.cause is None and run.hosts["b"].error == "b: told of other ranks than its own"
        assert states(run) == ["running", "running", "unreachable", "unreachable"]
    finally:
        watched.close()


def test_a_host_lost_when_the_run_ended_is_stopped_when_it_is_back(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = refused()
    pass_time(clock, watched, 75)
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over")
    run = round_of(watched)
    assert run.state is RunState.FAILED and run.hosts["b"].may_have_workers
    ended = run.ended
    b.error = None
    run = pass_time(clock, watched, 70)
    assert b.told and stop_sentence(b.told[0]) == "rank 2 on b was lost: b: connection refused"
    b.says(rank(2, "stopped"), rank(3, "stopped"), phase="over")
    run = pass_time(clock, watched, 5)
    assert (run.state, run.exit_code, run.ended) == (RunState.FAILED, 1, ended)
    assert run.hosts["b"].is_over and not run.hosts["b"].may_have_workers


def test_another_monitor_goes_on_stopping_what_is_left(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = refused()
    pass_time(clock, watched, 75)
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over")
    over = round_of(watched)
    b.error = None
    fleet: Any = FakeFleet(a, b)
    asked = a.asked
    again = Watch(over, fleet, Timeouts(), clock=clock, steady=clock)
    try:
        round_of(again)
        assert b.told and a.asked == asked
    finally:
        again.close()


def test_a_host_that_vanishes_while_all_are_stopped_makes_no_failure_of_it(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = NO_ROUTE
    by_hand = StopReason.requested("stopped by me")
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over", stop=by_hand)
    run = pass_time(clock, watched, 90)
    assert (run.state, run.exit_code, run.cause) == (RunState.STOPPED, 5, None)
    assert states(run)[2:] == ["lost", "lost"]


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
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
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


def test_a_host_where_nothing_of_the_run_is_there_is_lost_at_once(
    hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    _, b = hosts
    b.error = AgentError("no run r1", kind="no_run")
    run = round_of(watched)
    assert run.hosts["b"].lost and run.cause is not None
    assert run.cause.end.message.startswith("b: nothing of this run is there")


def test_a_host_that_fails_is_asked_less_and_less_often(
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    b.error = NO_ROUTE
    asked = []
    for _ in range(60):
        before = b.asked
        round_of(watched)
        if b.asked > before:
            asked.append(clock.now - START)
        clock.now += 1
    assert asked == [0, 2, 6, 14, 29, 44, 59]  # 2, 4, 8, then 15 s apart
    assert a.asked == 60


class Deaf(FakeHost):
    """A host whose answers do not come until it is let go."""

    def __init__(self, name: str, *ranks: Any) -> None:
        super().__init__(name, *ranks)
        self.may_answer = threading.Event()

    def status(self, run_id: str, **args: Any) -> HostStatus:
        assert self.may_answer.wait(30.0)
        return super().status(run_id, **args)


def test_a_host_that_keeps_its_answer_holds_up_nobody(clock: Clock) -> None:
    a, b = FakeHost("a", rank(0), rank(1)), Deaf("b", rank(2), rank(3))
    watched = watch(clock, a, b)
    try:
        for _ in range(3):
            run = watched.step(patience=0.05)
        assert a.asked == 3 and states(run) == ["running", "running"]
        a.says(rank(0, "failed", exit_code=1), rank(1), phase="committed")
        watched.step(patience=0.05)
        run = watched.step(patience=0.05)
        assert run.cause is not None and a.told
        b.may_answer.set()
        eventually(lambda: states(watched.step(patience=0.05))[2:] == ["running"] * 2)
        eventually(lambda: watched.step(patience=0.05) and b.told)
        assert b.asked >= 2  # the one question that waited, and the next, with the order to stop
    finally:
        b.may_answer.set()
        watched.close()


def test_a_training_whose_ranks_make_no_step_in_time_fails_and_names_them(clock: Clock) -> None:
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
    clock: Clock, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    clock.now = START + 10_000
    assert round_of(watched).cause is None


def test_a_scheduler_that_outlives_its_ranks_is_ended_after_the_grace_period(clock: Clock) -> None:
    a = FakeHost("a", rank(0, "succeeded"), rank(1, "succeeded"), scheduler=scheduler())
    watched = watch(clock, a)
    try:
        round_of(watched)
        clock.now += 10
        round_of(watched)
        round_of(watched)
        assert a.told == []
        clock.now += 1
        round_of(watched)
        round_of(watched)
        assert a.told == [StopReason(StopKind.RANKS_DONE)]
        a.says(rank(0, "succeeded"), rank(1, "succeeded"), scheduler=scheduler("stopped"), phase="over")
        run = round_of(watched)
        assert (run.state, run.exit_code) == (RunState.SUCCEEDED, 0)
    finally:
        watched.close()


def test_a_scheduler_waits_for_ranks_of_hosts_that_have_not_answered(clock: Clock) -> None:
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
    run = look_once(record(a, b), FakeFleet(a, b), Timeouts())  # type: ignore[arg-type]
    assert run.cause is not None and run.cause.rank == 3
    assert a.told == b.told == [] and (a.asked, b.asked) == (1, 1)


def test_a_bug_that_one_host_finds_ends_no_watch(clock: Clock, hosts: tuple[FakeHost, FakeHost]) -> None:
    a, b = hosts
    watched = watch(clock, a, b)
    try:
        round_of(watched)
        b.error = KeyError("no such key")
        for _ in range(3):
            clock.now += 5
            run = round_of(watched)
        assert states(run) == ["running", "running", "unreachable", "unreachable"]
        assert "internal error: KeyError('no such key')" in run.hosts["b"].error
        assert run.cause is None
    finally:
        watched.close()
