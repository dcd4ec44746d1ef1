"""The offset of a host's clock from ours, as far as asking it once can tell."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClockOffset"]

# How far two clocks may drift apart in a second: quartz is good to 50 parts in a million each.
_DRIFT = 1e-4
# A message that takes longer than this was held up, or the host's clock was set back.
_LONGEST_WAY = 30.0


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The host's clock is ahead of ours by `seconds`, give or take `error`; `measured` is when, by ours."""

    seconds: float
    error: float
    measured: float

    @classmethod
    def of(cls, before: float, there: float, after: float) -> ClockOffset:
        """From the host's time `there`, which it told between `before` and `after` of our clock."""
        return cls(there - (before + after) / 2, max(0.0, after - before) / 2, after)

    def at_least(self) -> float:
        """By how much it is ahead (behind: negative) at the least; 0 where it may be right."""
        if abs(self.seconds) <= self.error:
            return 0.0
        return self.seconds - self.error if self.seconds > 0 else self.seconds + self.error

    def at_most(self) -> float:
        """By how much it is ahead or behind at the most."""
        return abs(self.seconds) + self.error

    def or_newer(self, newer: ClockOffset) -> ClockOffset:
        """The more exact of the two, when `newer` was measured: clocks drift.

        The newer one where both cannot be true: a clock was set.
        """
        aged = self._aged(newer.measured)
        was_set = abs(newer.seconds - self.seconds) > newer.error + aged
        return newer if was_set or newer.error <= aged else self

    def heard(self, there: float, now: float) -> ClockOffset | None:
        """What is known when a message of the host's time `there` has come by `now` of ours, however long
        it was under way: the host is ahead by `there - now` at the least.

        None where that cannot be: a clock was set, or a message of long ago has come; it must be measured.
        """
        aged, least = self._aged(now), there - now
        if least > self.seconds + aged or least < self.seconds - aged - _LONGEST_WAY:
            return None
        if least <= self.seconds - aged + _DRIFT:
            return self
        most = self.seconds + aged
        return ClockOffset((least + most) / 2, (most - least) / 2, now)

    def _aged(self, now: float) -> float:
        return self.error + _DRIFT * max(0.0, now - self.measured)

    def ours(self, there: float) -> float:
        """Our time when the host's clock shows `there`."""
        return there - self.seconds
