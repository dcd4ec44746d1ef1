"""AdamW as MindFormers trains Bloom (no bias correction), its state sharded or not, and the learning rate.

Sharded, a replica of the data group holds the moments of one piece of each weight along axis 0 and updates
that; then the pieces are gathered. Where the device has a reduce-scatter only the piece's gradient comes here
(`gradients.ReduceGradients`), else the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from model.errors import ModelError
from model.network.cpu_kernels import DecayedAdam, other_kernels_pay
from model.parallel.collectives import Member, all_gather_of, has_native_collectives
from model.parallel.mesh import Place, Strategy, shares_moments
from model.training.gradients import BUCKET_VALUES, buckets

__all__ = [
    "SHAPES",
    "AdamW",
    "ShardedAdamW",
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


class ShardedAdamW(AdamW):
    """As AdamW; a parameter that the data group cannot cut evenly has its moments whole on every replica."""

    def __init__(
        self,
        parameters: Sequence[ms.Parameter],
        strategy: Strategy,
        place: Place,
        group: str,
        **options: float,
    ) -> None:
        is_shared = [shares_moments(item.name, item.shape, strategy) for item in parameters]
        rows = [
            item.shape[0] // strategy.data_parallel if is_shared[n] else item.shape[0]
            for n, item in enumerate(parameters)
        ]
        shapes = [(count, *item.shape[1:]) for count, item in zip(rows, parameters, strict=True)]
        super().__init__(parameters, moment_shapes=shapes, **options)
        self.grads_are_pieces = has_native_collectives(group)
        # A sum needs float32, and a gather none: there half of the bytes travel for a weight of 16 bits.
        self.sent = self.types if self.grads_are_pieces else (ms.float32,) * len(self.types)
        self.whole = tuple(index for index, shared in enumerate(is_shared) if not shared)
        shared = (index for index, shared in enumerate(is_shared) if shared)
        self.shared = tuple(sorted(shared, key=lambda index: str(self.sent[index])))  # few changes of type
        self.rows = tuple(rows)
        self.sizes = tuple(math.prod(shape) for shape in shapes)
        self.shapes = tuple(tuple(item.shape) for item in parameters)
        self.piece = place.dp
        limit = max(1, BUCKET_VALUES // strategy.data_parallel)
        kinds = [str(self.sent[index]) for index in self.shared]
        self.runs = buckets([self.sizes[index] for index in self.shared], limit, kinds)
        self.all_gather = all_gather_of(Member(group, place.dp, strategy.data_parallel), ndim=1)

    def construct(self, grads: tuple[Tensor, ...], rate: Tensor, factor: Tensor) -> Any:
        done: Any = True
        for index in self.whole:
            done = ops.depend(done, self.update(index, grads[index] * factor, rate))
        lead = ops.zeros((1,), ms.float32)
        for start, stop in self.runs:
            flat: tuple[Tensor, ...] = (ops.cast(lead, self.sent[self.shared[start]]),)
            for number in range(start, stop):
                flat += (self.updated_piece(self.shared[number], grads, rate, factor),)
            table = self.all_gather(ops.concat(flat))  # (pieces, values)
            # Every buffer starts with the last one's first value, which keeps their order on all ranks.
            lead = ops.reshape(table[:1, :1], (1,))
            offset = 1
            for number in range(start, stop):
                index = self.shared[number]
                weight = ops.reshape(table[:, offset : offset + self.sizes[index]], self.shapes[index])
                done = ops.depend(
                    done, ops.assign(self.parameters[index], ops.cast(weight, self.types[index]))
                )
                offset += self.sizes[index]
        return done

    def updated_piece(self, index: int, grads: tuple[Tensor, ...], rate: Tensor, factor: Tensor) -> Tensor:
        """The own piece of a weight after the update, flat; its moments are stored."""
        first = self.piece * self.rows[index]
        last = first + self.rows[index]
        old = ops.cast(self.parameters[index][first:last], ms.float32)
        grad = grads[index] if self.grads_are_pieces else grads[index][first:last]
        new, m, v = self.formula(index, old, grad * factor, rate)
        new = ops.depend(new, ops.assign(self.adam_m[index], m))
        new = ops.depend(new, ops.assign(self.adam_v[index], v))
        return ops.cast(ops.reshape(new, (-1,)), self.sent[index])
