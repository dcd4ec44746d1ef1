"""How the network is spread over ranks: coordinates, groups, collectives.

Which parameter is cut where is the table of `orchestrator.checkpoint.bloom_cut`.

rank = stage * (data_parallel * model_parallel) + dp_index * model_parallel + mp_index
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import mindspore.communication as comm
import numpy as np
from mindspore import nn, ops

from model.errors import ModelError
from orchestrator.checkpoint.bloom_cut import BloomCut, cut_axis
from orchestrator.checkpoint.layout import Layout

__all__ = [
    "CopyToModelGroup",
    "Groups",
    "Place",
    "ReduceFromModelGroup",
    "Strategy",
    "cut",
    "cut_axis",
    "full_shape",
    "gather_small",
    "layout_of",
    "start_groups",
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one rank sits in a strategy."""

    rank: int
    dp: int
    mp: int
    pp: int


@dataclass(frozen=True, slots=True)
class Strategy:
    """The three degrees of parallelism; their product is the world size."""

    data_parallel: int = 1
    model_parallel: int = 1
    pipeline_stage: int = 1

    @property
    def world_size(self) -> int:
        return self.data_parallel * self.model_parallel * self.pipeline_stage

    def check(self, world_size: int) -> None:
        """Raise ModelError unless the product is `world_size` and this version can run it."""
        for key in ("data_parallel", "model_parallel", "pipeline_stage"):
            if getattr(self, key) < 1:
                raise ModelError(f"must be at least 1, not {getattr(self, key)}", where=f"parallel.{key}")
        if self.pipeline_stage > 1:
            raise ModelError(
                f"pipeline_stage {self.pipeline_stage} is not supported yet",
                where="parallel.pipeline_stage",
                remedy="set it to 1 and raise model_parallel or data_parallel",
            )
        if self.world_size != world_size:
            product = (
                f"{self.data_parallel} * {self.model_parallel} * {self.pipeline_stage} = {self.world_size}"
            )
            raise ModelError(
                f"data_parallel * model_parallel * pipeline_stage = {product}, but RANK_SIZE is {world_size}",
                where="parallel",
            )

    def place(self, rank: int) -> Place:
        per_stage = self.data_parallel * self.model_parallel
        within = rank % per_stage
        return Place(rank, within // self.model_parallel, within % self.model_parallel, rank // per_stage)

    def model_ranks(self, place: Place) -> list[int]:
        """The ranks that hold the other slices of what `place` holds."""
        first = place.rank - place.mp
        return list(range(first, first + self.model_parallel))

    def data_ranks(self, place: Place) -> list[int]:
        """The ranks that hold the same slices as `place`: its replicas."""
        first = place.rank - place.dp * self.model_parallel
        return [first + index * self.model_parallel for index in range(self.data_parallel)]


@dataclass(frozen=True, slots=True)
class Groups:
    """Names of the process groups of this rank; None where the group would hold this rank alone."""

    data: str | None = None
    model: str | None = None
    world: str | None = None


def start_groups(strategy: Strategy, place: Place) -> Groups:
    """Create the groups of `place` after `init()`; a rank may only create those that it belongs to."""
    if strategy.world_size == 1:
        return Groups()
    return Groups(
        data=_group("data", strategy.data_ranks(place), strategy.world_size),
        model=_group("model", strategy.model_ranks(place), strategy.world_size),
        world=comm.GlobalComm.WORLD_COMM_GROUP,
    )


def _group(kind: str, ranks: Sequence[int], world_size: int) -> str | None:
    if len(ranks) == 1:
        return None
    if len(ranks) == world_size:
        return str(comm.GlobalComm.WORLD_COMM_GROUP)
    name = f"{kind}_{'_'.join(map(str, ranks))}"
    comm.create_group(name, list(ranks))
    return name


class CopyToModelGroup(nn.Cell):
    """The same tensor enters every rank's part of a cut layer: identity forward, all-reduce backward."""

    def __init__(self, group: str | None) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce(group=group) if group else ops.Identity()

    def construct(self, x: Any) -> Any:
        return x

    def bprop(self, x: Any, out: Any, dout: Any) -> Any:
        return (self.all_reduce(dout),)


class ReduceFromModelGroup(nn.Cell):
    """Every rank's part of a cut layer is summed: all-reduce forward, identity backward."""

    def __init__(self, group: str | None) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce(group=group) if group else ops.Identity()

    def construct(self, x: Any) -> Any:
        return self.all_reduce(x)

    def bprop(self, x: Any, out: Any, dout: Any) -> Any:
        return (dout,)


def cut(name: str, full: np.ndarray, strategy: Strategy, place: Place) -> np.ndarray:
    """The slice of a whole tensor that `place` holds; a view."""
    axis = cut_axis(name)
    if axis is None or strategy.model_parallel == 1:
        return full
    size = full.shape[axis] // strategy.model_parallel
    index = [slice(None)] * full.ndim
    index[axis] = slice(place.mp * size, (place.mp + 1) * size)
    return full[tuple(index)]


def full_shape(name: str, shape: Sequence[int], strategy: Strategy) -> tuple[int, ...]:
    """The shape of the whole tensor of which one rank holds `shape`."""
    axis = cut_axis(name)
    return tuple(
        length * strategy.model_parallel if index == axis else length for index, length in enumerate(shape)
    )


def layout_of(name: str, shape: Sequence[int], strategy: Strategy) -> Layout:
    """The entry in the strategy file of a parameter whose whole shape is `shape`."""
    return BloomCut(strategy.data_parallel, strategy.model_parallel).layout(name, shape)


def gather_small(values: np.ndarray, rank: int, world_size: int, group: str | None) -> np.ndarray:
    """Every rank's small vector of integers below 2**24, as (world_size, len) in rank order.

    An all-reduce of a table that is zero but for the own row: the CPU has no all-gather and only sums.
    """
    table = np.zeros((world_size, len(values)), np.float32)
    table[rank] = values
    if group is None:
        return table
    return np.asarray(ops.AllReduce(group=group)(ms.Tensor(table)).asnumpy())
