"""The mesh of ranks: coordinates, process groups, slices of tensors, sums over the model group.

Along which axis a parameter is sharded is in the table of its family, `orchestrator.families`.

rank = stage * (data_parallel * model_parallel) + dp_index * model_parallel + mp_index

A table that has padding in memory is whole and without it in a shard.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import mindspore.communication as comm
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from model.errors import ModelError
from model.parallel.collectives import all_reduce_of
from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.config.worker_config import ParallelDegrees
from orchestrator.families.family import Family
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import families

__all__ = [
    "CopyToModelGroup",
    "Groups",
    "Place",
    "ReduceFromModelGroup",
    "Strategy",
    "cut",
    "full_shape",
    "gather_small",
    "layout_of",
    "make_group",
    "shares_moments",
    "start_groups",
    "stored_shape",
    "stored_value",
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one rank sits in a strategy."""

    rank: int
    dp: int
    mp: int
    pp: int


@dataclass(frozen=True, slots=True)
class Strategy(ParallelDegrees):
    """A job's degrees of parallelism, and which ranks hold and compute what by them."""

    vocab_size: int = 0  # needed only where model_parallel does not divide it
    family: Family = field(default_factory=lambda: families()[0])

    @property
    def network_cut(self) -> NetworkCut:
        degrees = (self.data_parallel, self.model_parallel, self.pipeline_stage)
        return NetworkCut(self.family, *degrees, self.optimizer_shard)

    def check(self, world_size: int) -> None:
        """Raise ModelError unless the product is `world_size`."""
        for key in ("data_parallel", "model_parallel", "pipeline_stage"):
            if getattr(self, key) < 1:
                raise ModelError(f"must be at least 1, not {getattr(self, key)}", where=f"parallel.{key}")
        if self.world_size != world_size:
            product = (
                f"{self.data_parallel} * {self.model_parallel} * {self.pipeline_stage} = {self.world_size}"
            )
            raise ModelError(
                f"data_parallel * model_parallel * pipeline_stage = {product}, but RANK_SIZE is {world_size}",
                where="parallel",
            )

    def check_network(self, config: NetworkConfig) -> None:
        """Raise ModelError where the network cannot be cut in this way."""
        parts = self.model_parallel if self.use_seq_parallel else 1
        for key, what, remedy in config.cut_problems(self.model_parallel, self.pipeline_stage, parts):
            raise ModelError(what, where=f"parallel.{key}", remedy=remedy)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ModelError where the table has padding of which this strategy does not know."""
        if vocab_size % self.model_parallel and self.vocab_size != vocab_size:
            raise ModelError(f"the strategy's vocabulary is {self.vocab_size}, the network's {vocab_size}")

    def pads(self, name: str) -> bool:
        """True for a table or head (and its moments) where model_parallel does not divide the vocabulary."""
        row = self.network_cut.row(name)
        return row is not None and row.has_padding and self.vocab_size % self.model_parallel > 0

    def place(self, rank: int) -> Place:
        per_stage = self.data_parallel * self.model_parallel
        within = rank % per_stage
        return Place(rank, within // self.model_parallel, within % self.model_parallel, rank // per_stage)

    def names(self, ranks: Sequence[int]) -> str:
        """Ranks for a message, with their stages where there are several."""
        text = f"rank {', '.join(map(str, ranks))}"
        stages = sorted({self.place(rank).pp for rank in ranks})
        return f"{text} (stage {', '.join(map(str, stages))})" if self.pipeline_stage > 1 else text

    def model_ranks(self, place: Place) -> list[int]:
        """The ranks that hold the other slices of what `place` holds."""
        first = place.rank - place.mp
        return list(range(first, first + self.model_parallel))

    def data_ranks(self, place: Place) -> list[int]:
        """The ranks that hold the same slices as `place`: its replicas."""
        first = place.rank - place.dp * self.model_parallel
        return [first + index * self.model_parallel for index in range(self.data_parallel)]

    def tied_ranks(self, place: Place) -> list[int]:
        """The ranks of the first and the last stage that hold the same part of the tied table; else none."""
        last = self.pipeline_stage - 1
        if place.pp not in (0, last) or not last or not self.family.is_tied:
            return []
        per_stage = self.data_parallel * self.model_parallel
        first = place.rank % per_stage
        return [first, first + last * per_stage]


@dataclass(frozen=True, slots=True)
class Groups:
    """Names of the process groups of this rank; None where the group would hold this rank alone."""

    data: str | None = None
    model: str | None = None
    tied: str | None = None
    world: str | None = None


def start_groups(strategy: Strategy, place: Place) -> Groups:
    """Make the groups of `place` after `init()`; a rank may only make those that it belongs to.

    The strategy may use only the first ranks of a larger world.
    """
    if strategy.world_size == 1:
        return Groups()
    return Groups(
        data=_group("data", strategy.data_ranks(place)),
        model=_group("model", strategy.model_ranks(place)),
        tied=_group("tied", strategy.tied_ranks(place)),
        world=_group("world", range(strategy.world_size)),
    )


def _group(kind: str, ranks: Sequence[int]) -> str | None:
    if len(ranks) < 2:
        return None
    if len(ranks) == comm.get_group_size():
        return str(comm.GlobalComm.WORLD_COMM_GROUP)
    return make_group(f"{kind}_{'_'.join(map(str, ranks))}", ranks)


@functools.cache
def _make_group(name: str, ranks: tuple[int, ...]) -> str:
    comm.create_group(name, list(ranks))
    return name


def make_group(name: str, ranks: Sequence[int]) -> str:
    """The group of this name, made if it is not there; gives the name."""
    return _make_group(name, tuple(ranks))


class CopyToModelGroup(nn.Cell):
    """The same tensor enters every rank's part of a cut layer: identity forward, all-reduce backward."""

    def __init__(self, group: str | None) -> None:
        super().__init__()
        self.all_reduce = all_reduce_of(group)

    def construct(self, x: Tensor) -> Tensor:
        return x

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (self.all_reduce(dout),)


