"""The hosts that may still hold something for a run that is over, as its record has them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Held"]


@dataclass(frozen=True, slots=True)
class Held:
    """They have not said yet that they let go; at `until`, of our clock, they have by themselves."""

    hosts: tuple[str, ...] = ()
    until: float = 0.0

    def at(self, now: float) -> tuple[str, ...]:
        """Who may hold something now."""
        return self.hosts if now < self.until else ()
