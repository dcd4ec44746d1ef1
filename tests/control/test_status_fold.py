"""What a host pushes, folded into what is known of it: in order, doubled, late, with something missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.control.status_fold import folded, stale_since
from orchestrator.core.ends import StopReason
from orchestrator.core.push import Beat, Change, Digest, Mark, Pushed, Snapshot
from orchestrator.core.records import HostStatus, ProcessId
from tests.control.judged import rank, status

FIRST, OTHER = ProcessId(7, 70, "boot-1"), ProcessId(8, 80, "boot-2")
NUMBERS = {"step": 9, "loss": 2.5, "time": 50.0, "first": {"step": 1, "time": 10.0}, "total_steps": 100}


def at(sequence: int, **fields: Any) -> tuple[HostStatus, Mark]:
    """A host of which this is known."""
    return status("a", rank(0, progress=NUMBERS), rank(1), **fields), Mark(FIRST, sequence)


def test_a_change_is_the_next_one() -> None:
    known, mark = at(4)
    stop = StopReason.requested("enough")
    told = Change(5, 60.0, "stopping", (rank(1, "stopped"),), failed_first=0, stop=stop)
    found, after, is_missing = folded(known, mark, told)
    assert found is not None and after == Mark(FIRST, 5) and not is_missing
    assert [str(each.state) for each in found.ranks] == ["running", "stopped"]
    assert (found.phase, found.failed_first, found.stop, found.updated) == ("stopping", 0, stop, 60.0)
    assert found.ranks[0] is known.ranks[0]


@pytest.mark.parametrize("sequence", [1, 3, 4])
def test_what_was_told_before_is_passed_over(sequence: int) -> None:
    known, mark = at(4)
    assert folded(known, mark, Change(sequence, 60.0, "over")) == (known, mark, False)


@pytest.mark.parametrize(
    "told",
    [
        Change(6, 60.0, "over"),
        Digest(5, 60.0, 3, 3),
        Beat(5, 60.0),
        Change(5, 60.0, "over", (rank(7, "failed"),)),
    ],
    ids=["change", "digest", "beat", "unknown rank"],
)
def test_what_does_not_follow_is_asked_for(told: Pushed) -> None:
    known, mark = at(4)
    assert folded(known, mark, told) == (known, mark, True)


@pytest.mark.parametrize("told", [Digest(3, 60.0, 3, 3), Beat(3, 60.0), Beat(4, 60.0)], ids=repr)
def test_a_late_digest_and_a_beat_change_nothing(told: Pushed) -> None:
    known, mark = at(4)
    assert folded(known, mark, told) == (known, mark, False)


def test_what_comes_before_a_snapshot_asks_for_it() -> None:
    for told in (Change(1, 60.0, "over"), Digest(0, 60.0, 3, 3), Beat(0, 60.0)):
        assert folded(None, None, told) == (None, None, True)


def test_a_snapshot_holds_whatever_was_known_and_whoever_told_it() -> None:
    known, mark = at(40)
    new = status("a", rank(0, "succeeded"), rank(1, "succeeded"), phase="over")
    assert folded(known, mark, Snapshot(2, 60.0, new, OTHER)) == (new, Mark(OTHER, 2), False)
    # Of files that no supervisor speaks for nothing can be gone on from.
    assert folded(known, mark, Snapshot(2, 60.0, new)) == (new, None, False)


def test_a_digest_gives_each_rank_its_step_and_only_one_its_numbers() -> None:
    known, mark = at(4)
    found, after, is_missing = folded(
        known, mark, Digest(4, 70.0, 10, 12, {"0": 10}, 2.0, 1, {"step": 12, "loss": 2.1})
    )
    assert found is not None and (after, is_missing) == (mark, False)
    first, second = found.ranks
    # The loss of step 9 is not shown beside step 10; pace and way to the end can be told.
    assert first.progress == {"step": 10, "time": 70.0, "first": NUMBERS["first"], "total_steps": 100}
    assert second.progress == {"step": 12, "loss": 2.1}


def test_a_digest_leaves_alone_who_has_ended_who_has_no_step_and_who_has_made_none_since() -> None:
    known, mark = at(4)
    known = dataclasses.replace(known, ranks=(*known.ranks, rank(2, "succeeded", progress={"step": 3})))
    found, _, _ = folded(known, mark, Digest(4, 70.0, 0, 9, {"1": 0}))
    assert found is not None and found.ranks == known.ranks


def test_a_status_whose_writer_is_silent_is_old() -> None:
    known, _ = at(4)
    assert (
        stale_since(known, known.updated + 1e6) is None
    )  # of an earlier version: nobody knows how often it writes

    told = dataclasses.replace(known)
    object.__setattr__(told, "interval", 2.0)
    assert stale_since(told, known.updated + 6.0) is None
    assert stale_since(told, known.updated + 6.1) == known.updated
    object.__setattr__(told, "phase", "over")
    assert stale_since(told, known.updated + 100) is None