class ReduceFromModelGroup(nn.Cell):
    """Every rank's part of a cut layer is summed: all-reduce forward, identity backward."""

    def __init__(self, group: str | None) -> None:
        super().__init__()
        self.all_reduce = all_reduce_of(group)

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (dout,)


def cut(name: str, full: NDArray[Any], strategy: Strategy, place: Place) -> NDArray[Any]:
    """The slice of a whole tensor that `place` holds: a view, or with padding at its end a copy."""
    axis = strategy.network_cut.axis(name)
    if axis is None or strategy.model_parallel == 1:
        return full
    size = -(-full.shape[axis] // strategy.model_parallel)
    index = [slice(None)] * full.ndim
    index[axis] = slice(place.mp * size, (place.mp + 1) * size)
    part = full[tuple(index)]
    missing = [(0, size - part.shape[axis] if number == axis else 0) for number in range(full.ndim)]
    return np.pad(part, missing) if missing[axis][1] else part


def full_shape(name: str, shape: Sequence[int], strategy: Strategy) -> tuple[int, ...]:
    """The shape of the whole tensor, without padding, of which one rank holds `shape`."""
    if strategy.pads(name):
        return (strategy.vocab_size, *shape[1:])
    axis = strategy.network_cut.axis(name)
    return tuple(
        length * strategy.model_parallel if index == axis else length for index, length in enumerate(shape)
    )


def layout_of(name: str, shape: Sequence[int], strategy: Strategy) -> Layout:
    """The entry in the strategy file of a parameter whose whole shape is `shape`."""
    return strategy.network_cut.layout(name, shape)


def shares_moments(name: str, shape: Sequence[int], strategy: Strategy) -> bool:
    """Whether the data group cuts the moments of a parameter of `shape` on one rank, along axis 0."""
    whole = full_shape(name, shape, strategy)
    return strategy.network_cut.shares_moments(f"adam_m.{name}", whole)


def gather_small(values: NDArray[Any], rank: int, world_size: int, group: str | None) -> NDArray[Any]:
    """Every rank's small vector of integers below 2**24, as (world_size, len) in rank order.

    An all-reduce of a table that is zero but for the own row: the CPU has no all-gather and only sums.
    """
    table = np.zeros((world_size, len(values)), np.float32)
    table[rank] = values
    if group is None:
        return table
    return np.asarray(ops.AllReduce(group=group)(Tensor(table)).asnumpy())


def stored_shape(name: str, shape: Sequence[int], strategy: Strategy) -> tuple[int, ...]:
    """The shape in the rank's shard: as in memory, but for a table with padding, which is whole there."""
    return full_shape(name, shape, strategy) if strategy.pads(name) else tuple(shape)


def stored_value(item: ms.Parameter, strategy: Strategy, group: str | None) -> ms.Parameter:
    """What the shard holds of a parameter; the model group comes here together, for a table with padding."""
    if not strategy.pads(item.name):
        return item
    parts = strategy.model_parallel
    index = comm.get_rank(group) if group else 0
    table = np.zeros((parts, *item.shape), np.float32)
    table[index] = item.float().asnumpy()
    table = ops.AllReduce(group=group)(Tensor(table)).asnumpy() if group else table
    whole = table.reshape(-1, *item.shape[1:])[: strategy.vocab_size]
    return ms.Parameter(Tensor(whole, item.dtype), name=item.name)
