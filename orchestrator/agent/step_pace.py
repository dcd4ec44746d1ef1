"""The pace of one rank: how long its steps and its saves take, and since when it has made no step."""

from __future__ import annotations

from collections import deque
from typing import Any, Deque, Mapping, Optional

from orchestrator.core.records import Phase

__all__ = ["StepPace"]

_LEAST, _STEPS = 60.0, 5
_KEPT = 33
_COMPUTED = 10
_LARGEST = 10**15
# In these a rank makes no steps, for as long as it takes: whether that is too long is judged by who sees all.
_WITHOUT_STEPS = frozenset({Phase.COMPILE, Phase.SAVE, Phase.EVALUATE})


class StepPace:
    """Learns from the newest line of a rank's metrics, whenever that is looked at, and from its phases.

    `now` is any steady clock. Lines have the time of a wall clock, which is more exact where steps are short,
    and is not believed where it was set in between. `median` is of the seconds of a step, `save_seconds` are
    those of the last save until it was whole, and `compute` the median of those in which the rank itself
    computed, of its last ten steps; None while not known.
    """

    def __init__(self) -> None:
        self._step: Optional[int] = None
        self._is_last = False
        self._since = 0.0
        self._time: Optional[float] = None
        self._seconds: Deque[float] = deque(maxlen=_KEPT)
        self._computed: Deque[float] = deque(maxlen=_COMPUTED)
        self._phase: Optional[Phase] = None
        self._phase_since = (0.0, 0.0)
        self._held_up: Optional[float] = None
        self._whole_after: Optional[float] = None
        self._is_behind = False
        self._median: Optional[float] = None

    @property
    def median(self) -> Optional[float]:
        if self._median is None and self._seconds:
            self._median = _middle(self._seconds)
        return self._median

    @property
    def save_seconds(self) -> Optional[float]:
        if self._is_behind and self._whole_after is None:
            return None  # it goes on, and nobody has seen how long
        known = [each for each in (self._held_up, self._whole_after) if each is not None]
        return max(known) if known else None

    @property
    def compute(self) -> Optional[float]:
        return _middle(self._computed) if self._computed else None

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

    def note_computed(self, seconds: float) -> None:
        """So long the rank itself computed in a step."""
        self._computed.append(seconds)

    def note_behind(self) -> None:
        """A save holds up the steps no more, and is not whole yet."""
        self._is_behind = True

    def note_whole(self, seconds: Optional[float]) -> None:
        """A checkpoint is whole, so long after its begin."""
        if seconds is not None:
            self._whole_after = seconds

    def note_phase(self, phase: Phase, written: float, now: float) -> None:
        """Another phase has begun: by the wall clock at `written`, seen now."""
        if self._phase is Phase.SAVE:
            seen = now - self._phase_since[1]
            self._held_up = _sound(written - self._phase_since[0], seen)
        self._phase, self._phase_since = phase, (written, now)
        self.forgive(now)

    def forgive(self, now: float) -> None:
        """Count the time since the newest step from now on."""
        self._since = now

    def stalled_since(self, now: float) -> Optional[float]:
        """When the newest step was seen, if that is too long ago: max(60 s, 5 of the median step).

        None before the first step, whose length nobody knows, after the last one, and in a phase that is
        without steps.
        """
        if self._step is None or self._is_last or self._phase in _WITHOUT_STEPS:
            return None
        waited = now - self._since
        late = waited > _LEAST and waited > _STEPS * (self.median or 0.0)
        return self._since if late else None

    def _learn(self, steps: int, time: Optional[float], now: float) -> None:
        seen = now - self._since
        written = time - self._time if time is not None and self._time is not None else seen
        self._seconds.append((_sound(written, seen) if written else seen) / steps)
        self._median = None  # made of them when it is asked for, which is more seldom


def _sound(written: float, seen: float) -> float:
    """The time between two lines by their own words, if those can be."""
    if seen <= 0:  # all of it was found at one look
        return max(0.0, written)
    # It is looked at every second or so: what differs by far more is no length of time.
    return written if written >= 0 and abs(written - seen) <= 5.0 + seen / 2 else seen


def _middle(values: Deque[float]) -> float:
    return sorted(values)[len(values) // 2]  # `statistics` takes long to load
