"""Whole tensors assembled from shards: their slices, and which shards have each. Pure data, no files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.cut.coverage import missing_groups, replica_groups, weight_of, why_left_out
from orchestrator.checkpoint.cut.slices import Layout, Region, cuts, full_shape, region, slices
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.shard_index import Shard
from orchestrator.core.errors import CheckpointError

__all__ = ["Assembled", "AssembledTensor", "TensorSlice", "assemble"]


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A part of a whole tensor, with every shard that could give it."""

    region: Region
    holders: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class AssembledTensor:
    """A tensor as it is without any cut; the slices cover it, each element once."""

    spec: Spec
    slices: tuple[TensorSlice, ...]


@dataclass(frozen=True, slots=True)
class Assembled:
    """All tensors in their order, and what is left out with the reason."""

    tensors: tuple[AssembledTensor, ...]
    skipped: tuple[tuple[str, str], ...]


def assemble(
    shards: Sequence[Shard],
    strategies: Mapping[int, Strategy],
    *,
    world_size: int | None = None,
    with_optimizer: bool = False,
    with_texts: bool = True,
    replicated: bool = False,
) -> Assembled:
    """Fit the shards together as their ranks' strategies say.

    Tensors come in the order of the lowest rank that holds them. A parameter without a layout is taken whole.
    `replicated` says that ranks without any strategy are replicas of one another (plain data parallelism).
    CheckpointError: shards that contradict one another or their strategies, or a slice that no shard holds.
    """
    ordered = sorted(shards, key=lambda shard: shard.rank)
    _check_strategies(ordered, strategies, replicated)
    holders: dict[str, list[Shard]] = {}
    for shard in ordered:
        for name in shard.tensors:
            holders.setdefault(name, []).append(shard)
    tensors: list[AssembledTensor] = []
    skipped = {name: reason for shard in ordered for name, reason in shard.skipped}
    for name, having in holders.items():
        dtype = having[0].tensors[name].spec.dtype
        if reason := why_left_out(name, dtype, with_optimizer, with_texts):
            skipped[name] = reason
            continue
        spec, regions = _slices_of(name, having, strategies)
        tensors.append(
            AssembledTensor(spec, tuple(TensorSlice(part, tuple(ranks)) for part, ranks in regions))
        )
    world = max((shard.rank for shard in ordered), default=-1) + 1 if world_size is None else world_size
    _check_stages(ordered, strategies, world, with_optimizer)
    return Assembled(tuple(tensors), tuple(skipped.items()))


def _check_strategies(shards: Sequence[Shard], strategies: Mapping[int, Strategy], replicated: bool) -> None:
    ranks = [shard.rank for shard in shards]
    if not ranks:
        raise CheckpointError("there are no shards to collect")
    if len(set(ranks)) < len(ranks):
        raise CheckpointError(f"two shards for one rank among {ranks}")
    lone = [rank for rank in ranks if rank not in strategies]
    if strategies and lone:
        raise CheckpointError(
            f"{_ranks(lone)} wrote a shard but no strategy file",
            remedy="copy the strategy files of all ranks beside the checkpoint",
        )
    if lone and len(ranks) > 1 and not replicated:
        raise CheckpointError(
            f"{len(ranks)} ranks wrote shards but no strategy file says how they were cut",
            remedy="save the strategy files, or say that the ranks are replicas",
        )


def _check_stages(
    shards: Sequence[Shard], strategies: Mapping[int, Strategy], world_size: int, with_optimizer: bool
) -> None:
    if not strategies:
        return
    present = {shard.rank for shard in shards}
    for group in missing_groups(present, strategies, world_size, with_optimizer=with_optimizer):
        raise CheckpointError(f"no shard of {_ranks(group, 'or')}, and no other rank holds the same slices")


