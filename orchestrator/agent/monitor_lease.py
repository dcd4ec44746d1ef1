"""The lease of a run's monitor on one host: how long workers go on of which nobody may look after any more.

A run that goes on by itself gets another attempt where its hosts are thought to be lost. One that is only cut
off would then compute beside it. So a supervisor that has heard no monitor *and* seen no sign of life of its
ranks for as long as the lease ends them by itself. Signs are a new step, and a new phase: in one without
steps (a compilation, a save) they have as long again. Without a lease nothing ends.
Pure: `now` is in seconds of any steady clock.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Optional

from orchestrator.core.records import RankStatus

__all__ = ["MonitorLease"]


class MonitorLease:
    """What of monitor and ranks was last heard."""

    def __init__(self, seconds: Optional[float], now: float) -> None:
        self._seconds = seconds
        self._renewed = now
        self._seen: Dict[int, Any] = {}

    @property
    def ends(self) -> Optional[float]:
        """When it ends if nothing more is heard; None: never."""
        return None if self._seconds is None else self._renewed + self._seconds

    def renew(self, now: float) -> None:
        """A monitor was heard, or what was not heard until now has no meaning."""
        self._renewed = now

    def has_ended(self, running: Iterable[RankStatus], now: float) -> bool:
        """Whether it has, after a look at the ranks that run."""
        if self._seconds is None:
            return False
        for rank in running:
            sign = (rank.progress.get("step"), rank.phase, rank.phase_since)
            if self._seen.get(rank.rank) != sign:
                self._seen[rank.rank], self._renewed = sign, now
        return now >= self._renewed + self._seconds
