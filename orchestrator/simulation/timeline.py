"""The timeline of a simulation: what will happen, when, and the clock that goes on with it.

Two kinds of events: those of `after` happen at a time of the clock that everybody here reads, those of `at`
at a true time. The two differ by `jumped`: a stretch in which nothing new happens can be jumped over, and
then what is due at a true time comes earlier on the clock, while timers and messages are left as they are.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

__all__ = ["EPOCH", "Event", "OutOfTime", "SimulationError", "Timeline"]

EPOCH = 1_800_000_000.0
"""Seconds since the epoch when a simulation begins, by a clock that is right."""


class SimulationError(RuntimeError):
    """The simulation itself cannot go on."""


class OutOfTime(SimulationError):
    """So much real time as a simulation is given is over."""


class Event:
    """Something that will happen, until it is cancelled."""

    __slots__ = ("action", "time")

    def __init__(self, time: float, action: Callable[[], None]) -> None:
        self.time = time
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Timeline:
    """Events in the order of their times; of equal times, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jumped = 0.0
        self.last_date = 0.0  # the true time of the last event of `at`
        self.events_done = 0
        self.events_seconds = 0.0  # of real time that events took, as against the threads
        self._jumps: list[tuple[float, float]] = []
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, Event]] = []
        self._dated: list[tuple[float, int, Event]] = []

    @property
    def true_now(self) -> float:
        """Seconds since the beginning, with those that were jumped over."""
        return self.now + self.jumped

    def true_time(self, time: float) -> float:
        """The true time at which the clock showed `time`."""
        return time + next((jumped for since, jumped in reversed(self._jumps) if since <= time), 0.0)

    def after(self, seconds: float, action: Callable[[], None]) -> Event:
        """Have something happen in so many seconds by the clock, behind what is due at that time already."""
        event = Event(self.now + max(0.0, seconds), action)
        heapq.heappush(self._timers, (event.time, next(self._numbers), event))
        return event

    def at(self, true_time: float, action: Callable[[], None]) -> Event:
        """Have something happen at a true time; no jump passes it."""
        event = Event(max(true_time, self.true_now), action)
        heapq.heappush(self._dated, (event.time, next(self._numbers), event))
        return event

    def next_date(self) -> float | None:
        """The true time of the next event of `at`."""
        while self._dated and self._dated[0][2].action is None:
            heapq.heappop(self._dated)
        return self._dated[0][0] if self._dated else None

    def jump(self, seconds: float) -> None:
        """Pass over so many seconds, in which nothing that is due at a true time may lie."""
        date = self.next_date()
        if seconds <= 0 or (date is not None and date < self.true_now + seconds):
            raise SimulationError(f"cannot jump over {seconds:g} s")
        self.jumped += seconds
        self._jumps.append((self.now, self.jumped))

    def next_event(self) -> bool:
        """Go on to what happens next; False where nothing ever will."""
        timers, dated = self._timers, self._dated
        while timers and timers[0][2].action is None:
            heapq.heappop(timers)
        while dated and dated[0][2].action is None:
            heapq.heappop(dated)
        if dated and (not timers or dated[0][0] - self.jumped < timers[0][0]):
            when, _, event = heapq.heappop(dated)
            self.now = max(self.now, when - self.jumped)
            self.last_date = self.true_now
        elif timers:
            when, _, event = heapq.heappop(timers)
            self.now = max(self.now, when)
        else:
            return False
        action, event.action = event.action, None
        self.events_done += 1
        if action is not None:
            action()
        return True
