"""Gradients of one rank's records summed to those of the global batch, accumulated, and their norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from model.network.cpu_kernels import SquaresByProducts, other_kernels_pay
from model.parallel.collectives import Member, all_reduce_of, has_native_collectives, reduce_scatter_of
from model.parallel.mesh import Groups, Place, Strategy, shares_moments

__all__ = [
    "Accumulator",
    "ReduceAccumulated",
    "ReduceGradients",
    "SumOverGroup",
    "WeightedSquares",
    "buckets",
    "clip_factor",
    "weighted_squares_of",
]

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

    def construct(self, grads: tuple[Tensor, ...]) -> Any:
        done: Any = True
        # From the last, whose gradient is there first: they are let go as they come.
        for number in range(1, len(self.sums) + 1):
            index = len(self.sums) - number
            done = ops.depend(done, ops.assign_add(self.sums[index], ops.cast(grads[index], ms.float32)))
        return done

    def clear(self) -> None:
        """Start over, in place: new tensors would stand beside the old ones that the graphs hold."""
        for item in self.sums:
            ops.assign(item, ops.zeros(item.shape, ms.float32))


class ReduceAccumulated(nn.Cell):
    """(loss, scale, stop) -> (loss, norm, stops, pieces) of the global batch, as `ReduceGradients`.

    The gradients of the global batch replace the own sums, one after the other and in place: a result would
    be held beside the sums up to the next step. Only what `ReduceGradients` gives in pieces is a result: it
    is small, and of another shape.
    """

    def __init__(self, accumulator: Accumulator, reduce: ReduceGradients) -> None:
        super().__init__(auto_prefix=False)
        self.sums = accumulator.sums
        self.reduce = reduce

    def results(self, loss: Any, scale: Any, stop: Any) -> tuple[Any, Any, Any, tuple[Any, ...]]:
        """Loss, norm, stops, and of every parameter the gradient, or where it is cut the own piece."""
        loss, norm, stops, pieces = self(loss, scale, stop)
        if not pieces:
            return loss, norm, stops, self.sums
        rest = iter(pieces)
        cut = self.reduce.in_pieces
        return loss, norm, stops, tuple(next(rest) if cut[n] else item for n, item in enumerate(self.sums))

    def construct(
        self, loss: Tensor, scale: Tensor, stop: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        done: Any = True
        for index in range(len(self.sums)):
            done = ops.assign(self.sums[index], ops.depend(self.sums[index], done) / scale)
        loss, norm, stops, reduced = self.reduce(ops.depend(loss, done), self.sums, stop)
        pieces: tuple[Tensor, ...] = ()
        for index in range(len(self.sums)):
            if self.reduce.in_pieces[index]:
                pieces += (reduced[index],)
            elif self.reduce.changes[index]:
                done = ops.depend(done, ops.assign(self.sums[index], reduced[index]))
        return loss, ops.depend(norm, done), stops, pieces


class ReduceGradients(nn.Cell):
    """(loss, float32 gradients, stop) of one rank -> (loss, norm, stops, gradients) of the global batch.

    Summed over the data group; that of the tied table over the first and the last stage too. The norm is that
    of all parameters of all stages, each counted once; it is the same number on every rank, and no finite
    one if any gradient of any rank is not: the flag of an overflow. `loss` is 0 on all but the last stage.
    `stop` is 1 on a rank that asks all to stop after this step, else 0; `stops` is how many ask.

    Where the data group shares out the moments of a parameter and the device has a reduce-scatter, a replica
    gets only the piece of the gradient, along axis 0, that it updates (`in_pieces`).
    """

    def __init__(
        self, parameters: Sequence[ms.Parameter], strategy: Strategy, place: Place, groups: Groups
    ) -> None:
        super().__init__(auto_prefix=False)
        names, cut = [item.name for item in parameters], strategy.network_cut
        shapes = [tuple(item.shape) for item in parameters]
        native = has_native_collectives(groups.data)
        self.in_pieces = tuple(
            native and shares_moments(name, shape, strategy)
            for name, shape in zip(names, shapes, strict=True)
        )
        replica = Member(groups.data, place.dp, strategy.data_parallel)
        self.sum_over_replicas = SumOverGroup(shapes, replica, self.in_pieces)
        held = self.sum_over_replicas.shapes
        # Where the sequence is cut, what is whole on every rank has seen a part of it only.
        self.in_parts = tuple(strategy.use_seq_parallel and cut.axis(name) is None for name in names)
        seen = [shape for shape, part in zip(held, self.in_parts, strict=True) if part]
        slice_ = Member(groups.model if seen else None, place.mp, strategy.model_parallel)
        self.sum_over_parts = SumOverGroup(seen, slice_)
        self.all_reduce = all_reduce_of(groups.world)
        self.is_tied = tuple(groups.tied is not None and cut.is_tied(name) for name in names)
        self.sum_of_ties = all_reduce_of(groups.tied)
        # Whether a gradient comes out as another one than it went in.
        self.changes = tuple(
            groups.data is not None or part or tied
            for part, tied in zip(self.in_parts, self.is_tied, strict=True)
        )
        shares = [
            0.0 if tied and place.pp else _share(name, strategy, piece)
            for name, tied, piece in zip(names, self.is_tied, self.in_pieces, strict=True)
        ]
        self.squares = weighted_squares_of([math.prod(shape) for shape in held], shares)
        self.loss_share = 1.0 / strategy.model_parallel

    def construct(
        self, loss: Tensor, grads: tuple[Tensor, ...], stop: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        over_replicas = self.over_the_sequence(self.sum_over_replicas(grads))
        summed: tuple[Tensor, ...] = ()
        for index in range(len(over_replicas)):
            grad = over_replicas[index]
            summed += (self.sum_of_ties(grad) if self.is_tied[index] else grad,)
        own = ops.stack((ops.reshape(loss, ()) * self.loss_share, self.squares(summed), stop))
        total = self.all_reduce(own)
        norm = ops.reshape(ops.sqrt(total[1:2]), ())
        return ops.reshape(total[:1], ()), norm, ops.reshape(total[2:], ()), summed

    @property
    def is_in_one_buffer(self) -> bool:
        """Whether all gradients travel at once, see `BUCKET_VALUES`."""
        return len(self.sum_over_replicas.buckets) == 1

    def over_the_sequence(self, grads: Any) -> Any:
        """Sum over the model group what its ranks have computed from parts of the sequence."""
        seen: tuple[Tensor, ...] = ()
        for index in range(len(grads)):
            if self.in_parts[index]:
                seen += (grads[index],)
        if len(seen) == 0:
            return grads
        summed, number = self.sum_over_parts(seen), 0
        whole: tuple[Tensor, ...] = ()
        for index in range(len(grads)):
            if self.in_parts[index]:
                whole += (summed[number],)
                number += 1
            else:
                whole += (grads[index],)
        return whole


def weighted_squares_of(sizes: Sequence[int], weights: Sequence[float]) -> nn.Cell:
    """A cell: float32 tensors of these sizes -> the sum of their squares, (), each one's times its weight."""
    return SquaresByProducts(sizes, weights) if other_kernels_pay(ms.float32) else WeightedSquares(weights)


