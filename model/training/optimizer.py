"""AdamW as MindFormers trains Bloom, without bias correction, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from model.errors import ModelError
from model.network.cpu_kernels import DecayedAdam, other_kernels_pay

__all__ = [
    "SHAPES",
    "AdamW",
    "decays",
    "rate_at",
]

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


def decays(name: str) -> bool:
    """Weight decay is for matrices: not for norms, not for biases."""
    return not name.endswith((".gamma", ".beta", ".bias"))


class AdamW(nn.Cell):
    """(float32 gradients, rate, factor on the gradients): one update of all parameters, in place.

    The float32 moments are named `adam_m.` and `adam_v.` + parameter. The arithmetic is in float32
    whatever the weight's type.
    """

    def __init__(
        self,
        parameters: Sequence[ms.Parameter],
        *,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        moment_shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.parameters = ms.ParameterTuple(parameters)
        shapes = [item.shape for item in parameters] if moment_shapes is None else moment_shapes
        self.adam_m = _moments(parameters, shapes, "adam_m")
        self.adam_v = _moments(parameters, shapes, "adam_v")
        self.decay = tuple(weight_decay if decays(item.name) else 0.0 for item in parameters)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.types = tuple(item.dtype for item in parameters)
        self.fused: Callable[..., Tensor] = DecayedAdam() if other_kernels_pay() else ops.AdamWeightDecay()

    def construct(self, grads: tuple[Tensor, ...], rate: Tensor, factor: Tensor) -> Any:
        done: Any = True
        for index in range(len(self.parameters)):
            # One after the other: else all gradients are scaled first, and so held twice. Each waits for the
            # one before it alone: to wait for all before it takes longer than most updates.
            done = self.update(index, ops.depend(grads[index], done) * factor, rate)
        return ops.depend(True, done)

    def update(self, index: int, grad: Tensor, rate: Tensor) -> Tensor:
        """One whole parameter and its moments, in place."""
        if self.types[index] == ms.float32:
            return self.update_fused(index, grad, rate)
        return self.update_half(index, grad, rate)

    def update_fused(self, index: int, grad: Tensor, rate: Tensor) -> Tensor:
        weight, m, v = self.parameters[index], self.adam_m[index], self.adam_v[index]
        return self.fused(weight, m, v, rate, self.beta1, self.beta2, self.eps, self.decay[index], grad)

    def update_half(self, index: int, grad: Tensor, rate: Tensor) -> Tensor:
        """The same, rounded when it is stored: the fused kernel wants one type for all."""
        weight = self.parameters[index]
        new, m, v = self.formula(index, ops.cast(weight, ms.float32), grad, rate)
        stored = ops.assign(weight, ops.cast(new, weight.dtype))
        stored = ops.depend(stored, ops.assign(self.adam_m[index], m))
        return ops.depend(stored, ops.assign(self.adam_v[index], v))

    def formula(self, index: int, old: Tensor, grad: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(weight, m, v) after the update, from float32 values of the moments' shape."""
        m = self.beta1 * self.adam_m[index] + (1.0 - self.beta1) * grad
        v = self.beta2 * self.adam_v[index] + (1.0 - self.beta2) * grad * grad
        return old - rate * (m / (ops.sqrt(v) + self.eps) + self.decay[index] * old), m, v


def _moments(
    parameters: Sequence[ms.Parameter], shapes: Sequence[tuple[int, ...]], kind: str
) -> ms.ParameterTuple:
    return ms.ParameterTuple(
        [
            ms.Parameter(ops.zeros(tuple(shape), ms.float32), name=f"{kind}.{item.name}")
            for item, shape in zip(parameters, shapes, strict=True)
        ]
    )
