"""Collectives: all-reduce, all-gather and reduce-scatter in a group, by what the device has for them.

MindSpore's CPU back end has one collective for a group that is not the whole world: the all-reduce. There, a
gather is the sum of tables that are zero but for the own part, and a scattered sum is a whole one of which
all but the own part is dropped. Other devices have `ops.AllGather` and `ops.ReduceScatter`, with half of the
bytes on their way and no tables of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn, ops

from model.devices.device import current_device

__all__ = ["Member", "all_gather_of", "all_reduce_of", "has_native_collectives", "reduce_scatter_of"]


@dataclass(frozen=True, slots=True)
class Member:
    """A rank as number `index` of `size` in a group; without one, the others' parts are zeros to it."""

    group: str | None
    index: int
    size: int


def has_native_collectives(group: str | None) -> bool:
    """Whether there is a group and the device gathers and scatters by itself."""
    return group is not None and not current_device().is_cpu


def all_reduce_of(group: str | None) -> nn.Cell | ops.AllReduce:
    """The sum over a group; without one a cell, which is no step of the graph (`ops.Identity` is one)."""
    return ops.AllReduce(group=group) if group else nn.Identity()


def all_gather_of(member: Member, ndim: int, axis: int = 0) -> nn.Cell:
    """A cell that puts the tensors of all ranks beside each other, on a new axis before `axis` (0 or 1).

    (n, …) -> (size, n, …) for axis 0 and (n, size, …) for axis 1, in the order of the ranks; `ndim` is that
    of what goes in. The gradient is the caller's: which one is right depends on where the cell stands.
    """
    return (NativeGather if has_native_collectives(member.group) else SummedGather)(member, ndim, axis)


def reduce_scatter_of(member: Member, ndim: int, axis: int = 0) -> nn.Cell:
    """A cell that sums tensors over the ranks, of which each gets its own place on `axis` (0 or 1).

    (size, n, …) -> (n, …) for axis 0 and (n, size, …) -> (n, …) for axis 1; `ndim` is that of what comes out.
    """
    return (NativeScatter if has_native_collectives(member.group) else SummedScatter)(member, ndim, axis)


class SummedGather(nn.Cell):
    """A gather as a sum."""

    def __init__(self, member: Member, ndim: int, axis: int) -> None:
        super().__init__(auto_prefix=False)
        own = np.zeros(member.size, np.float32)
        own[member.index] = 1
        self.own = Tensor(own.reshape((1,) * axis + (member.size,) + (1,) * (ndim - axis)))
        self.axis = axis
        self.all_reduce = all_reduce_of(member.group)

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(ops.expand_dims(x, self.axis) * ops.cast(self.own, x.dtype))


class SummedScatter(nn.Cell):
    """A scattered sum as a whole one."""

    def __init__(self, member: Member, ndim: int, axis: int) -> None:
        super().__init__(auto_prefix=False)
        self.index, self.axis = member.index, axis
        self.all_reduce = all_reduce_of(member.group)

    def construct(self, x: Tensor) -> Tensor:
        table = self.all_reduce(x)
        return table[:, self.index] if self.axis else table[self.index]


class NativeGather(nn.Cell):
    """`ops.AllGather` concatenates along axis 0 and nowhere else."""

    def __init__(self, member: Member, ndim: int, axis: int) -> None:
        super().__init__(auto_prefix=False)
        self.gather = ops.AllGather(member.group)
        self.axis = axis
        self.order = (1, 0, *range(2, ndim + 1))

    def construct(self, x: Tensor) -> Tensor:
        table = self.gather(ops.expand_dims(x, 0))  # (size, n, …)
        return ops.transpose(table, self.order) if self.axis else table


class NativeScatter(nn.Cell):
    """`ops.ReduceScatter` cuts axis 0 and no other."""

    def __init__(self, member: Member, ndim: int, axis: int) -> None:
        super().__init__(auto_prefix=False)
        self.scatter = ops.ReduceScatter(ops.ReduceOp.SUM, member.group)
        self.axis = axis
        self.order = (1, 0, *range(2, ndim + 1))

    def construct(self, x: Tensor) -> Tensor:
        table = self.scatter(ops.transpose(x, self.order) if self.axis else x)  # (1, n, …)
        return ops.reshape(table, table.shape[1:])
