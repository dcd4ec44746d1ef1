"""The ranks of a run that can be seen: what each of them does, and who is unlike the others."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import TypeVar

from orchestrator.agent.stop_grace import SAVE
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.step_limits import LEARNT
from orchestrator.core.records import Phase, RankStatus, StallKind

__all__ = [
    "STALLS",
    "Does",
    "Doing",
    "SeenRank",
    "finding_of",
    "last_line",
    "most",
    "odd_ones",
    "span_of",
    "stalls_of",
]

T = TypeVar("T")
STALLS: Mapping[StallKind, FindingKind] = {
    StallKind.STOPPED: FindingKind.STOPPED,
    StallKind.BLOCKED: FindingKind.BLOCKED,
}
"""The states of a rank in which nothing of it goes on, and what is said of them."""

_LARGEST = 10**15


class Doing(enum.Enum):
    """What a rank does for which there is no phase."""

    LAST = "last"  # it has made its last step
    FIRST = "first"  # it is in its first save, evaluation or second compilation: how long is that?


Does = Phase | Doing | None


class SeenRank:
    """One that runs, on a host that answers. `moved` is when it made a step or began a phase, at the last,
    `gap` the longest time between two of its steps; None: nobody has seen two."""

    __slots__ = ("does", "gap", "host", "moved", "phase_at", "phase_step", "status", "step", "stepped")

    def __init__(self, host: str, status: RankStatus, now: float) -> None:
        self.host, self.status = host, status
        self.step: int | None = None
        self.gap: float | None = None
        self.stepped: float | None = None
        self.moved = self.phase_at = now
        self.phase_step = 0  # the step at which its phase began
        self.does: Does = None

    def note_stepped(self, now: float, since: float) -> None:
        """It has made a step; `since` then all could be seen."""
        if self.stepped is not None and self.stepped >= since:
            self.gap = max(self.gap or 0.0, now - self.stepped)
        self.stepped = now

    def pause(self, first: float) -> float:
        """How long it may tell of no step while others do: it may tell more seldom than they. `first`: where
        it has told of one alone."""
        if self.gap is not None:
            return 2 * self.gap
        span = span_of(self.status)
        return first if span is None else min(first, 2 * span)

    def tells_of_next(self, status: RankStatus) -> bool:
        """Whether its phase, which is over, took as long as the next of the kind will.

        The first compilation is of the whole program: a later one is not as that was. A save of which nothing
        is whole yet is being written behind the steps: one at the end is waited for.
        """
        phase = self.status.phase
        if phase is Phase.SAVE and SAVE in status.can:
            return status.saved is not None
        return phase is not Phase.COMPILE or self.phase_step > 0

    def note(self, status: RankStatus, known: Container[Phase]) -> None:
        """What it is now; `known` are the phases of which it has had one.

        The save of one that makes steps meanwhile is over, or holds up nobody.
        """
        self.status, phase = status, status.phase
        if phase in LEARNT and (self.step or 0) > self.phase_step + 1:
            phase = Phase.STEP
        is_last = self.step is not None and self.step == status.progress.get("total_steps")
        self.does = Doing.LAST if is_last and phase in (None, Phase.STEP) else phase
        if phase in LEARNT and phase not in known:
            self.does = Doing.FIRST


def odd_ones(ranks: Mapping[int, SeenRank], held_up: Iterable[int]) -> tuple[int, ...]:
    """Who is unlike the others: stopped or blocked, else behind in steps, else in another phase.

    None where those would be half of them or more.
    """
    if found := tuple(sorted(held_up)):
        return found
    steps = {rank: seen.step for rank, seen in ranks.items() if seen.step is not None}
    high = max(steps.values(), default=0)
    behind = [rank for rank, step in steps.items() if step < high]
    if behind and 2 * len(behind) < len(steps):
        return tuple(sorted(behind))
    usual = most(seen.does for seen in ranks.values())
    others = [rank for rank, seen in ranks.items() if seen.does is not usual]
    return tuple(sorted(others)) if 2 * len(others) < len(ranks) else ()


def most(values: Iterable[T]) -> T | None:
    """The most common of them; None of none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None


def span_of(rank: RankStatus) -> float | None:
    """The seconds between the first and the newest line of its metrics, where these are two."""
    first, made = rank.progress.get("first"), rank.progress
    if not isinstance(first, Mapping) or made.get("step") == first.get("step"):
        return None
    span = made.get("time", 0.0) - first.get("time", math.inf)
    return span if 0 < span < _LARGEST else None


def last_line(ranks: Iterable[SeenRank], offsets: Mapping[str, float | None]) -> float:
    """When the newest step of all ranks was written, by our clock, where that is known: also before we looked
    on. `offsets` are those of the hosts' clocks; math.inf where nothing is known."""
    times = []
    for seen in ranks:
        written, offset = seen.status.progress.get("time"), offsets.get(seen.host)
        if seen.step is None or offset is None or not isinstance(written, (int, float)):
            continue
        if written >= (seen.status.started or 0.0):
            times.append(written - offset)
    return max(times, default=math.inf)


def stalls_of(held_up: Mapping[str, Mapping[int, tuple[RankStatus, float]]]) -> list[Finding]:
    """What is to be said of the ranks of each host that are held up, each since its time."""
    found = []
    for host, ranks in held_up.items():
        for stall, kind in STALLS.items():
            those = [(rank, since) for rank, since in ranks.values() if rank.stalled is stall]
            if those:
                found.append(finding_of(kind, host, those))
    return found


def finding_of(kind: FindingKind, host: str, ranks: list[tuple[RankStatus, float]]) -> Finding:
    """What is to be said of these ranks of a host, each since its time."""
    first = ranks[0][0]
    return Finding(
        kind,
        min(since for _, since in ranks),
        tuple(sorted(rank.rank for rank, _ in ranks)),
        host,
        first.device_id if len(ranks) == 1 else None,
        phase=first.phase,
    )
