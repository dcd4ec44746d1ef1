"""Ends as sentences: what people read of data."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from orchestrator.cli.sentences import (
    cause_sentence,
    end_note,
    end_sentence,
    ranks_text,
    saved_note,
    sight_notes,
    stall_notes,
    stop_sentence,
    watch_note,
)
from orchestrator.control.run_record import Cause, HostView, RunRecord, Waits
from orchestrator.core.ends import SAVED_EXIT, SCHEDULER, End, EndKind, StopKind, StopReason
from orchestrator.core.records import HostStatus, RankStatus, StallKind
from orchestrator.core.states import RankState, RunState
from orchestrator.hosts.clock_offset import ClockOffset

GONE = StopReason(StopKind.SUPERVISOR_GONE)
KILLED = StopReason(StopKind.SUPERVISOR_ENDED, "b", end=End(EndKind.SIGNALLED, signal=9))


@pytest.mark.parametrize(
    ("end", "sentence", "note"),
    [
        (End(EndKind.SIGNALLED, signal=9), "was killed by signal 9", "signal 9"),
        (End(EndKind.EXITED, exit_code=3), "exited with code 3", "exit code 3"),
        (End(EndKind.EXITED, exit_code=0), "exited with code 0", ""),
        (
            End(EndKind.NOT_STARTED, exit_code=127, message="/no: No such file or directory"),
            "failed: cannot start /no: No such file or directory",
            "exit code 127, cannot start /no: No such file or directory",
        ),
        (
            End(EndKind.CRASHED_WHEN_DONE, signal=11),
            "was killed by signal 11",
            "crashed at its exit (signal 11), after its work was done",
        ),
        (
            End(EndKind.LOST, reason=GONE),
            "was lost: the supervisor is gone (was the host restarted?)",
            "the supervisor is gone (was the host restarted?)",
        ),
        (End(EndKind.LOST, message="b: no route"), "was lost: b: no route", "b: no route"),
        (
            End(EndKind.SUPERVISOR_ENDED, reason=KILLED),
            "failed: the supervisor on b was ended by signal 9",
            "the supervisor on b was ended by signal 9",
        ),
        (End(EndKind.DESCRIBED, message="as it was"), "as it was", "as it was"),
        (End(EndKind.DESCRIBED), "failed", ""),
        (
            End(EndKind.STOPPED, signal=15, reason=StopReason.requested("stopped by me")),
            None,
            "stopped by me",
        ),
        (
            End(EndKind.NO_FIRST_STEP, seconds=600.0, missing=(1, 2), expected=4),
            "made no step within 600 s (2 of 4 ranks have; missing: 1, 2)",
            "",
        ),
    ],
)
def test_how_a_worker_ended(end: End, sentence: str | None, note: str) -> None:
    if sentence is not None:
        assert end_sentence(end) == sentence
    assert end_note(end) == note


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (None, ""),
        (StopReason.requested("stopped by me"), "stopped by me"),
        (StopReason(StopKind.REQUESTED, "b", text="told by hand"), "b has stopped: told by hand"),
        (StopReason(StopKind.WORKER_FAILED, "b", 3), "rank 3 on b failed"),
        (
            StopReason(StopKind.WORKER_FAILED, "b", 3, End(EndKind.EXITED, exit_code=1)),
            "rank 3 on b exited with code 1",
        ),
        (StopReason(StopKind.WORKER_FAILED, "b", SCHEDULER), "scheduler on b failed"),
        (StopReason(StopKind.WORKER_FAILED, "b", None, End(EndKind.LOST, message="x")), "on b was lost: x"),
        *((StopReason(kind), None) for kind in StopKind if kind is not StopKind.REQUESTED),
    ],
)
def test_why_a_worker_was_ended(reason: StopReason | None, sentence: str | None) -> None:
    if sentence is None:
        assert len(stop_sentence(reason)) > 5  # every kind has one
    else:
        assert stop_sentence(reason) == sentence


def test_the_cause_is_told_by_rank_and_host() -> None:
    end = End(EndKind.SIGNALLED, signal=9)
    assert cause_sentence(Cause("b", 3, end, 0.0)) == "rank 3 on b was killed by signal 9"
    assert cause_sentence(Cause("b", SCHEDULER, end, 0.0)) == "scheduler on b was killed by signal 9"


def test_ranks_are_told_as_ranges() -> None:
    assert ranks_text((0, 1, 2, 7, SCHEDULER)) == "rank 0-2, 7, scheduler"
    assert ranks_text((SCHEDULER,)) == "scheduler" and ranks_text(()) == ""


def view(name: str, **fields: Any) -> HostView:
    return HostView(HostStatus("r1", "job", name, 0.0, ()), last_contact=1.0, **fields)


def clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def test_since_when_hosts_are_not_seen_is_told_for_each_reason() -> None:
    refused = {"error": "login refused", "waits": Waits.LOGIN}
    hosts = {
        "a1": view("a1", **refused, blind_since=200.0),
        "a2": view("a2", **refused, blind_since=100.0),
        "b": view("b", error="timed out", waits=Waits.NO_SIGN),
        "c": view("c", error="timed out", lost=True),
        "d": view("d", stale_since=300.0),
        "e": view("e"),
        "f": HostView(error="no route"),  # nobody ever saw it
    }
    record = RunRecord("r1", "job", "train", 0, 1.0, RunState.RUNNING, hosts=hosts)
    assert sight_notes(record) == [
        f"nothing is known of a[1-2] since {clock(100.0)}: logins are refused",
        f"nothing is known of b,f since {clock(1.0)}: they do not answer",
        f"d answers, but its supervisor has written no status since {clock(300.0)}",
    ]
    assert sight_notes(dataclasses.replace(record, state=RunState.STOPPED)) == []


def test_ranks_that_stand_still_are_told_by_their_ways_who_may_be_waited_for_first() -> None:
    def stalled(first: int, *kinds: StallKind | None, **fields: Any) -> HostView:
        ranks = tuple(
            RankStatus(first + n, n, n, RankState.RUNNING, stalled=kind, stalled_since=200.0 + first + n)
            for n, kind in enumerate(kinds)
        )
        return HostView(HostStatus("r1", "job", "x", 0.0, ranks), last_contact=1.0, **fields)

    step, stop, block = StallKind.NO_STEP, StallKind.STOPPED, StallKind.BLOCKED
    hosts = {
        "a1": stalled(0, step, step),
        "a2": stalled(2, step, stop),
        "b": stalled(4, block, None, clock=ClockOffset(4.0, 0.1, 0.0)),
        "c": stalled(6, step, step, error="timed out"),  # what it was is not what it is
    }
    record = RunRecord("r1", "job", "train", 8, 1.0, RunState.RUNNING, hosts=hosts)
    assert stall_notes(record) == [
        f"rank 3 on a2: stopped by a signal or a debugger since {clock(203.0)}",
        f"rank 4 on b: blocked in the kernel (a disk or a file system that hangs?) since {clock(200.0)}",
        f"rank 0-2 on a[1-2]: no new step since {clock(200.0)}",
    ]
    assert stall_notes(dataclasses.replace(record, state=RunState.FAILED)) == []


def test_that_the_monitor_lives_on_another_machine_is_told_with_the_time_of_what_is_shown() -> None:
    record = RunRecord("r1", "job", "train", 0, 1.0, RunState.RUNNING, watched=5.0, elsewhere="far")
    assert watch_note(record) == f"its monitor lives on far; this is what it wrote last, of {clock(5.0)}"


def _stopped(*saved: int | None) -> RunRecord:
    """Each rank was stopped, and saved this step or nothing."""
    why = StopReason.requested("stopped by me")
    ends = [
        End(EndKind.STOPPED, exit_code=0 if step is None else SAVED_EXIT, saved=step, reason=why)
        for step in saved
    ]
    ranks = tuple(RankStatus(rank, rank, rank, RankState.STOPPED, end=end) for rank, end in enumerate(ends))
    view = HostView(HostStatus("r1", "j", "a", 1.0, ranks, phase="over"))
    return RunRecord("r1", "j", "train", len(saved), 1.0, RunState.STOPPED, hosts={"a": view})


@pytest.mark.parametrize(
    ("saved", "note"),
    [
        ((120, 120), "Saved step 120 when it was stopped"),
        ((None, None), ""),
        ((120, None), "1 of 2 ranks saved a checkpoint when they were stopped, of step 120"),
        ((120, 121), "2 of 2 ranks saved a checkpoint when they were stopped, of step 120, 121"),
    ],
)
def test_a_run_that_was_stopped_tells_which_step_it_saved(saved: tuple[int | None, ...], note: str) -> None:
    record = _stopped(*saved)
    assert saved_note(record) == note
    assert saved_note(dataclasses.replace(record, state=RunState.FAILED)) == ""
    end = record.ranks()[0].end
    assert end is not None
    assert end_note(end) == ("stopped by me" if saved[0] is None else "stopped by me, saved step 120")