class WeightedSquares(nn.Cell):
    """float32 tensors -> the sum of their squares, (), each tensor's times its weight.

    By no product of matrices: an Ascend 910A has those in float16 alone, where 256 squared is too large.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(auto_prefix=False)
        self.weights = Tensor(list(weights), ms.float32)

    def construct(self, tensors: tuple[Tensor, ...]) -> Tensor:
        squares: tuple[Tensor, ...] = ()
        for tensor in tensors:
            squares += (ops.reduce_sum(ops.square(tensor)),)
        return ops.reduce_sum(ops.stack(squares) * self.weights)


def _share(name: str, strategy: Strategy, is_piece: bool) -> float:
    """A rank's part of a parameter's square, so that the sum over all ranks counts every element once."""
    holders = 1 if is_piece else strategy.data_parallel
    return 1.0 / (
        holders if strategy.network_cut.axis(name) is not None else holders * strategy.model_parallel
    )


class SumOverGroup(nn.Cell):
    """Sum float32 tensors over a group, in few flat buffers.

    Of a tensor `in_pieces` each rank gets one of as many equal pieces along axis 0 as there are ranks.
    `shapes` becomes that of what comes out.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], member: Member, in_pieces: Sequence[bool] = ()
    ) -> None:
        super().__init__(auto_prefix=False)
        self.active, self.pieces = member.group is not None, member.size
        self.in_pieces = tuple(in_pieces) or (False,) * len(shapes)
        self.all_reduce = all_reduce_of(member.group)
        self.reduce_scatter = reduce_scatter_of(member, ndim=1)
        self.buckets = buckets([math.prod(shape) for shape in shapes], BUCKET_VALUES, self.in_pieces)
        self.shapes = tuple(
            (shape[0] // member.size, *shape[1:]) if cut else tuple(shape)
            for shape, cut in zip(shapes, self.in_pieces, strict=True)
        )
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)

    def construct(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not self.active:
            return grads
        summed: tuple[Tensor, ...] = ()
        lead = ops.zeros((1,), ms.float32)
        for start, stop in self.buckets:
            # Every buffer starts with the last one's first value, which keeps their order on all ranks.
            if self.in_pieces[start]:
                flat_sum = self.sum_of_pieces(lead, grads, start, stop)
            else:
                flat_sum = self.sum_of_wholes(lead, grads, start, stop)
            lead = flat_sum[:1]
            offset = 1
            for index in range(start, stop):
                piece = flat_sum[offset : offset + self.sizes[index]]
                summed += (ops.reshape(piece, self.shapes[index]),)
                offset += self.sizes[index]
        return summed

    def sum_of_wholes(self, lead: Tensor, grads: tuple[Tensor, ...], start: int, stop: int) -> Tensor:
        """One flat buffer, summed."""
        flat: tuple[Tensor, ...] = (lead,)
        for index in range(start, stop):
            flat += (ops.reshape(grads[index], (-1,)),)
        return self.all_reduce(ops.concat(flat))

    def sum_of_pieces(self, lead: Tensor, grads: tuple[Tensor, ...], start: int, stop: int) -> Tensor:
        """A buffer with a row for each rank, of which the own is summed: flat."""
        rows: tuple[Tensor, ...] = (ops.broadcast_to(lead, (self.pieces, 1)),)
        for index in range(start, stop):
            rows += (ops.reshape(grads[index], (self.pieces, -1)),)
        return self.reduce_scatter(ops.concat(rows, 1))


def buckets(
    sizes: Sequence[int], limit: int, kinds: Sequence[object] | None = None
) -> tuple[tuple[int, int], ...]:
    """Cut the list into runs [start, stop) of at most `limit` values, a larger tensor alone in its run.

    All of a run are of one kind.
    """
    kinds = [None] * len(sizes) if kinds is None else kinds
    found, start, held = [], 0, 0
    for index, size in enumerate(sizes):
        if held and (held + size > limit or kinds[index] != kinds[start]):
            found.append((start, index))
            start, held = index, 0
        held += size
    return (*found, (start, len(sizes))) if sizes else ()
