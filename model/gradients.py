"""From the gradients of one rank's records to those of the global batch: sums over groups, and the norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from model.parallel import Groups, Place, Strategy, cut_axis

__all__ = ["Accumulator", "JoinGradients", "clip_factor"]

# Gradients travel in flat buffers of at most this many values: one for a small network, and no second
# copy of all gradients at once for a large one.
BUCKET_VALUES = 32 * 1024 * 1024


def clip_factor(norm: float, limit: float) -> float:
    """What gradients of this joint norm are multiplied by so that it is at most `limit` (0 = do not clip)."""
    return limit / norm if 0 < limit < norm else 1.0


class Accumulator(nn.Cell):
    """Sums the gradients of micro batches in float32."""

    def __init__(self, parameters: Sequence[ms.Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.sums = ms.ParameterTuple(
            [
                ms.Parameter(ops.zeros(item.shape, ms.float32), name=f"accu_grads.{item.name}")
                for item in parameters
            ]
        )

    def construct(self, grads: Any) -> Any:
        done = True
        for index in range(len(self.sums)):
            done = ops.depend(done, ops.assign_add(self.sums[index], ops.cast(grads[index], ms.float32)))
        return done

    def clear(self) -> None:
        """Start over."""
        for item in self.sums:
            item.set_data(ops.zeros(item.shape, ms.float32))


class JoinGradients(nn.Cell):
    """(loss, gradients, scale) of one rank -> (loss, norm, float32 gradients) of the global batch.

    The norm is that of all parameters of all stages, each counted once; it is the same number on every
    rank, and no finite one if any gradient of any rank is not: the flag of an overflow.
    """

    def __init__(
        self, parameters: Sequence[ms.Parameter], strategy: Strategy, place: Place, groups: Groups
    ) -> None:
        super().__init__(auto_prefix=False)
        self.sum_over_replicas = SumOverGroup(parameters, groups.data)
        self.all_reduce = ops.AllReduce(group=groups.world) if groups.world else ops.Identity()
        names = [item.name for item in parameters]
        self.shares = tuple(_share(name, strategy) for name in names)
        self.loss_share = 1.0 / strategy.model_parallel

    def construct(self, loss: Any, grads: Any, scale: Any) -> Any:
        unscaled = ()
        for grad in grads:
            unscaled += (ops.cast(grad, ms.float32) / scale,)
        summed = self.sum_over_replicas(unscaled)
        squares = ops.zeros((1,), ms.float32)
        for index in range(len(summed)):
            square = ops.reduce_sum(ops.square(summed[index]))
            squares = squares + square * self.shares[index]
        own = ops.concat((ops.reshape(loss, (1,)) * self.loss_share, squares))
        total = self.all_reduce(own)
        return ops.reshape(total[:1], ()), ops.reshape(ops.sqrt(total[1:]), ()), summed


def _share(name: str, strategy: Strategy) -> float:
    """A rank's part of a parameter's square, so that the sum over all ranks counts every element once."""
    holders = strategy.data_parallel
    return 1.0 / (holders if cut_axis(name) is not None else holders * strategy.model_parallel)


class SumOverGroup(nn.Cell):
    """Sum float32 tensors over a group, in few flat buffers."""

    def __init__(self, parameters: Sequence[ms.Parameter], group: str | None) -> None:
        super().__init__(auto_prefix=False)
        self.active = group is not None
        self.all_reduce = ops.AllReduce(group=group) if group else ops.Identity()
        self.buckets = buckets([item.size for item in parameters], BUCKET_VALUES)
        self.shapes = tuple(tuple(item.shape) for item in parameters)
        self.sizes = tuple(int(item.size) for item in parameters)

    def construct(self, grads: Any) -> Any:
        if not self.active:
            return grads
        summed = ()
        lead = ops.zeros((1,), ms.float32)
        for start, stop in self.buckets:
            flat = (lead,)
            for index in range(start, stop):
                flat += (ops.reshape(grads[index], (-1,)),)
            # Every buffer starts with the last one's first value, which keeps their order on all ranks.
            flat_sum = self.all_reduce(ops.concat(flat))
            lead = flat_sum[:1]
            offset = 1
            for index in range(start, stop):
                piece = flat_sum[offset : offset + self.sizes[index]]
                summed += (ops.reshape(piece, self.shapes[index]),)
                offset += self.sizes[index]
        return summed


def buckets(sizes: Sequence[int], limit: int) -> tuple[tuple[int, int], ...]:
    """Cut the list into runs [start, stop) of at most `limit` values, a larger tensor alone in its run."""
    found, start, held = [], 0, 0
    for index, size in enumerate(sizes):
        if held and held + size > limit:
            found.append((start, index))
            start, held = index, 0
        held += size
    return (*found, (start, len(sizes)))
