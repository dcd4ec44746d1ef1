"""The factor on the loss that keeps float16 gradients away from zero, and how it follows overflows."""

from __future__ import annotations

from dataclasses import dataclass

from model.errors import ModelError

__all__ = ["LossScale", "loss_scale_of"]


@dataclass(slots=True)
class LossScale:
    """Halved by a step whose gradients overflow, doubled after `window` steps without one.

    A `window` of 0 keeps the value fixed. Every rank sees every overflow, so all hold the same value.
    """

    value: float = 1.0
    window: int = 0
    good_steps: int = 0  # since the value was last changed

    LOWEST = 1.0
    HIGHEST = 2.0**24

    @property
    def can_shrink(self) -> bool:
        return self.window > 0 and self.value > self.LOWEST

    def update(self, overflow: bool) -> None:
        """Follow one step."""
        if not self.window:
            return
        if overflow:
            self.value, self.good_steps = max(self.LOWEST, self.value / 2), 0
            return
        self.good_steps += 1
        if self.good_steps >= self.window:
            self.value, self.good_steps = min(self.HIGHEST, self.value * 2), 0


def loss_scale_of(setting: str | float | None, start: float, window: int) -> LossScale:
    """From train.loss_scale: None (1), a number, or "dynamic" (from `start`, doubled after `window`)."""
    if setting is None:
        return LossScale()
    if not isinstance(setting, str):
        return LossScale(float(setting))
    if setting != "dynamic":
        raise ModelError(f"must be dynamic or a number, not {setting!r}", where="train.loss_scale")
    return LossScale(start, window)
