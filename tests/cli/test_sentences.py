"""Ends as sentences: what people read of data."""

from __future__ import annotations

import pytest

from orchestrator.cli.sentences import cause_sentence, end_note, end_sentence, ranks_text, stop_sentence
from orchestrator.control.run_record import Cause
from orchestrator.core.ends import SCHEDULER, End, EndKind, StopKind, StopReason

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
