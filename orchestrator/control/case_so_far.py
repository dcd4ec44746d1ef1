"""The case so far: what a run's hosts have told by themselves, as evidence for the judge. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from orchestrator.control.cause import our_time, was_stopped_by_hand, words_of
from orchestrator.control.run_record import HostView
from orchestrator.core.records import RankStatus
from orchestrator.diagnosis.evidence import Case, HostEvidence, LogLine, RankEvidence

__all__ = ["case_of"]

Hosts = Mapping[str, HostView]


def case_of(hosts: Hosts, now: float) -> Case:
    """What the hosts have told so far, as evidence for the judge: ends, and lines that supervisors keep."""
    return Case(
        tuple(_evidence(name, view, rank, now) for name, view in hosts.items() for rank in _everyone(view)),
        {name: HostEvidence(name, reachable=not view.error, lost=view.lost) for name, view in hosts.items()},
        world_size=sum(len(view.status.ranks) for view in hosts.values() if view.status is not None),
        stopped_by_hand=was_stopped_by_hand(hosts),
    )


def _everyone(view: HostView) -> Iterator[RankStatus]:
    if view.status is not None:
        yield from view.ranks()
        yield from [view.status.scheduler] if view.status.scheduler is not None else []


def _evidence(host: str, view: HostView, rank: RankStatus, now: float) -> RankEvidence:
    step = rank.progress.get("step")
    return RankEvidence(
        rank.rank,
        host,
        rank.device_id if rank.device_id >= 0 else None,
        rank.state,
        rank.end,
        our_time(view, rank.end, now) if rank.end is not None else view.last_contact,
        view.clock.error if view.clock is not None else math.inf,
        rank.process.pid if rank.process is not None else None,
        str(rank.phase or ""),
        step if isinstance(step, int) else None,
        tuple(LogLine("worker", text) for text in words_of(rank.end)) if rank.end is not None else (),
    )
