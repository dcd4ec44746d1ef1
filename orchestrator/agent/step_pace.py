"""The pace of one rank: how long its steps take, and since when it has made none."""

from __future__ import annotations

from collections import deque
from typing import Any, Deque, Mapping, Optional

__all__ = ["StepPace"]

_LEAST, _STEPS = 60.0, 5
_KEPT = 33
_LARGEST = 10**15


class StepPace:
    """Learns from the newest line of a rank's metrics, whenever that is looked at.

    `now` is any steady clock. Lines have the time of a wall clock, which is more exact where steps are short,
    and is not believed where it was set in between.
    """

    def __init__(self) -> None:
        self._step: Optional[int] = None
        self._is_last = False
        self._since = 0.0
        self._time: Optional[float] = None
        self._seconds: Deque[float] = deque(maxlen=_KEPT)
        self.median: Optional[float] = None

    def note(self, progress: Mapping[str, Any], now: float) -> bool:
        """Whether this is another step than the one before."""
        step, written = progress.get("step"), progress.get("time")
        if type(step) is not int or step == self._step or not 0 <= step < _LARGEST:
            return False
        # What a program of the user's writes there may be anything.
        is_time = isinstance(written, (int, float)) and abs(written) < _LARGEST
        time = float(written) if is_time else None  # type: ignore[arg-type]
        if self._step is not None and step > self._step:
            self._learn(step - self._step, time, now)
        self._step, self._since, self._time = step, now, time
        self._is_last = step == progress.get("total_steps")
        return True

    def forgive(self, now: float) -> None:
        """Count the time since the newest step from now on."""
        self._since = now

    def stalled_since(self, now: float) -> Optional[float]:
        """When the newest step was seen, if that is too long ago: max(60 s, 5 of the median step).

        None before the first step, whose length nobody knows, and after the last one.
        """
        if self._step is None or self._is_last:
            return None
        late = now - self._since > max(_LEAST, _STEPS * (self.median or 0.0))
        return self._since if late else None

    def _learn(self, steps: int, time: Optional[float], now: float) -> None:
        seen = now - self._since
        written = time - self._time if time is not None and self._time is not None else seen
        # It is looked at every second or so: what differs by far more is no length of time.
        is_sound = written > 0 and abs(written - seen) <= 5.0 + seen / 2
        self._seconds.append((written if is_sound else seen) / steps)
        self.median = sorted(self._seconds)[len(self._seconds) // 2]  # `statistics` takes long to load
