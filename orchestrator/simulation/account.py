"""The account of a run's time: for what its hosts were used, from its launch to its end or to now. Pure.

    starting     until an attempt has made its first step: connecting, checks, import, compilation
    productive   steps whose result was kept by a save, or that no failure has undone
    lost         steps that a failure has undone: those since the last complete save
    saving       writing checkpoints
    waiting      all workers stand, or wait for a slow one: a hang, a failure that is not noticed yet, a stop
    down         no attempt is there: until somebody launches again

The parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

__all__ = ["AttemptTimes", "TimeAccount", "account_of"]


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """What became of the time of one attempt: seconds of one clock, None where it did not get there.

    It was launched at `launched`, had made its first step at `first`, and had ended everywhere at `ended`. In
    between, steps took `working` seconds at their usual pace, and saves `saving`. Of its `steps` the first
    `kept` are not undone.
    """

    launched: float
    first: float | None = None
    ended: float | None = None
    working: float = 0.0
    saving: float = 0.0
    steps: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class TimeAccount:
    """Seconds for each use."""

    starting: float = 0.0
    productive: float = 0.0
    lost: float = 0.0
    saving: float = 0.0
    waiting: float = 0.0
    down: float = 0.0

    @property
    def whole(self) -> float:
        return self.starting + self.productive + self.lost + self.saving + self.waiting + self.down

    def __add__(self, other: TimeAccount) -> TimeAccount:
        names = [part.name for part in fields(self)]
        return TimeAccount(**{name: getattr(self, name) + getattr(other, name) for name in names})


def account_of(attempts: Sequence[AttemptTimes], until: float) -> TimeAccount:
    """The account from the launch of the first attempt to `until`; attempts come in their order.

    What lies after `until`, or in the time of the next attempt, is left out, and a moment that lies before
    the one that it should follow counts as that one.
    """
    account = TimeAccount()
    for attempt, limit in zip(attempts, [*(each.launched for each in attempts[1:]), until], strict=False):
        account += _of_one(attempt, min(limit, until))
    return account


def _of_one(attempt: AttemptTimes, limit: float) -> TimeAccount:
    """From its launch to `limit`, where the next one begins or the account ends."""
    launched = min(attempt.launched, limit)
    ended = _within(attempt.ended, launched, limit)
    first = _within(attempt.first, launched, ended)
    saving = min(max(attempt.saving, 0.0), ended - first)
    working = min(max(attempt.working, 0.0), ended - first - saving)
    kept = min(max(attempt.kept, 0), attempt.steps) / attempt.steps if attempt.steps > 0 else 0.0
    return TimeAccount(
        starting=first - launched,
        productive=working * kept,
        lost=working - working * kept,
        saving=saving,
        waiting=ended - first - saving - working,
        down=limit - ended,
    )


def _within(moment: float | None, least: float, most: float) -> float:
    """A moment between two others; the later of them where it has not come."""
    return most if moment is None else min(max(moment, least), most)
