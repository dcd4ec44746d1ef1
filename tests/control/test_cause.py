"""What hosts' records mean for a run: its state, the cause of a failure, the victims. Pure functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.cli.sentences import cause_sentence, end_sentence
from orchestrator.control.case_so_far import case_of
from orchestrator.control.cause import cause_of, kind_of, victims_of
from orchestrator.control.run_record import Cause, HostView
from orchestrator.control.run_tally import fold_run
from orchestrator.core.ends import SCHEDULER, End, EndKind, StopKind, StopReason
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RunState
from orchestrator.hosts.clock_offset import ClockOffset
from tests.control.judged import rank, scheduler, view

NOW = 2000.0
GONE = StopReason(StopKind.SUPERVISOR_GONE)


@pytest.mark.parametrize(
    ("ranks", "over", "state"),
    [
        ("pending pending", False, "starting"),
        ("starting running", False, "starting"),
        ("running running", False, "running"),
        ("running succeeded", False, "running"),
        # What has failed still runs until every host's part is over.
        ("failed running", False, "running"),
        ("stopped stopped", False, "running"),
        ("succeeded succeeded", False, "running"),
        ("succeeded succeeded", True, "succeeded"),
        ("stopped succeeded", True, "stopped"),
        ("failed stopped", True, "failed"),
    ],
)
def test_a_run_ends_when_every_hosts_part_is_over(ranks: str, over: bool, state: str) -> None:
    ranks_of_host = [rank(number, word) for number, word in enumerate(ranks.split())]
    hosts = {"a": view("a", *ranks_of_host, phase="over" if over else "committed")}
    assert fold_run(hosts, 1, failed="failed" in ranks) is RunState(state)


def test_a_run_of_which_a_host_has_never_answered_goes_on() -> None:
    over = view("a", rank(0, "succeeded"), phase="over")
    assert fold_run({"a": over}, 2, failed=False) is RunState.RUNNING
    assert fold_run({"a": over, "b": HostView()}, 2, failed=False) is RunState.RUNNING
    assert fold_run({"a": over, "b": HostView(error="gone", lost=True)}, 2, failed=True) is RunState.FAILED


def test_a_run_starts_until_every_host_has_told_of_its_ranks() -> None:
    """`launch --detach` returned, and `status` showed some of the hosts."""
    runs = view("a", rank(0, "running"))
    assert fold_run({"a": runs, "b": HostView()}, 2, failed=False) is RunState.STARTING
    assert fold_run({"a": runs, "b": HostView(error="no route")}, 2, failed=False) is RunState.RUNNING
    assert fold_run({"a": runs, "b": view("b", rank(1, "running"))}, 2, failed=False) is RunState.RUNNING


def test_the_rest_of_a_failed_run_has_succeeded_and_yet_it_failed() -> None:
    hosts = {"a": view("a", rank(0, "succeeded"), phase="over")}
    assert fold_run(hosts, 1, failed=True) is RunState.FAILED


def test_a_host_that_does_not_answer_hides_what_it_does_and_not_how_it_ended() -> None:
    hosts = {"a": view("a", rank(0, "running"), rank(1, "succeeded"), error="no route")}
    assert [str(item.state) for item in hosts["a"].ranks()] == ["unreachable", "succeeded"]
    assert fold_run(hosts, 1, failed=False) is RunState.RUNNING
    lost = dataclasses.replace(hosts["a"], lost=True)
    assert [str(item.state) for item in lost.ranks()] == ["lost", "succeeded"]
    assert fold_run({"a": lost}, 1, failed=True) is RunState.FAILED


def test_nobody_failed_and_there_is_no_cause() -> None:
    assert cause_of({}, NOW) is None
    ranks = [rank(0, "running"), rank(1, "succeeded"), rank(2, "stopped"), rank(3, "pending")]
    assert cause_of({"a": view("a", *ranks, error="no route")}, NOW) is None


def test_the_cause_is_the_worker_that_ended_badly_first() -> None:
    hosts = {
        "a": view("a", rank(0, "failed", ended=1010.0, exit_code=1), rank(1, "running")),
        "b": view(
            "b",
            rank(2, "failed", ended=1009.0, signal=9, tail=("out of", "memory")),
            rank(3, "stopped", ended=1001.0, signal=15),  # it was made to end: no cause
        ),
    }
    cause = cause_of(hosts, NOW)
    end = End(EndKind.SIGNALLED, 1009.0, signal=9, tail=("out of", "memory"))
    assert cause == Cause("b", 2, end, 1009.0)


def test_of_two_that_failed_in_the_same_moment_the_lower_rank_is_named() -> None:
    two = [rank(number, "failed", ended=1010.0, exit_code=1) for number in (3, 2)]
    cause = cause_of({"b": view("b", *two)}, NOW)
    assert cause is not None and cause.rank == 2


def test_a_worker_that_never_started_failed_now() -> None:
    """It has no time of its end: whoever has one failed before."""
    unstarted = rank(0, "failed", kind=EndKind.NOT_STARTED, message="train: No such file or directory")
    cause = cause_of({"a": view("a", unstarted, rank(1, "running"))}, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.time) == ("a", 0, NOW)
    cause = cause_of({"a": view("a", unstarted, rank(1, "failed", ended=NOW - 1, exit_code=7))}, NOW)
    assert cause is not None and (cause.rank, cause.end.exit_code) == (1, 7)


def test_a_scheduler_can_be_the_cause() -> None:
    host = view("a", rank(0, "failed", ended=1011.0, exit_code=1), rank(1))
    assert host.status is not None
    failed = scheduler("failed", ended=1010.0, exit_code=1)
    host = dataclasses.replace(host, status=dataclasses.replace(host.status, scheduler=failed))
    cause = cause_of({"a": host}, NOW)
    assert cause is not None and cause.rank == SCHEDULER
    assert victims_of({"a": host}, cause) == (0, 1)


def test_a_failed_worker_comes_before_a_lost_host() -> None:
    lost = view("a", rank(0), rank(1), last_contact=1001.0, error="no route", lost=True)
    failed = view("b", rank(2, "failed", ended=1500.0, exit_code=1))
    cause = cause_of({"a": lost, "b": failed}, NOW)
    assert cause is not None and (cause.host, cause.rank) == ("b", 2)


def test_a_lost_host_is_the_cause_by_its_first_rank_and_last_contact() -> None:
    lost = view("a", rank(0, "succeeded"), rank(1), last_contact=1001.0, error="a: no route", lost=True)
    assert cause_of({"a": lost}, NOW) == Cause("a", 1, End(EndKind.LOST, message="a: no route"), 1001.0)
    never_seen = HostView(error="a: no route", lost=True)
    assert cause_of({"a": never_seen}, NOW) == Cause("a", None, End(EndKind.LOST, message="a: no route"), NOW)


def test_a_rank_that_its_own_host_lost_is_a_cause_too() -> None:
    host = view("a", rank(0, "lost", reason=GONE), rank(1, "lost"), phase="over")
    cause = cause_of({"a": host}, NOW)
    assert cause is not None and (cause.rank, cause.end) == (0, End(EndKind.LOST, reason=GONE))


def test_victims_are_in_rank_order_over_hosts_without_the_cause_and_without_who_was_done() -> None:
    hosts = {
        "b": view("b", rank(10, "stopped"), rank(2, "failed")),
        "a": view("a", rank(0, "succeeded"), rank(1, "failed")),
        "c": view("c", rank(3, "running"), error="no route", lost=True),
    }
    cause = Cause("a", 1, End(EndKind.EXITED, 1010.0, exit_code=1), 1010.0)
    assert victims_of(hosts, cause) == (2, 3, 10)
    assert victims_of(hosts, None) == ()
    all_of_them = (1, 2, 3, 10)
    assert victims_of(hosts, Cause("d", None, End(EndKind.LOST), 1.0)) == all_of_them


def clock(ahead: float, error: float = 0.05) -> ClockOffset:
    return ClockOffset(ahead, error, NOW)


def test_times_of_two_hosts_are_compared_by_one_clock() -> None:
    """B's rank is killed at 100, A's loses its peer a second later by a clock that is 3 s slow."""
    killed = view("b", rank(8, "failed", ended=100.0, signal=9), rank(9), clock=clock(0.0))
    lost_peer = rank(0, "failed", ended=98.0, exit_code=1, tail=("RuntimeError: connection to rank 8 lost",))
    hosts = {"a": view("a", lost_peer, rank(1), clock=clock(-3.0)), "b": killed}
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.time) == ("b", 8, 100.0)
    # Where the clocks are not known, who only lost a peer is not named for a time that says nothing.
    blind = {name: dataclasses.replace(host, clock=None) for name, host in hosts.items()}
    cause = cause_of(blind, NOW)
    assert cause is not None and (cause.rank, cause.reporters) == (8, (0,))


def test_an_error_is_compared_by_one_clock_too() -> None:
    """Nothing in the logs tells: the host whose clock is 2 s slow is not named for that."""
    first = view("b", rank(2, "failed", ended=100.0, exit_code=1), rank(3), clock=clock(0.0))
    second = view("a", rank(0, "failed", ended=99.0, exit_code=1), rank(1), clock=clock(-2.0))
    cause = cause_of({"a": second, "b": first}, NOW)
    assert cause is not None and (cause.rank, cause.time) == (2, 100.0)


PEER_8 = "EI0002: A timeout occurs when the Notify register waits for execution. Waiting peer rank: 8; task"
BY_ITSELF = "[CRITICAL] DISTRIBUTED(1,2,python): Kill this process with SIGTERM."
TIMED_OUT = "The node: 3 is timed out. It may exit with exception, please check this node's log."


def victim(number: int, ended: float, **fields: Any) -> RankStatus:
    return rank(number, "failed", ended=ended, **{"exit_code": 1, "evidence": (PEER_8,), **fields})


def test_a_victim_that_ends_first_is_not_the_cause() -> None:
    hosts = {
        "a": view("a", victim(0, 100.0), victim(1, 100.1), clock=clock(0.0)),
        "b": view(
            "b", rank(8, "failed", ended=107.0, exit_code=1, tail=("ValueError: x",)), clock=clock(0.0)
        ),
    }
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.sure) == ("b", 8, True)
    assert cause.reporters == (0, 1) and victims_of(hosts, cause) == (0, 1)


def test_a_victim_on_the_culprits_own_host_is_not_the_cause() -> None:
    host = view("a", victim(0, 100.0), rank(1, "failed", ended=100.5, signal=9))
    assert host.status is not None
    host = dataclasses.replace(host, status=dataclasses.replace(host.status, failed_first=0))
    cause = cause_of({"a": host}, NOW)
    assert cause is not None and cause.rank == 1


def test_who_waited_names_whom_it_waited_for_and_is_not_sure() -> None:
    """Rank 8 hangs, and is ended with the rest: nothing of its own tells of it."""
    hosts = {
        "a": view("a", victim(0, 100.0), victim(1, 100.1)),
        "b": view("b", rank(8, "stopped", ended=110.0, signal=9), rank(9, "stopped", ended=110.0)),
    }
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.sure) == ("b", 8, False)
    assert cause_sentence(cause) == f"not certain, probably rank 8 on b was lost: {PEER_8}"
    # Rank 8 waited for 9, so that the chain ends there.
    waits_too = rank(8, "stopped", ended=110.0, evidence=(PEER_8.replace("8", "9"),))
    hosts["b"] = view("b", waits_too, victim(9, 112.0, exit_code=3, evidence=("Connection reset by peer",)))
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.sure) == ("", None, False)


def test_where_only_victims_are_left_nobody_is_named() -> None:
    lost = ("RuntimeError: peer lost",)
    hosts = {
        "a": view("a", rank(0, "failed", ended=100.0, exit_code=1, tail=lost), rank(1, "stopped")),
        "b": view("b", rank(2, "failed", ended=99.0, exit_code=1, tail=lost), rank(3, "stopped")),
    }
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.sure) == ("", None, False)
    assert cause.reporters == (2, 0) and cause.end.tail == lost
    assert victims_of(hosts, cause) == (0, 1, 2, 3)


def test_a_lost_host_goes_before_who_tells_that_it_lost_a_peer() -> None:
    hosts = {
        "a": view("a", victim(0, 100.0), rank(1, "stopped")),
        "b": view("b", rank(8), rank(9), error="b: no route", lost=True),
    }
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.sure) == ("b", 8, True)


def test_a_rank_that_was_stopped_after_an_error_of_its_own_is_suspected() -> None:
    memory = "EL0004: [PID: 28794] 2025-08-26-03:58:55.257.127 Failed to allocate memory."
    hosts = {
        "a": view("a", rank(0, "failed", ended=100.0, exit_code=1, tail=("peer lost",))),
        "b": view("b", rank(2, "stopped", ended=101.0, signal=15, evidence=(memory,))),
    }
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.rank, cause.sure, cause.end.message) == (2, False, memory)


def test_a_frozen_rank_is_named_by_the_scheduler_and_not_who_mindspore_ended() -> None:
    """Rank 3 is frozen: MindSpore ends rank 0 by SIGTERM itself, and 3 dies when its grace is over."""
    ended = rank(0, "failed", ended=130.0, signal=15, evidence=(BY_ITSELF,))
    a = view("a", ended, rank(1, "stopped", signal=15))
    assert a.status is not None
    told = scheduler("stopped", ended=131.0, evidence=(TIMED_OUT,))
    a = dataclasses.replace(a, status=dataclasses.replace(a.status, scheduler=told))
    frozen = rank(3, "stopped", ended=140.0, signal=9)
    cause = cause_of({"a": a, "b": view("b", rank(2, "stopped"), frozen)}, NOW)
    assert cause is not None and (cause.host, cause.rank, cause.end.message) == ("b", 3, TIMED_OUT)
    assert end_sentence(cause.end) == f"was lost: {TIMED_OUT}"
    # Before the scheduler has said so nobody is named.
    early = dataclasses.replace(a, status=dataclasses.replace(a.status, scheduler=scheduler()))
    cause = cause_of({"a": early, "b": view("b", rank(2), rank(3))}, NOW)
    assert cause is not None and (cause.rank, cause.sure) == (None, False)


def test_who_failed_by_itself_and_is_then_missed_by_the_scheduler_keeps_its_end() -> None:
    a = view("a", rank(0, "stopped"), rank(3, "failed", ended=100.0, signal=11))
    assert a.status is not None
    told = scheduler("failed", ended=131.0, exit_code=1, evidence=(TIMED_OUT,))
    a = dataclasses.replace(a, status=dataclasses.replace(a.status, scheduler=told))
    cause = cause_of({"a": a}, NOW)
    assert cause is not None and (cause.rank, cause.end.signal) == (3, 11)


def test_a_host_that_was_restarted_goes_before_the_exits_that_it_caused() -> None:
    hosts = {
        "a": view("a", rank(0, "failed", ended=100.0, exit_code=1), rank(1, "stopped")),
        "b": view("b", rank(2, "lost", reason=GONE), rank(3, "lost", reason=GONE), phase="over"),
    }
    cause = cause_of(hosts, NOW)
    assert cause is not None and (cause.host, cause.rank) == ("b", 2)


def test_who_tells_of_a_link_is_not_the_cause_while_the_peer_failed() -> None:
    line = (
        "EI0013: [PID: 7] 2025 An error CQE occurred during operator execution. Local information: server a"
    )
    speaks = view("a", rank(0, "failed", ended=100.0, exit_code=1, evidence=(line,)), rank(1, "stopped"))
    peer = view("b", rank(2, "failed", ended=101.0, exit_code=1, tail=("KeyError: 'x'",)), rank(3, "stopped"))
    cause = cause_of({"a": speaks, "b": peer}, NOW)
    assert cause is not None and (cause.rank, cause.sure, cause.reporters) == (2, True, (0,))
    assert kind_of(cause) == "program_error"
    alone = cause_of({"a": speaks, "b": view("b", rank(2, "stopped"), rank(3, "stopped"))}, NOW)
    assert alone is not None and (alone.rank, alone.sure) == (None, False)


def test_what_hosts_have_told_is_a_case_for_the_judge() -> None:
    lost = view("b", rank(2), rank(3, "stopped"), error="b: no route", lost=True, clock=clock(-1.0, 0.5))
    a = view("a", victim(0, 101.0), rank(1, progress={"step": 7}), clock=clock(1.0))
    assert a.status is not None
    a = dataclasses.replace(a, status=dataclasses.replace(a.status, scheduler=scheduler()))
    case = case_of({"a": a, "b": lost}, NOW)
    first, second, told, third, _ = case.ranks
    assert (first.rank, first.time, first.error, first.lines[0].text) == (0, 100.0, 0.05, PEER_8)
    assert (second.step, second.device, told.rank, told.device) == (7, 1, SCHEDULER, None)
    assert (str(third.state), case.hosts["b"].lost, case.hosts["a"].lost) == ("lost", True, False)
    assert case.world_size == 4 and not case.stopped_by_hand


def test_the_only_rank_of_a_run_has_no_peer_in_it() -> None:
    alone = view("a", rank(0, "failed", ended=100.0, exit_code=1, tail=("Connection reset by peer",)))
    cause = cause_of({"a": alone}, NOW)
    assert cause is not None and (cause.rank, cause.sure) == (0, True)


@pytest.mark.parametrize(("apart", "rank_named"), [(0.05, 8), (0.15, 0)])
def test_within_what_the_clocks_are_known_by_a_signal_goes_before_an_error(
    apart: float, rank_named: int
) -> None:
    hosts = {
        "a": view("a", rank(0, "failed", ended=100.0, exit_code=1), rank(1), clock=clock(0.0)),
        "b": view("b", rank(8, "failed", ended=100.0 + apart, signal=9), rank(9), clock=clock(0.0)),
    }
    cause = cause_of(hosts, NOW)
    assert cause is not None and cause.rank == rank_named


def test_who_failed_first_on_a_host_its_supervisor_knows() -> None:
    """Two ends that were found in the same turn have times in the order in which they were looked at."""
    two = [rank(0, "failed", ended=1010.0, exit_code=1), rank(1, "failed", ended=1010.001, signal=9)]
    host = view("a", *two)
    assert host.status is not None
    host = dataclasses.replace(host, status=dataclasses.replace(host.status, failed_first=1))
    cause = cause_of({"a": host}, NOW)
    assert cause is not None and cause.rank == 1


def test_an_offset_is_known_by_half_the_way_and_ages() -> None:
    offset = ClockOffset.of(before=100.0, there=103.5, after=101.0)
    assert (offset.seconds, offset.error, offset.ours(103.5)) == (3.0, 0.5, 100.5)
    assert offset.at_least() == 2.5 and ClockOffset.of(100.0, 100.9, 101.0).at_least() == 0.0
    assert ClockOffset.of(100.0, 90.0, 101.0).at_least() == -10.0
    rough = ClockOffset(3.4, 0.6, 102.0)
    assert offset.or_newer(rough) is offset
    # Both cannot be true: a clock was set.
    assert offset.or_newer(ClockOffset(9.0, 0.6, 102.0)).seconds == 9.0
    exact = ClockOffset(3.1, 0.1, 102.0)
    assert offset.or_newer(exact) is exact
    assert offset.or_newer(ClockOffset(9.0, 0.6, 5000.0)).seconds == 9.0
    # A clock of ours that was set back makes no error negative.
    assert ClockOffset.of(101.0, 100.0, 100.0).error == 0.0


def test_what_a_host_says_makes_its_offset_more_exact() -> None:
    offset = ClockOffset.of(before=100.0, there=103.5, after=101.0)  # 2.5 to 3.5 ahead
    assert offset.heard(104.0, 101.5) is offset  # at least 2.5: nothing new
    better = offset.heard(104.8, 101.5)  # at least 3.3
    assert (
        better is not None
        and better.seconds == pytest.approx(3.4, abs=1e-3)
        and better.error == pytest.approx(0.1, abs=1e-3)
    )
    # Whatever a message's way takes, the true offset stays within.
    assert better.heard(110.0, 115.0) is better
    assert offset.heard(120.0, 101.5) is None and offset.heard(50.0, 101.5) is None  # a clock was set
