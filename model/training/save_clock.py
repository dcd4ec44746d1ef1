"""The clock of `checkpoint.save_every`: rank 0 asks all to save when it is time, see `step_requests`."""

from __future__ import annotations

import time
from collections.abc import Callable

from model.phases import Saved
from orchestrator.checkpoint.save_interval import best_interval

__all__ = ["SaveClock"]


class SaveClock:
    """Counts from the first step, or the end of the last save. Seconds of any steady clock.

    `every` is the interval; None: the one that costs least where a failure comes every `mtbf`, and a save
    holds the steps up for as long as the last one did, or before the first for `guess`.
    """

    def __init__(
        self,
        every: float | None,
        *,
        mtbf: float,
        guess: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every, self._mtbf, self._guess, self._clock = every, mtbf, guess, clock
        self._stall: float | None = None
        self._write = 0.0
        self._since: float | None = None

    @property
    def interval(self) -> float:
        """From the end of one save to the next."""
        if self._every is not None:
            return self._every
        stall = self._guess if self._stall is None else self._stall
        return best_interval(stall, self._mtbf, self._write)

    def start(self) -> None:
        """A step has been made: there is something to lose. Called again, it does nothing."""
        if self._since is None:
            self._since = self._clock()

    def is_due(self) -> bool:
        """Whether it is time."""
        return self._since is not None and self._clock() - self._since >= self.interval

    def note(self, stall: float | None, whole: Saved | None) -> None:
        """The steps go on after a save that held them up so long; `whole` is the newest that is whole."""
        self._since = self._clock()
        if stall is not None:
            self._stall = stall
        if whole is not None:
            self._write = whole.write
