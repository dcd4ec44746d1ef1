"""The pace of work on many hosts: how many pieces of it may be under way at once, learnt from how it goes.

`Pace` decides, and has no thread, lock or clock: who asks says what time it is. The number grows by one for
each round in which all went well and is halved where there was no room (additive increase, multiplicative
decrease, as TCP's: RFC 5681 §3.1). What takes much longer than the others is not counted any more: a host
that never answers holds up nobody but who waits for it. `Gate` lets threads in at that pace.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.hosts.scheduling import Scheduling, Signal

__all__ = ["Gate", "Pace", "Ticket"]

_REMEMBERED = 32
# So many times longer than is usual, and a piece of work is taken to hang.
_HANGS = 4.0
# Near the number at which there was no room the last time, it grows so much more slowly.
_CAREFUL = 0.25
# A waiting thread looks so often whether it is still wanted, in seconds.
_LOOK = 0.5


@dataclass(frozen=True, slots=True)
class Ticket:
    """One piece of work that is under way; `tells` where there was little room left when it began."""

    number: int
    began: float
    tells: bool


class Pace:
    """The number of pieces of work that may be under way: `start` at first, never below 1 or above `most`.

    `patience` are the seconds after which at the earliest a piece of work is not counted any more; where they
    usually take long, that is later. Times are seconds of one monotonic clock.
    """

    def __init__(self, start: float, most: float, patience: float = 2.0) -> None:
        self.limit = max(1.0, min(start, most))
        self._most = most
        self._least_patience = patience
        self._number = 0
        self._under_way: dict[int, float] = {}
        self._took: deque[float] = deque(maxlen=_REMEMBERED)
        self.patience = patience
        """After so many seconds a piece of work is taken to hang."""
        self._last_decrease: float | None = None
        self._ceiling = 0  # so many were too many the last time
        self._proven = 0  # so many had room together since

    def counted(self, now: float) -> int:
        """How many pieces of work are under way and do not hang."""
        return sum(now - began < self.patience for began in self._under_way.values())

    def wait(self, now: float) -> float | None:
        """Seconds until another piece may begin if nothing ends meanwhile: 0.0 for now, None for never."""
        ages = (now - began for began in self._under_way.values())  # the oldest first, as they began
        counted = [age for age in ages if age < self.patience]
        excess = len(counted) - int(self.limit)
        if excess < 0:
            return 0.0
        return max(0.001, self.patience - counted[excess])

    def begin(self, now: float) -> Ticket:
        self._number += 1
        tells = 2 * (self.counted(now) + 1) >= int(self.limit)
        self._under_way[self._number] = now
        return Ticket(self._number, now, tells)

    def done(self, ticket: Ticket, now: float) -> None:
        """It went well: there is room for more, if it was not alone."""
        if self._under_way.pop(ticket.number, None) is None:
            return
        self._took.append(now - ticket.began)
        self.patience = max(self._least_patience, _HANGS * sorted(self._took)[len(self._took) // 2])
        half = (now - ticket.began) / 2  # those that are dropped are so at once, and prove nothing
        found_room = sum(half <= now - began < self.patience for began in self._under_way.values())
        self._proven = max(self._proven, found_room + 1)
        if ticket.tells:
            self.limit = min(self._most, self.limit + self._step())

    def _step(self) -> float:
        """By how much the number grows: fast up to the first drop, and with care where the last one was."""
        if self._last_decrease is None:
            return 1.0
        is_near = self._ceiling - 1 <= self.limit <= self._ceiling + 1
        return (_CAREFUL if is_near else 1.0) / self.limit

    def dropped(self, ticket: Ticket, now: float, *, again: bool = False) -> None:
        """There was no room for it. `again` where the same host had none for it the last time either.

        Of those that were under way together the first one halves the number, and the others say how many
        found room: as many as are left. A host without room where there was some for more speaks for itself.
        """
        if self._under_way.pop(ticket.number, None) is None:
            return
        together = self.counted(now)
        if again and together < self._proven:
            return
        if self._last_decrease is None or ticket.began >= self._last_decrease:
            self._ceiling = together + 1
            self.limit = max(1.0, min(self.limit, self._ceiling) / 2)
            self._last_decrease, self._proven = now, 0
        elif together < self.limit:
            self.limit = max(1.0, float(together))
            self._ceiling = together + 1

    def leave(self, ticket: Ticket) -> None:
        """It ended in a way that says nothing about room."""
        self._under_way.pop(ticket.number, None)


class Gate:
    """Lets threads in at a pace, in the order in which they came; those that come again go first."""

    def __init__(self, pace: Pace, scheduling: Scheduling) -> None:
        self._pace = pace
        self._scheduling = scheduling
        self._lock = threading.Lock()  # never held while anything is waited for
        self._waiting: deque[Signal] = deque()

    @property
    def patience(self) -> float:
        with self._lock:
            return self._pace.patience

    @contextlib.contextmanager
    def turn(
        self,
        *,
        again: bool = False,
        is_dropped: Callable[[Exception], bool] = lambda error: False,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[None]:
        """A piece of work, as soon as there is room for it; out of turn where it is not wanted any more.

        What it raises says nothing about room, but where `is_dropped` says so; `again` as for `Pace.dropped`.
        """
        ticket = self._enter(again, is_wanted)
        try:
            yield
        except Exception as error:
            with self._lock:
                if ticket is not None and is_dropped(error):
                    self._pace.dropped(ticket, self._scheduling.monotonic(), again=again)
            raise
        else:
            with self._lock:
                if ticket is not None:
                    self._pace.done(ticket, self._scheduling.monotonic())
        finally:
            with self._lock:
                if ticket is not None:
                    self._pace.leave(ticket)
                self._wake_first()

    def _enter(self, again: bool, is_wanted: Callable[[], bool]) -> Ticket | None:
        with self._lock:
            now = self._scheduling.monotonic()
            if not self._waiting and self._pace.wait(now) == 0.0:
                return self._pace.begin(now)
            signal = self._scheduling.signal()
            # Who comes back has waited already.
            (self._waiting.appendleft if again else self._waiting.append)(signal)
        try:
            while is_wanted():
                with self._lock:
                    now, left = self._scheduling.monotonic(), _LOOK
                    if self._waiting[0] is signal:
                        wait = self._pace.wait(now)
                        if wait == 0.0:
                            return self._pace.begin(now)
                        left = min(left, wait or left)
                    signal.clear()
                signal.wait(left)
            return None
        finally:
            with self._lock:
                self._waiting.remove(signal)
                self._wake_first()

    def _wake_first(self) -> None:
        if self._waiting:
            self._waiting[0].set()
