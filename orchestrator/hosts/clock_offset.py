"""The offset of a host's clock from ours, as far as asking it once can tell."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClockOffset"]

# How far two clocks may drift apart in a second: quartz is good to 50 parts in a million each.
_DRIFT = 1e-4


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

    def or_newer(self, newer: ClockOffset) -> ClockOffset:
        """The more exact of the two, when `newer` was measured: clocks drift."""
        aged = self.error + _DRIFT * max(0.0, newer.measured - self.measured)
        return newer if newer.error <= aged else self

    def ours(self, there: float) -> float:
        """Our time when the host's clock shows `there`."""
        return there - self.seconds
