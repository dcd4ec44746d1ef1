"""The feed of a supervisor's status to those who watch the run: which event is due to whom, and when.

There are no sockets, processes or clocks here. What the supervisor sees goes in by `observe`; `due` gives
each subscriber its next event, with `now` in seconds of any steady clock. Nothing is queued: a subscriber is
the sequence that it has, and when it was last told something. Who asks late gets the newest there is,
whatever has happened in between, and a subscriber that never asks costs nothing.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Dict, Hashable, Mapping, Optional, Tuple

from orchestrator.core.push import Beat, Change, Digest, Mark, Pushed, Snapshot
from orchestrator.core.record_class import fields
from orchestrator.core.records import HostStatus, ProcessId, RankStatus
from orchestrator.core.states import RankState

__all__ = ["SHORTEST", "StatusFeed"]

# Nobody is told anything more often: of seconds between two digests, or beats.
SHORTEST = 0.05
_LARGEST = 10**15
# All of a rank but its progress.
_compared = operator.attrgetter(*(f.name for f in fields(RankStatus) if f.name != "progress"))


class _Subscriber:
    """What one reader has, and how often it wants to hear."""

    __slots__ = ("beat", "digested", "every", "progress", "said", "sequence")

    def __init__(self, every: float, beat: float, sequence: Optional[int], now: float) -> None:
        self.every = every
        self.beat = beat
        self.sequence = sequence  # None: nothing that could be gone on from
        self.progress = 0
        self.said = now
        self.digested = -math.inf


class StatusFeed:
    """One supervisor's events for any number of subscribers, each under a key of the caller's."""

    def __init__(self, supervisor: Optional[ProcessId], status: HostStatus) -> None:
        self.supervisor = supervisor
        self.sequence = 0
        # Grows with the steps that ranks make.
        self.progress = 0
        self._status = status
        self._seconds: Optional[float] = None
        self._compute: Mapping[str, float] = {}
        self._changed: Tuple[RankStatus, ...] = ()
        self._scheduler: Optional[RankStatus] = None
        self._subscribers: Dict[Hashable, _Subscriber] = {}

    def observe(
        self,
        status: HostStatus,
        seconds: Optional[float] = None,
        compute: Optional[Mapping[str, float]] = None,
    ) -> bool:
        """The status as it is now, the median time of a step, and what of it each rank computes.

        Whether it is a change.
        """
        before, self._status, self._seconds = self._status, status, seconds
        self._compute = compute or {}
        known = {rank.rank: rank for rank in before.ranks}
        changed = []
        for rank in status.ranks:
            old = known.get(rank.rank)
            if old is rank:
                continue
            if old is None or _differ(old, rank):
                changed.append(rank)
            if rank.progress and (old is None or _mark_of(old) != _mark_of(rank)):
                self.progress += 1
        scheduler = status.scheduler if _differ(before.scheduler, status.scheduler) else None
        is_change = bool(changed) or scheduler is not None or _host(before) != _host(status)
        if is_change:
            self.sequence += 1
            self._changed, self._scheduler = tuple(changed), scheduler
        return is_change

    def subscribe(self, key: Hashable, since: Optional[Mark], every: float, beat: float, now: float) -> None:
        """Begin to tell this one, or begin anew, from `since` on if that is of this supervisor."""
        sequence = since.sequence if since is not None and since.supervisor == self.supervisor else None
        self._subscribers[key] = _Subscriber(max(every, SHORTEST), max(beat, SHORTEST), sequence, now)

    def unsubscribe(self, key: Hashable) -> None:
        self._subscribers.pop(key, None)

    def due(self, key: Hashable, now: float, clock: float) -> Optional[Pushed]:
        """The next event for this one, which counts as told, or None; `clock` is the host's."""
        reader = self._subscribers.get(key)
        if reader is None:
            return None
        event = self._news(reader, now, clock)
        if event is None and now >= reader.said + reader.beat:
            event = Beat(self.sequence, clock)
        if event is not None:
            reader.said = now
        return event

    def wait(self, key: Hashable, now: float) -> Optional[float]:
        """Seconds until something is due to this one if nothing happens; None for no subscriber."""
        reader = self._subscribers.get(key)
        return None if reader is None else max(0.0, self._due_at(reader) - now)

    def _due_at(self, reader: _Subscriber) -> float:
        if reader.sequence != self.sequence:
            return -math.inf
        digest = reader.digested + reader.every if reader.progress != self.progress else math.inf
        return min(digest, reader.said + reader.beat)

    def _news(self, reader: _Subscriber, now: float, clock: float) -> Optional[Pushed]:
        if reader.sequence != self.sequence:
            is_next = reader.sequence == self.sequence - 1
            reader.sequence = self.sequence
            if is_next:
                return self._change(clock)
            reader.progress, reader.digested = self.progress, now
            return Snapshot(self.sequence, clock, self._status, self.supervisor)
        if reader.progress != self.progress and now >= reader.digested + reader.every:
            reader.progress, reader.digested = self.progress, now
            return self._digest(clock)
        return None

    def _change(self, clock: float) -> Change:
        status = self._status
        # As they are by now: a change may be told some time after it was seen.
        now = {rank.rank: rank for rank in status.ranks}
        return Change(
            self.sequence,
            clock,
            status.phase,
            tuple(now.get(rank.rank, rank) for rank in self._changed),
            status.scheduler if self._scheduler is not None else None,
            status.failed_first,
            status.stop,
            status.grace,
            status.copies,
        )

    def _digest(self, clock: float) -> Optional[Digest]:
        running = [rank for rank in self._status.ranks if rank.state is RankState.RUNNING]
        steps = {rank.rank: _step_of(rank) or 0 for rank in running}
        first = next((rank for rank in running if rank.progress), None)
        if first is None:
            return None  # all have ended, which a change has told with the last of their progress
        # Of a pipeline it may be that ranks of its last stage alone know the loss.
        first = next((rank for rank in running if rank.progress.get("loss") is not None), first)
        low, high = min(steps.values()), max(steps.values())
        return Digest(
            self.sequence,
            clock,
            low,
            high,
            {str(rank): step for rank, step in steps.items() if step != high},
            self._seconds,
            first.rank,
            first.progress,
            {rank: float(f"{seconds:.4g}") for rank, seconds in self._compute.items()},
        )


def _differ(old: Optional[RankStatus], new: Optional[RankStatus]) -> bool:
    """Whether there is more to tell than progress."""
    if old is None or new is None:
        return old is not new
    return bool(_compared(old) != _compared(new))


def _host(status: HostStatus) -> Tuple[Any, ...]:
    return (status.phase, status.failed_first, status.stop, status.grace, status.copies)


def _step_of(rank: RankStatus) -> Optional[int]:
    """Its step, if what a program of the user's wrote there can be one."""
    step = rank.progress.get("step")
    return step if type(step) is int and 0 <= step < _LARGEST else None


def _mark_of(rank: RankStatus) -> Any:
    """What is another one once the rank has got on: its step, or, of one that counts none, what it says."""
    step = _step_of(rank)
    return rank.progress if step is None else step
