"""What a rank asks all others to do after a step: to stop, or to save.

It goes as one number into the sum over all ranks that the step makes anyway, so that all know it after the
same step.
"""

from __future__ import annotations

__all__ = ["asked_for", "told_by"]

# More than there are ranks. float32, in which the sum is made, has all whole numbers up to eight times that.
_SAVE = 1 << 21


def asked_for(*, stop: bool, save: bool) -> float:
    """The number of one rank; only rank 0 may ask to save."""
    return float(stop) + _SAVE * float(save)


def told_by(total: float) -> tuple[bool, bool]:
    """Whether any rank asks for a stop, and whether rank 0 asks to save, by the sum of all ranks' numbers."""
    return total % _SAVE > 0, total >= _SAVE
