"""The fold of what a host pushes into what is known of it: snapshots, changes, digests and beats. Pure.

A change counts only if it is the next one after what is known; what was told before is passed over, and where
something is missing the host has to be asked again. Of a digest every rank gets its step, and the one whose
numbers it has gets those: an older loss of another is not kept beside a newer step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.push import Beat, Change, Digest, Mark, Pushed, Snapshot
from orchestrator.core.record_class import replace
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState

__all__ = ["folded", "stale_since"]

# A supervisor that has not written its status for so many of its own intervals says nothing any more.
_STALE = 3.0


def folded(
    status: HostStatus | None, mark: Mark | None, told: Pushed
) -> tuple[HostStatus | None, Mark | None, bool]:
    """The status after this, the last that is known then, and whether something is missing."""
    if isinstance(told, Snapshot):
        mark = None if told.supervisor is None else Mark(told.supervisor, told.sequence)
        return told.status, mark, False
    if status is None or mark is None or told.sequence > mark.sequence + isinstance(told, Change):
        return status, mark, True
    if told.sequence < mark.sequence + isinstance(told, Change) or isinstance(told, Beat):
        return status, mark, False
    if isinstance(told, Digest):
        return _with_steps(status, told), mark, False
    known = {rank.rank for rank in status.ranks}
    if any(rank.rank not in known for rank in told.ranks):
        return status, mark, True
    return _with_change(status, told), replace(mark, sequence=told.sequence), False


def stale_since(status: HostStatus, now: float) -> float | None:
    """When a status was written whose writer is silent for too long; both times are of the host's clock."""
    interval = getattr(status, "interval", None)
    if not interval or status.is_over or now - status.updated <= _STALE * interval:
        return None
    return status.updated


def _with_change(status: HostStatus, told: Change) -> HostStatus:
    new = {rank.rank: rank for rank in told.ranks}
    return replace(
        status,
        updated=told.clock,
        ranks=tuple(new.get(rank.rank, rank) for rank in status.ranks),
        scheduler=told.scheduler or status.scheduler,
        phase=told.phase,
        failed_first=told.failed_first,
        stop=told.stop,
        grace=told.grace,
        copies=told.copies if told.copies is not None else status.copies,
    )


def _with_steps(status: HostStatus, told: Digest) -> HostStatus:
    ranks = tuple(_stepped(rank, told) if rank.state is RankState.RUNNING else rank for rank in status.ranks)
    return replace(status, updated=told.clock, ranks=ranks)


def _stepped(rank: RankStatus, told: Digest) -> RankStatus:
    if rank.rank == told.rank:
        return replace(rank, progress=told.numbers)
    step = told.steps.get(str(rank.rank), told.high) if told.steps else told.high
    before = rank.progress
    if step == before.get("step", 0):  # 0: it has made none
        return rank
    return replace(rank, progress=_progress(before, step, told))


def _progress(before: Mapping[str, Any], step: int, told: Digest) -> dict[str, Any]:
    """Its pace can be told from this, and its way to the end; what it computed cannot."""
    total = before.get("total_steps", told.numbers.get("total_steps"))
    first = before.get("first") or {"step": step, "time": told.clock}
    found = {"step": step, "time": told.clock, "first": first}
    if total is not None:
        found["total_steps"] = total
    return found
