"""From the gradients of one rank's records to those of the global batch: sums over groups, and the norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.parallel import TIED, Groups, Place, Strategy, all_reduce_of, cut_axis

__all__ = ["Accumulator", "JoinAccumulated", "JoinGradients", "SumOverGroup", "clip_factor"]

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
        # From the last, whose gradient is there first: they are let go as they come.
        for number in range(1, len(self.sums) + 1):
            index = len(self.sums) - number
            done = ops.depend(done, ops.assign_add(self.sums[index], ops.cast(grads[index], ms.float32)))
        return done

    def clear(self) -> None:
        """Start over, in place: new tensors would stand beside the old ones that the graphs hold."""
        for item in self.sums:
            ops.assign(item, ops.zeros(item.shape, ms.float32))


class JoinAccumulated(nn.Cell):
    """(loss, scale) -> (loss, norm) of the global batch, whose gradients take the place of the own sums.

    One after the other and in place: a result would be held beside the sums up to the next step.
    """

    def __init__(self, accumulator: Accumulator, join: JoinGradients) -> None:
        super().__init__(auto_prefix=False)
        self.sums = accumulator.sums
        self.join = join

    def construct(self, loss: Any, scale: Any) -> Any:
        done = True
        for index in range(len(self.sums)):
            done = ops.assign(self.sums[index], ops.depend(self.sums[index], done) / scale)
        loss, norm, joined = self.join(ops.depend(loss, done), self.sums)
        for index in range(len(self.sums)):
            if self.join.changes[index]:
                done = ops.depend(done, ops.assign(self.sums[index], joined[index]))
        return loss, ops.depend(norm, done)


class JoinGradients(nn.Cell):
    """(loss, float32 gradients) of one rank -> (loss, norm, gradients) of the global batch.

    Summed over the data group; that of the tied table over the first and the last stage too. The norm is that
    of all parameters of all stages, each counted once; it is the same number on every rank, and no finite
    one if any gradient of any rank is not: the flag of an overflow. `loss` is 0 on all but the last stage.
    """

    def __init__(
        self, parameters: Sequence[ms.Parameter], strategy: Strategy, place: Place, groups: Groups
    ) -> None:
        super().__init__(auto_prefix=False)
        self.sum_over_replicas = SumOverGroup(parameters, groups.data)
        names = [item.name for item in parameters]
        # Where the sequence is cut, what is whole on every rank has seen a part of it only.
        self.in_parts = tuple(strategy.use_seq_parallel and cut_axis(name) is None for name in names)
        seen = [item for item, part in zip(parameters, self.in_parts, strict=True) if part]
        self.sum_over_parts = SumOverGroup(seen, groups.model if seen else None)
        self.all_reduce = all_reduce_of(groups.world)
        self.is_tied = tuple(groups.tied is not None and name.endswith(TIED) for name in names)
        self.sum_of_ties = all_reduce_of(groups.tied)
        # Whether a gradient comes out as another one than it went in.
        self.changes = tuple(
            groups.data is not None or part or tied
            for part, tied in zip(self.in_parts, self.is_tied, strict=True)
        )
        shares = [
            0.0 if tied and place.pp else _share(name, strategy)
            for name, tied in zip(names, self.is_tied, strict=True)
        ]
        self.squares = WeightedSquares([item.size for item in parameters], shares)
        self.loss_share = 1.0 / strategy.model_parallel

    def construct(self, loss: Any, grads: Any) -> Any:
        over_replicas = self.over_the_sequence(self.sum_over_replicas(grads))
        summed = ()
        for index in range(len(over_replicas)):
            grad = over_replicas[index]
            summed += (self.sum_of_ties(grad) if self.is_tied[index] else grad,)
        own = ops.stack((ops.reshape(loss, ()) * self.loss_share, self.squares(summed)))
        total = self.all_reduce(own)
        return ops.reshape(total[:1], ()), ops.reshape(ops.sqrt(total[1:]), ()), summed

    def over_the_sequence(self, grads: Any) -> Any:
        """Sum over the model group what its ranks have computed from parts of the sequence."""
        seen = ()
        for index in range(len(grads)):
            if self.in_parts[index]:
                seen += (grads[index],)
        if len(seen) == 0:
            return grads
        summed, whole, number = self.sum_over_parts(seen), (), 0
        for index in range(len(grads)):
            if self.in_parts[index]:
                whole += (summed[number],)
                number += 1
            else:
                whole += (grads[index],)
        return whole


class WeightedSquares(nn.Cell):
    """float32 tensors of these sizes -> the sum of their squares, (), each tensor's times its weight.

    By products with itself: on the CPU seven times as fast as a sum of squares. It computes such a product on
    one core and several side by side, so a tensor is halved.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float]) -> None:
        super().__init__(auto_prefix=False)
        self.halves = tuple(2 if size % 2 == 0 else 1 for size in sizes)
        self.weights = ms.Tensor(np.repeat(np.array(weights, np.float32), self.halves))
        self.dot = ops.BatchMatMul(transpose_b=True)

    def construct(self, tensors: Any) -> Any:
        squares = ()
        for index in range(len(tensors)):
            halves = ops.reshape(tensors[index], (self.halves[index], 1, -1))
            squares += (ops.reshape(self.dot(halves, halves), (-1,)),)
        return ops.reduce_sum(ops.concat(squares) * self.weights)


def _share(name: str, strategy: Strategy) -> float:
    """A rank's part of a parameter's square, so that the sum over all ranks counts every element once."""
    holders = strategy.data_parallel
    return 1.0 / (holders if cut_axis(name) is not None else holders * strategy.model_parallel)


class SumOverGroup(nn.Cell):
    """Sum float32 tensors over a group, in few flat buffers."""

    def __init__(self, parameters: Sequence[ms.Parameter], group: str | None) -> None:
        super().__init__(auto_prefix=False)
        self.active = group is not None
        self.all_reduce = all_reduce_of(group)
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
