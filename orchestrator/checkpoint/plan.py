"""The plan of a collection: which bytes of which shard go where in the whole tensors. Pure data, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.coverage import is_moment, is_weight, missing_groups, replica_groups
from orchestrator.checkpoint.layout import Layout, Region, full_shape, region, slices
from orchestrator.checkpoint.shard import Shard
from orchestrator.checkpoint.strategy_file import Strategy
from orchestrator.checkpoint.tensor import Spec
from orchestrator.errors import CheckpointError

__all__ = ["CollectPlan", "Read", "plan_collect"]


@dataclass(frozen=True, slots=True)
class Read:
    """One slice: the spans of a shard's file that, joined, are `region` of output tensor number `tensor`."""

    tensor: int
    region: Region
    rank: int
    host: str
    path: str
    pieces: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        return sum(length for _, length in self.pieces)


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """Output tensors in their order, every slice to read once, and what is left out with the reason."""

    tensors: tuple[Spec, ...]
    reads: tuple[Read, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def nbytes(self) -> int:
        return sum(read.nbytes for read in self.reads)

    @property
    def bytes_per_host(self) -> dict[str, int]:
        load: Counter[str] = Counter()
        for read in self.reads:
            load[read.host] += read.nbytes
        return dict(load)


@dataclass(frozen=True, slots=True)
class _Slice:
    """A slice with every shard that could give it."""

    tensor: int
    region: Region
    holders: tuple[Shard, ...]


def plan_collect(
    shards: Sequence[Shard],
    strategies: Mapping[int, Strategy],
    *,
    world_size: int | None = None,
    with_optimizer: bool = False,
    with_texts: bool = True,
    replicated: bool = False,
) -> CollectPlan:
    """Take every slice of every weight exactly once, from the least loaded host among its replicas.

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
    specs: list[Spec] = []
    parts: list[_Slice] = []
    skipped: list[tuple[str, str]] = []
    for name, having in holders.items():
        reason = _why_left_out(having[0].tensors[name].spec, with_optimizer, with_texts)
        if reason:
            skipped.append((name, reason))
            continue
        spec, regions = _slices_of(name, having, strategies)
        parts += [_Slice(len(specs), box, tuple(ranks)) for box, ranks in regions]
        specs.append(spec)
    world = max((shard.rank for shard in ordered), default=-1) + 1 if world_size is None else world_size
    _check_stages(ordered, strategies, world, with_optimizer)
    return CollectPlan(tuple(specs), _choose(specs, parts), tuple(skipped))


def _why_left_out(spec: Spec, with_optimizer: bool, with_texts: bool) -> str:
    if spec.dtype == "str" and not with_texts:
        return "a text, which the output format cannot hold"
    if with_optimizer:
        return ""
    if is_moment(spec.name):
        return "optimizer state"
    if spec.dtype == "str" or not is_weight(spec.name):
        return "kept by the training loop, not a weight"
    return ""


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


def _choose(specs: Sequence[Spec], parts: Sequence[_Slice]) -> tuple[Read, ...]:
    """Slices with one holder first, then the large ones: each to the host that has least to send."""
    load: Counter[str] = Counter()
    reads: list[Read | None] = [None] * len(parts)
    sizes = [part.holders[0].tensors[specs[part.tensor].name].spec.nbytes for part in parts]
    for number in sorted(range(len(parts)), key=lambda n: (len(parts[n].holders) > 1, -sizes[n])):
        part = parts[number]
        shard = min(part.holders, key=lambda holder: (load[holder.host], holder.rank))
        held = shard.tensors[specs[part.tensor].name]
        load[shard.host] += sizes[number]
        reads[number] = Read(part.tensor, part.region, shard.rank, shard.host, shard.path, held.pieces)
    return tuple(read for read in reads if read is not None)


def _ranks(ranks: Sequence[int], word: str = "and") -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = [str(rank) for rank in ranks[:8]]
    return f"ranks {', '.join(shown[:-1])} {word} {shown[-1]}" + (" …" if len(ranks) > 8 else "")
