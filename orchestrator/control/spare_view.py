"""What is known of a run's spares: a part of its record."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["SpareState", "SpareView"]


class SpareState(enum.StrEnum):
    """How far a spare is."""

    CHECKING = "checking"  # or files are brought to it
    HELD = "held"  # its devices are the run's; what workers import is being imported
    READY = "ready"
    AWAY = "away"  # it does not answer
    UNFIT = "unfit"  # it failed a check, or cannot be held
    USED = "used"  # it is one of the run's hosts now


@dataclass(frozen=True, slots=True)
class SpareView:
    """One spare: how it is since when (our clock), and why; `devices` are those that are held there."""

    state: SpareState = SpareState.CHECKING
    since: float = 0.0
    why: str = ""
    devices: tuple[int, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether it can take the place of a host now: that nothing is imported yet costs only time."""
        return self.state in (SpareState.HELD, SpareState.READY)
