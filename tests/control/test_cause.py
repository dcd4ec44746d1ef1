"""What hosts' records mean for a run: its state, the cause of a failure, the victims. Pure functions."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.control.cause import cause_of, describe_end, fold_run, victims_of
from orchestrator.control.run_record import Cause, HostView
from orchestrator.core.states import RunState
from tests.control.judged import rank, scheduler, view

NOW = 2000.0


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
    assert cause == Cause("b", "rank_2", "was killed by signal 9", 1009.0, ("out of", "memory"))


def test_of_two_that_failed_in_the_same_moment_the_lower_rank_is_named() -> None:
    two = [rank(number, "failed", ended=1010.0, exit_code=1) for number in (3, 2)]
    cause = cause_of({"b": view("b", *two)}, NOW)
    assert cause is not None and cause.label == "rank_2"


def test_a_worker_that_never_started_failed_now() -> None:
    """It has no time of its end: whoever has one failed before."""
    unstarted = rank(0, "failed", reason="No such file or directory: train")
    cause = cause_of({"a": view("a", unstarted, rank(1, "running"))}, NOW)
    assert cause == Cause("a", "rank_0", "failed: No such file or directory: train", NOW)
    cause = cause_of({"a": view("a", unstarted, rank(1, "failed", ended=NOW - 1, exit_code=7))}, NOW)
    assert cause is not None and (cause.label, cause.what) == ("rank_1", "exited with code 7")


def test_a_scheduler_can_be_the_cause() -> None:
    host = view("a", rank(0, "failed", ended=1011.0, exit_code=1), rank(1))
    assert host.status is not None
    failed = scheduler("failed", ended=1010.0, exit_code=1)
    host = dataclasses.replace(host, status=dataclasses.replace(host.status, scheduler=failed))
    cause = cause_of({"a": host}, NOW)
    assert cause is not None and cause.label == "scheduler"
    assert victims_of({"a": host}, cause) == ("rank_0", "rank_1")


def test_a_failed_worker_comes_before_a_lost_host() -> None:
    lost = view("a", rank(0), rank(1), last_contact=1001.0, error="no route", lost=True)
    failed = view("b", rank(2, "failed", ended=1500.0, exit_code=1))
    cause = cause_of({"a": lost, "b": failed}, NOW)
    assert cause is not None and (cause.host, cause.label) == ("b", "rank_2")


def test_a_lost_host_is_the_cause_by_its_first_rank_and_last_contact() -> None:
    lost = view("a", rank(0, "succeeded"), rank(1), last_contact=1001.0, error="a: no route", lost=True)
    assert cause_of({"a": lost}, NOW) == Cause("a", "rank_1", "was lost: a: no route", 1001.0)
    never_seen = HostView(error="a: no route", lost=True)
    assert cause_of({"a": never_seen}, NOW) == Cause("a", "", "was lost: a: no route", NOW)


def test_a_rank_that_its_own_host_lost_is_a_cause_too() -> None:
    host = view("a", rank(0, "lost", reason="the supervisor is gone"), rank(1, "lost"), phase="over")
    cause = cause_of({"a": host}, NOW)
    assert cause is not None and (cause.label, cause.what) == ("rank_0", "was lost: the supervisor is gone")


def test_victims_are_in_rank_order_over_hosts_without_the_cause_and_without_who_was_done() -> None:
    hosts = {
        "b": view("b", rank(10, "stopped"), rank(2, "failed")),
        "a": view("a", rank(0, "succeeded"), rank(1, "failed")),
        "c": view("c", rank(3, "running"), error="no route", lost=True),
    }
    cause = Cause("a", "rank_1", "exited with code 1", 1010.0)
    assert victims_of(hosts, cause) == ("rank_2", "rank_3", "rank_10")
    assert victims_of(hosts, None) == ()
    all_of_them = ("rank_1", "rank_2", "rank_3", "rank_10")
    assert victims_of(hosts, Cause("d", "", "was lost", 1.0)) == all_of_them


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"signal": 9}, "was killed by signal 9"),
        ({"signal": 9, "reason": "out of memory"}, "was killed by signal 9"),
        ({"exit_code": 3}, "exited with code 3"),
        (
            {"exit_code": 0, "reason": "ended before its work was done"},
            "failed: ended before its work was done",
        ),
        ({"reason": "no such program"}, "failed: no such program"),
        ({}, "failed"),
    ],
)
def test_how_a_worker_ended(fields: dict[str, object], what: str) -> None:
    assert describe_end(rank(0, "failed", **fields)) == what