def _slices_of(
    name: str, having: Sequence[Shard], strategies: Mapping[int, Strategy]
) -> tuple[Spec, list[tuple[Region, list[Shard]]]]:
    stages: dict[int, list[Shard]] = {}
    for shard in having:
        if shard.rank in strategies and name in strategies[shard.rank].layouts:
            stages.setdefault(strategies[shard.rank].stage, []).append(shard)
    _check_agreement(name, having, strategies, stages)
    if not stages:
        _check_moment(name, having, strategies)
        spec = having[0].tensors[name].spec
        return spec, [(tuple((0, size) for size in spec.dims), list(having))]
    # A parameter shared by stages (tied embeddings) is whole in each of them: the first one gives all of it.
    results = [_stage_slices(name, shards, strategies) for shards in stages.values()]
    if len({spec for spec, _, _ in results}) > 1:
        shapes = " and ".join(f"{list(spec.dims)} {spec.dtype}" for spec, _, _ in results)
        raise CheckpointError(f"{name} is {shapes} in stages {sorted(stages)}")
    spec, regions, missing = results[0]
    if missing:
        raise CheckpointError(
            f"{name}: no shard of {_ranks(missing[0], 'or')}, and no other rank holds that slice"
        )
    return spec, regions


def _check_moment(name: str, having: Sequence[Shard], strategies: Mapping[int, Strategy]) -> None:
    """A moment is cut as its parameter is, or more: without a layout nothing tells how."""
    weight = weight_of(name)
    for shard in having if weight != name else ():
        strategy = strategies.get(shard.rank)
        layout = strategy.layouts.get(weight) if strategy else None
        if layout is not None and math.prod(cuts(layout)) > 1:
            raise CheckpointError(
                f"the strategy of rank {shard.rank} says how {weight} is cut but not how {name} is",
                remedy="leave the optimizer's state out",
            )


def _check_agreement(
    name: str,
    having: Sequence[Shard],
    strategies: Mapping[int, Strategy],
    stages: Mapping[int, Sequence[Shard]],
) -> None:
    first = having[0]
    groups = [list(shards) for shards in stages.values()] or [list(having)]
    for shard in having:
        strategy = strategies.get(shard.rank)
        if strategy and strategy.stage in stages and name not in strategy.layouts:
            raise CheckpointError(
                f"{name} has a layout on other ranks of its stage, but none on rank {shard.rank}"
            )
    for group in groups:
        for shard in group:
            mine, other = shard.tensors[name].spec, group[0].tensors[name].spec
            if mine != other and (mine.dtype, other.dtype) != ("str", "str"):
                raise CheckpointError(
                    f"{name} is {list(other.dims)} {other.dtype} on rank {group[0].rank} and "
                    f"{list(mine.dims)} {mine.dtype} on rank {shard.rank}",
                    where=shard.path,
                    remedy="" if stages else f"it has no layout in the strategy of rank {first.rank}",
                )


def _stage_slices(
    name: str, shards: Sequence[Shard], strategies: Mapping[int, Strategy]
) -> tuple[Spec, list[tuple[Region, list[Shard]]], list[tuple[int, ...]]]:
    first = shards[0]
    layout = strategies[first.rank].layouts[name]
    for shard in shards:
        if strategies[shard.rank].layouts[name] != layout:
            raise CheckpointError(f"{name} is cut differently on rank {first.rank} and on rank {shard.rank}")
    spec = first.tensors[name].spec
    whole = _whole_shape(first, layout, spec)
    held = slices(layout)
    found: dict[tuple[int, ...], list[Shard]] = {}
    for shard in shards:
        found.setdefault(held[shard.rank % len(held)], []).append(shard)
    regions = [(region(layout, whole, group[0].rank), group) for _, group in sorted(found.items())]
    wanted = replica_groups(first.rank, strategies[first.rank], layout)
    missing = [ranks for part, ranks in wanted.items() if part not in found]
    return Spec(name, whole, spec.dtype), regions, missing


def _whole_shape(shard: Shard, layout: Layout, spec: Spec) -> tuple[int, ...]:
    try:
        return full_shape(layout, spec.dims)
    except CheckpointError as error:
        raise CheckpointError(
            f"{spec.name} does not fit the strategy of rank {shard.rank}: {error.what}", where=shard.path
        ) from error


def _ranks(ranks: Sequence[int], word: str = "and") -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = [str(rank) for rank in ranks[:8]]
    return f"ranks {', '.join(shown[:-1])} {word} {shown[-1]}" + (" …" if len(ranks) > 8 else "")
