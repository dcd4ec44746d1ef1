"""Hosts that do not answer: when that is a loss, and when it says nothing about the run."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cli.sentences import end_sentence, host_note, stop_sentence
from orchestrator.config.run_terms import Timeouts
from orchestrator.control.host_loss import StuckHosts
from orchestrator.control.host_views import HostViews
from orchestrator.control.run_record import HostView, RunRecord, Waits
from orchestrator.control.watch import Watch
from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.errors import AgentError, AuthenticationError, ConnectError
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState, RunState
from orchestrator.hosts.host_link import Failed, Present, Said
from tests.control.judged import (
    START,
    FakeHost,
    pass_time,
    rank,
    round_of,
    states,
    watch,
)
from tests.hosts.push_host import Hands, HandScheduling, PushFleet

NO_ROUTE = ConnectError("no route to host", where="b")
NO_LOGIN = AuthenticationError("no key was accepted", where="b")


def refused() -> ConnectError:
    error = ConnectError("connection refused", where="b")
    error.refused = True
    return error


def test_a_host_that_refuses_connections_for_longer_than_unreachable_is_lost_and_ends_the_run(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
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
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
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


def test_a_host_that_has_never_answered_is_lost_by_the_time_of_the_watch(clock: Hands) -> None:
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
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
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
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
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
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = NO_LOGIN
    a.says(rank(0, "stopped"), rank(1, "failed", ended=START, exit_code=1), phase="over")
    run = pass_time(clock, watched, 80)
    assert run.state is RunState.FAILED and run.cause is not None and run.cause.rank == 1
    assert run.hosts["b"].may_have_workers


def test_a_management_network_that_is_away_ends_nothing(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
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
        hands = Hands(START)
        a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
        watched = watch(hands, a, b, lost=90.0)
        try:
            round_of(watched)
            b.error = refused()
            for _ in range(10):
                hands.passes(5)
                round_of(watched)
            hands.wall += 9 * 3600
            hands.now += 9 * 3600 if steady_too else 0
            for _ in range(11):
                run = round_of(watched)
                hands.passes(5)
            assert run.cause is None and a.told == [] and run.hosts["b"].silent <= 55
            b.error = None
            for _ in range(4):
                run = round_of(watched)
                hands.passes(5)
            assert states(run) == ["running"] * 4 and b.told == []
        finally:
            watched.close()


def test_a_training_that_goes_on_elsewhere_loses_no_host(clock: Hands) -> None:
    """Its ranks cannot make a step without each other: the host that refuses us works."""
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    watched = watch(clock, a, b, task="finetune")

    def train(rounds: int, step: int = 0) -> RunRecord:
        for number in range(rounds):
            clock.passes(5)
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
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch, kind: str
) -> None:
    a, b = hosts
    b.error = AgentError("status.json is damaged", kind=kind, where="b")
    run = pass_time(clock, watched, 100)
    assert run.cause is None and a.told == [] and not run.hosts["b"].lost
    # Once the run has failed for another reason, nothing is waited for there.
    a.says(rank(0, "stopped"), rank(1, "failed", ended=START, exit_code=1), phase="over")
    run = round_of(watched)
    assert run.state is RunState.FAILED and run.hosts["b"].may_have_workers


def test_a_host_lost_when_the_run_ended_is_stopped_when_it_is_back(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
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


@pytest.mark.parametrize(("error", "limit"), [(refused(), 5.0), (NO_ROUTE, 60.0)])
def test_a_host_that_refuses_connections_beside_a_failed_rank_is_gone(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch, error: ConnectError, limit: float
) -> None:
    """Both together prove it; that a host is merely not reached proves nothing."""
    a, b = hosts
    round_of(watched)
    a.says(rank(0, "stopped"), rank(1, "failed", ended=START, exit_code=1), phase="over")
    b.error = error
    run = pass_time(clock, watched, 3)
    assert run.cause is not None and run.cause.host == "a" and not run.hosts["b"].lost
    silent = 0.0
    while not run.hosts["b"].lost:
        silent = run.hosts["b"].silent
        run = pass_time(clock, watched, 1)
    assert silent <= limit < run.hosts["b"].silent and run.state is RunState.FAILED


def test_another_monitor_goes_on_stopping_what_is_left(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = refused()
    pass_time(clock, watched, 75)
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over")
    over = round_of(watched)
    b.error = None
    fleet: Any = PushFleet(a, b)
    asked = a.asked
    again = Watch(over, fleet, Timeouts(), scheduling=HandScheduling(clock))
    try:
        round_of(again)
        assert b.told and a.asked == asked
    finally:
        again.close()


def test_a_host_that_vanishes_while_all_are_stopped_makes_no_failure_of_it(
    clock: Hands, hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.error = NO_ROUTE
    by_hand = StopReason.requested("stopped by me")
    a.says(rank(0, "stopped"), rank(1, "stopped"), phase="over", stop=by_hand)
    run = pass_time(clock, watched, 90)
    assert (run.state, run.exit_code, run.cause) == (RunState.STOPPED, 5, None)
    assert states(run)[2:] == ["lost", "lost"]


def test_a_host_where_nothing_of_the_run_is_there_is_lost_at_once(
    hosts: tuple[FakeHost, FakeHost], watched: Watch
) -> None:
    _, b = hosts
    b.error = AgentError("no run r1", kind="no_run")
    run = round_of(watched)
    assert run.hosts["b"].lost and run.cause is not None
    assert run.cause.end.message.startswith("b: nothing of this run is there")


class _Silent:
    """A feed that says nothing by itself."""

    def take(self) -> list[Said]:
        return []

    def has(self, name: str, mark: object) -> None: ...

    def done(self, name: str) -> None: ...


def test_hosts_that_have_not_been_asked_again_yet_do_not_count_as_answering() -> None:
    """All connections break at once, the hosts are asked again in turn, and the first ones have failed."""
    scheduling = HandScheduling()
    status = HostStatus("r1", "job", "a", 0.0, (RankStatus(0, 0, 0, RankState.RUNNING),), phase="committed")
    views = HostViews(
        {name: HostView(status) for name in "abc"},
        "abc",
        _Silent(),  # type: ignore[arg-type]
        scheduling,
    )
    for name in "abc":
        views.fold(Said(name, Present()))
    timeouts = Timeouts()
    scheduling.hands.passes(10.0)
    views.fold(Said("a", Failed(ConnectError("no route", where="a"), scheduling.monotonic())))
    scheduling.hands.passes(timeouts.unreachable + 1)
    views.fold(Said("a", Failed(ConnectError("no route", where="a"), scheduling.monotonic())))
    views.note_losses("train", timeouts, ending=False)
    assert not views.views["a"].lost and views.views["a"].waits is Waits.NO_HOST
    for name in "bc":  # they are there after all, so that it is no matter of our network
        views.fold(Said(name, Present()))
    views.note_losses("train", timeouts, ending=False)
    assert views.views["a"].waits is not Waits.NO_HOST


# Hosts that answer, and on which something of the run does not end.


def ending(*stuck: bool, phase: str = "stopping") -> HostStatus:
    ranks = tuple(
        RankStatus(rank, rank, rank, RankState.RUNNING, stuck=is_stuck) for rank, is_stuck in enumerate(stuck)
    )
    return HostStatus("r", "j", "h", 0.0, ranks, phase=phase)


def test_a_stuck_host_is_lost_when_it_alone_has_been_left_for_a_while() -> None:
    hosts = StuckHosts()
    hosts.note("a", ending(False, True))
    hosts.note("b", ending(False))
    assert hosts and hosts.lost(["a", "b"], 0.0) == []
    assert hosts.lost(["a", "b"], 100.0) == []  # b may still save
    assert hosts.lost(["a"], 200.0) == []
    assert hosts.lost(["a"], 209.9) == []
    assert hosts.lost(["a"], 210.0) == ["a"]


def test_several_stuck_hosts_wait_for_nobody_but_each_other() -> None:
    hosts = StuckHosts()
    for name in "ab":
        hosts.note(name, ending(True))
    hosts.lost(["a", "b"], 0.0)
    assert hosts.lost(["a", "b"], 20.0) == ["a", "b"]


def test_a_stuck_host_that_ends_after_all_is_not_lost() -> None:
    hosts = StuckHosts()
    hosts.note("a", ending(True))
    hosts.lost(["a"], 0.0)
    hosts.note("a", ending(phase="over"))
    assert not hosts and hosts.lost([], 100.0) == []
    hosts.note("a", ending(True))
    assert hosts.lost(["a"], 200.0) == []


def test_a_monitor_that_slept_waits_anew_for_stuck_hosts() -> None:
    hosts = StuckHosts()
    hosts.note("a", ending(True))
    hosts.lost(["a"], 0.0)
    hosts.start_anew()
    assert hosts.lost(["a"], 1000.0) == []
    assert hosts.lost(["a"], 1010.0) == ["a"]


def test_a_run_whose_last_host_is_stuck_ends_with_it_as_lost(clock: Hands) -> None:
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    watched = watch(clock, a, b)
    round_of(watched)
    failed = rank(0, "failed", ended=START + 1, exit_code=1, tail=("Error: x",))
    a.says(failed, rank(1, "stopped", ended=START + 2), phase="stopping", failed_first=0)
    b.says(rank(2, "stopped", ended=START + 3), rank(3, stuck=True), phase="stopping")
    run = pass_time(clock, watched, 60.0)
    assert run.state is RunState.RUNNING and not run.hosts["b"].lost  # a is not over yet
    a.says(failed, rank(1, "stopped", ended=START + 2), phase="over", failed_first=0)
    run = pass_time(clock, watched, 5.0)
    assert run.state is RunState.RUNNING
    run = pass_time(clock, watched, 15.0)
    found = run.hosts["b"]
    assert (run.state, found.lost, found.waits) == (RunState.FAILED, True, Waits.STUCK)
    assert run.cause is not None and (run.cause.host, run.cause.rank) == ("a", 0)
    assert [str(each.state) for each in found.ranks()] == ["stopped", "lost"] and found.may_have_workers


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_stuck_host_alone_is_the_cause_unless_somebody_stopped_the_run(clock: Hands, by_hand: bool) -> None:
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    watched = watch(clock, a, b)
    round_of(watched)
    stop = StopReason.requested("by hand") if by_hand else StopReason(StopKind.LEASE_ENDED)
    a.says(rank(0, "succeeded"), rank(1, "succeeded"), phase="over")
    b.says(rank(2, "stopped"), rank(3, stuck=True), phase="stopping", stop=stop)
    run = pass_time(clock, watched, 30.0)
    assert run.hosts["b"].waits is Waits.STUCK
    assert run.state is (RunState.STOPPED if by_hand else RunState.FAILED)
    if not by_hand:
        assert run.cause is not None and run.cause.host == "b"
