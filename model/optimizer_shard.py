"""AdamW whose moments are shared out over the data group: every replica updates one piece of each weight.

The gradients are whole on every replica (they are summed by all-reduce: there is no reduce-scatter on a CPU).
A replica updates its piece along axis 0, then the pieces are gathered by an all-reduce of a table that is
zero but for the own row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from model.gradients import BUCKET_VALUES, buckets
from model.optimizer import AdamW
from model.parallel import Place, Strategy, full_shape, layout_of

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
        is_shared = [_is_shared(item, strategy) for item in parameters]
        rows = [
            item.shape[0] // strategy.data_parallel if is_shared[n] else item.shape[0]
            for n, item in enumerate(parameters)
        ]
        shapes = [(count, *item.shape[1:]) for count, item in zip(rows, parameters, strict=True)]
        super().__init__(parameters, moment_shapes=shapes, **options)
        self.whole = tuple(index for index, shared in enumerate(is_shared) if not shared)
        self.shared = tuple(index for index, shared in enumerate(is_shared) if shared)
        self.rows = tuple(rows)
        self.sizes = tuple(int(np.prod(shape)) for shape in shapes)
        self.shapes = tuple(tuple(item.shape) for item in parameters)
        self.piece, self.pieces = place.dp, strategy.data_parallel
        limit = max(1, BUCKET_VALUES // strategy.data_parallel)
        self.runs = buckets([self.sizes[index] for index in self.shared], limit)
        own_row = np.zeros((strategy.data_parallel, 1), np.float32)
        own_row[place.dp] = 1
        self.own_row = ms.Tensor(own_row)
        self.all_reduce = ops.AllReduce(group=group)

    def construct(self, grads: Any, rate: Any, factor: Any) -> Any:
        done = True
        for index in self.whole:
            done = ops.depend(done, self.update(index, grads[index] * factor, rate))
        lead = ops.zeros((1,), ms.float32)
        for start, stop in self.runs:
            flat = (lead,)
            for number in range(start, stop):
                flat += (self.updated_piece(self.shared[number], grads, rate, factor),)
            table = self.all_reduce(ops.expand_dims(ops.concat(flat), 0) * self.own_row)  # (pieces, values)
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

    def updated_piece(self, index: int, grads: Any, rate: Any, factor: Any) -> Any:
        """The own piece of a weight after the update, flat float32; its moments are stored."""
        first = self.piece * self.rows[index]
        last = first + self.rows[index]
        old = ops.cast(self.parameters[index][first:last], ms.float32)
        new, m, v = self.formula(index, old, grads[index][first:last] * factor, rate)
        new = ops.depend(new, ops.assign(self.adam_m[index], m))
        new = ops.depend(new, ops.assign(self.adam_v[index], v))
        return ops.reshape(new, (-1,))


def _is_shared(item: ms.Parameter, strategy: Strategy) -> bool:
    shape = full_shape(item.name, item.shape, strategy)
    return layout_of(f"adam_m.{item.name}", shape, strategy).opt_weight_shard_size > 1
