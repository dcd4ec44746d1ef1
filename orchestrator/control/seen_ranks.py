"""The ranks of a run that can be seen: what each of them does, and who is unlike the others."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from orchestrator.control.step_limits import LEARNT
from orchestrator.core.records import Phase, RankStatus

__all__ = ["Does", "Doing", "SeenRank", "most", "odd_ones"]

T = TypeVar("T")


class Doing(enum.Enum):
    """What a rank does for which there is no phase."""

    LAST = "last"  # it has made its last step


Does = Phase | Doing | None


class SeenRank:
    """One that runs, on a host that answers. `moved` is when it made a step or began a phase, at the last."""

    __slots__ = ("does", "host", "moved", "phase_at", "phase_step", "status", "step")

    def __init__(self, host: str, status: RankStatus, now: float) -> None:
        self.host, self.status = host, status
        self.step: int | None = None
        self.moved = self.phase_at = now
        self.phase_step = 0  # the step at which its phase began
        self.does: Does = None

    def note(self, status: RankStatus) -> None:
        """What it is now. The save of one that makes steps meanwhile is over, or holds up nobody."""
        self.status, phase = status, status.phase
        if phase in LEARNT and (self.step or 0) > self.phase_step + 1:
            phase = Phase.STEP
        is_last = self.step is not None and self.step == status.progress.get("total_steps")
        self.does = Doing.LAST if is_last and phase in (None, Phase.STEP) else phase


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
