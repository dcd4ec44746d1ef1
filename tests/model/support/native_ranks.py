"""What only devices with collectives of their own run, on ranks of this machine: part of parallel_ranks.py.

`ops.AllGather` and `ops.ReduceScatter` have no CPU kernel for a group that is not the whole world. Stand-ins
of the same interface, made of all-reduces, take their places while the cells are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import mindspore.communication as comm
import numpy as np
from mindspore import nn, ops

from model.devices.device import Device, built_for
from model.parallel.collectives import Member, all_gather_of, reduce_scatter_of
from model.parallel.mesh import Strategy, start_groups
from model.training.gradients import ReduceGradients
from model.training.sharded_optimizer import ShardedAdamW

ASCEND = Device("Ascend", "ascend910b")
# Two replicas of two stages, whose tied table is the one parameter that both stages have.
SMALL = Strategy(2, 1, 2, optimizer_shard=True, vocab_size=8)
SHAPES = {
    "embedding.word_embedding.embedding_table": ((8, 3), ms.float16),
    "ln_f.gamma": ((6,), ms.float32),
    "ln_f.beta": ((5,), ms.float32),  # cannot be cut
    "blocks.0.output.mapping.weight": ((2, 7), ms.float16),
}


class AllGather(nn.Cell):
    """(n, …) -> (size * n, …), in the order of the ranks."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self.own = ms.Tensor(np.eye(comm.get_group_size(group), dtype=np.float32)[comm.get_rank(group)])
        self.all_reduce = ops.AllReduce(group=group)

    def construct(self, x: Any) -> Any:
        own = ops.reshape(self.own, (-1,) + (1,) * x.ndim)
        table = self.all_reduce(ops.cast(own, x.dtype) * ops.expand_dims(x, 0))
        return ops.reshape(table, (-1, *x.shape[1:]))


class ReduceScatter(nn.Cell):
    """(n, …), summed over the ranks -> (n / size, …)."""

    def __init__(self, op: str, group: str) -> None:
        super().__init__()
        assert op == ops.ReduceOp.SUM
        self.index, self.size = comm.get_rank(group), comm.get_group_size(group)
        self.all_reduce = ops.AllReduce(group=group)

    def construct(self, x: Any) -> Any:
        assert x.shape[0] % self.size == 0
        size = x.shape[0] // self.size
        return self.all_reduce(x)[self.index * size : (self.index + 1) * size]


@contextmanager
def stand_ins() -> Iterator[None]:
    """Cells made within are those for an Ascend, with stand-ins for what the CPU has not."""
    kept = ops.AllGather, ops.ReduceScatter
    ops.AllGather, ops.ReduceScatter = AllGather, ReduceScatter
    try:
        with built_for(ASCEND):
            yield
    finally:
        ops.AllGather, ops.ReduceScatter = kept


def check_native(rank: int, found: dict[str, Any]) -> None:
    """All that needs no network."""
    if rank < SMALL.world_size:
        update(rank, "plain", found)
        with stand_ins():
            update(rank, "native", found)
    with built_for(ASCEND):
        run_primitives(rank, found)


def update(rank: int, kind: str, found: dict[str, Any]) -> None:
    """Gradients that differ on all ranks, summed; one step of a sharded optimizer with them."""
    place = SMALL.place(rank)
    groups = start_groups(SMALL, place)
    random = np.random.default_rng(rank)
    grads = [random.standard_normal(shape).astype(np.float32) for shape, _ in SHAPES.values()]
    weights = [
        ms.Parameter(ms.Tensor(np.ones(shape), dtype), name=name) for name, (shape, dtype) in SHAPES.items()
    ]
    reduce = ReduceGradients(weights, SMALL, place, groups)
    optimizer = ShardedAdamW(weights, SMALL, place, groups.data)
    values = ms.mutable(tuple(ms.Tensor(grad) for grad in grads))
    _, norm, _, reduced = reduce(ms.Tensor(0.0), values, ms.Tensor(0.0))
    optimizer(ms.mutable(reduced), ms.Tensor(0.1), ms.Tensor(0.5))
    found[f"{kind}/norm"] = norm.asnumpy()
    for grad, sum_, weight in zip(grads, reduced, weights, strict=True):
        found[f"{kind}/own/{weight.name}"] = grad
        found[f"{kind}/reduced/{weight.name}"] = sum_.asnumpy().copy()
        found[f"{kind}/weight/{weight.name}"] = weight.asnumpy().copy()


def run_primitives(rank: int, found: dict[str, Any]) -> None:
    """MindSpore's own primitives, as far as its CPU takes them: the gather over the whole world runs."""
    size = comm.get_group_size()
    world = Member(comm.GlobalComm.WORLD_COMM_GROUP, rank, size)
    own = ms.Tensor(np.full((2, 3, 5), rank, np.float32))
    for axis in (0, 1):
        found[f"gather/{axis}"] = all_gather_of(world, 3, axis)(own).asnumpy()
        shape = (size, 2, 3, 5) if axis == 0 else (2, size, 3, 5)
        cell = reduce_scatter_of(world, 3, axis)
        try:
            cell.compile(ms.Tensor(np.zeros(shape, np.float32)))
        except RuntimeError as error:
            found[f"scatter/{axis}"] = np.array(str(error))
