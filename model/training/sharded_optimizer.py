"""The sharded optimizer: AdamW whose state the data group shares out (ZeRO stage 1).

A replica holds the moments of one piece of each weight, along axis 0, and updates that; then the pieces are
gathered. Where the device has a reduce-scatter only the piece's gradient comes here
(`gradients.ReduceGradients`), else the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, ops

from model.parallel.collectives import Member, all_gather_of, has_native_collectives
from model.parallel.mesh import Place, Strategy, shares_moments
from model.training.gradients import BUCKET_VALUES, buckets
from model.training.optimizer import AdamW

__all__ = ["ShardedAdamW"]


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
