"""The learning rate of every step, worked out on the host."""

from __future__ import annotations

import math
from collections.abc import Callable

from model.errors import ModelError

__all__ = ["SHAPES", "rate_at"]

# From 1 at the end of the warm-up (x = 0) to 0 at the last step (x = 1).
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "linear": lambda x: 1 - x,
    "constant": lambda x: 1.0,
}


def rate_at(
    step: int, *, total_steps: int, warmup_steps: int, peak: float, end: float, shape: str = "cosine"
) -> float:
    """The rate of `step`, counted from 1: up in a straight line to `peak`, then by `shape` to `end`.

    Step `warmup_steps` has the peak, step `total_steps` the end.
    """
    if shape not in SHAPES:
        raise ModelError(
            f"no schedule is called {shape!r}", where="train.lr_schedule", remedy=", ".join(SHAPES)
        )
    if step < warmup_steps:
        return peak * step / warmup_steps
    part = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return end + (peak - end) * SHAPES[shape](min(1.0, part))
