"""Plans: which bytes of which shard go where in the output files. Pure data, no files.

One planner serves every change of layout: many ranks to one file (collect, combine), one file to many ranks
(split, distribute), many to many (transform).

What each rank of a target layout holds of whole tensors. Pure data, no files.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.assemble import Whole, assemble
from orchestrator.checkpoint.cut.coverage import is_weight, weight_of
from orchestrator.checkpoint.cut.slices import Layout, Region, cuts, region
from orchestrator.checkpoint.files.strategy_files import Strategy, StrategySet
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.shard_source import Held, Shard
from orchestrator.core.errors import CheckpointError

__all__ = [
    "CollectPlan",
    "Copy",
    "CopyPlan",
    "Output",
    "OutputTensor",
    "Read",
    "plan_collect",
    "plan_copies",
    "rank_outputs",
    "unknown_names",
]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """What an output file holds of whole tensor number `whole`; `spec` has the shape of that part."""

    spec: Spec
    whole: int
    region: Region


@dataclass(frozen=True, slots=True)
class Output:
    """One file to write: of rank `rank`, or of no rank in particular (0) where it holds whole tensors."""

    rank: int
    tensors: tuple[OutputTensor, ...]

    @property
    def specs(self) -> tuple[Spec, ...]:
        return tuple(tensor.spec for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        return sum(tensor.spec.nbytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class Copy:
    """`part` of what a shard holds becomes `region` of tensor number `tensor` of output number `output`."""

    output: int
    tensor: int
    region: Region
    rank: int
    host: str
    path: str
    held: Held
    part: Region

    @property
    def nbytes(self) -> int:
        spec = self.held.spec
        return Spec(spec.name, _shape(self.part), spec.dtype, spec.text_bytes).nbytes


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """The files to write, every part of them to copy once, and what is left out with the reason."""

    outputs: tuple[Output, ...]
    copies: tuple[Copy, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def nbytes(self) -> int:
        return sum(output.nbytes for output in self.outputs)


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


def plan_collect(
    shards: Sequence[Shard],
    strategies: Mapping[int, Strategy],
    *,
    world_size: int | None = None,
    with_optimizer: bool = False,
    with_texts: bool = True,
    replicated: bool = False,
) -> CollectPlan:
    """One file of whole tensors: every slice exactly once, from the least loaded host among its replicas.

    The options are those of `assemble`, and so are the errors.
    """
    whole = assemble(
        shards,
        strategies,
        world_size=world_size,
        with_optimizer=with_optimizer,
        with_texts=with_texts,
        replicated=replicated,
    )
    output = whole_output(whole)
    copies = _copies(whole, [output])
    reads = (
        Read(copy.tensor, copy.region, copy.rank, copy.host, copy.path, copy.held.pieces) for copy in copies
    )
    return CollectPlan(output.specs, tuple(reads), whole.skipped)


def whole_output(whole: Whole) -> Output:
    """One file of all tensors, uncut."""
    tensors = (
        OutputTensor(tensor.spec, number, tuple((0, size) for size in tensor.spec.dims))
        for number, tensor in enumerate(whole.tensors)
    )
    return Output(0, tuple(tensors))


@dataclass(frozen=True, slots=True)
class _Part:
    """What an output tensor and one slice of the whole tensor share: `box`, which lies in both frames."""

    output: int
    tensor: int
    box: Region
    into: Region
    slice: Region
    holders: tuple[Shard, ...]
    name: str

    def copy_from(self, shard: Shard) -> Copy:
        held = shard.tensors[self.name]
        region, part = _within(self.box, self.into), _within(self.box, self.slice)
        path = held.path or shard.path
        return Copy(self.output, self.tensor, region, shard.rank, shard.host, path, held, part)


def plan_copies(whole: Whole, outputs: Sequence[Output]) -> CopyPlan:
    """Fill every output from the slices, each element once, from the least loaded host that has it."""
    return CopyPlan(tuple(outputs), tuple(_copies(whole, outputs)), whole.skipped)


def _copies(whole: Whole, outputs: Sequence[Output]) -> Iterator[Copy]:
    parts = [part for number, output in enumerate(outputs) for part in _parts(whole, number, output)]
    # One by one: of a large model, all of them are many megabytes.
    return map(_Part.copy_from, parts, _choose(parts))


def _parts(whole: Whole, number: int, output: Output) -> Iterator[_Part]:
    for index, tensor in enumerate(output.tensors):
        source = whole.tensors[tensor.whole]
        for piece in source.slices:
            box = _overlap(piece.region, tensor.region)
            if box is not None:
                name = source.spec.name
                yield _Part(number, index, box, tensor.region, piece.region, piece.holders, name)


@functools.lru_cache(maxsize=1 << 12)  # layers are alike: few boxes serve all of a network
def _overlap(one: Region, other: Region) -> Region | None:
    """What two boxes share; None for nothing. An empty tensor shares itself, so that it has one copy."""
    box = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    if one == other or all(start < stop for start, stop in box):
        return box
    return None


@functools.lru_cache(maxsize=1 << 12)
def _within(box: Region, frame: Region) -> Region:
    """The box in coordinates that start at the frame's corner."""
    return tuple((start - low, stop - low) for (start, stop), (low, _) in zip(box, frame, strict=True))


def _shape(box: Region) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in box)


def _choose(parts: Sequence[_Part]) -> list[Shard]:
    """Who gives each part: the host with least to send; first where there is one holder, then large parts."""
    load: Counter[str] = Counter()
    chosen = [part.holders[0] for part in parts]
    sizes = [part.copy_from(shard).nbytes for part, shard in zip(parts, chosen, strict=True)]
    for number in sorted(range(len(parts)), key=lambda n: (len(parts[n].holders) > 1, -sizes[n])):
        chosen[number] = min(parts[number].holders, key=lambda holder: (load[holder.host], holder.rank))
        load[chosen[number].host] += sizes[number]
    return chosen


def rank_outputs(
    whole: Whole, strategies: StrategySet, ranks: Sequence[int] | None = None
) -> tuple[Output, ...]:
    """One file for each rank (or those given), with its slices of the tensors of its stage.

    A tensor that no stage's strategy names is whole on every rank, as in MindSpore's own transformation.
    CheckpointError: no tensor is named at all, one cannot be cut as its layout says, or a moment has no
    layout though its parameter is cut.
    """
    named = {name for strategy in strategies.stages for name in strategy.layouts}
    if not any(tensor.spec.name in named for tensor in whole.tensors):
        raise CheckpointError("the strategy names none of the checkpoint's tensors")
    for strategy in strategies.stages:
        for tensor in whole.tensors:
            _check_moment(tensor.spec.name, strategy, named)
    wanted = range(strategies.world_size) if ranks is None else ranks
    return tuple(_rank_output(rank, whole, strategies, named) for rank in wanted)


def _check_moment(name: str, strategy: Strategy, named: set[str]) -> None:
    layout = strategy.layouts.get(weight_of(name))
    if name not in named and layout is not None and math.prod(cuts(layout)) > 1:
        raise CheckpointError(
            f"the strategy says how {weight_of(name)} is cut but not how {name} is",
            remedy="leave the optimizer's state out",
        )


def _rank_output(rank: int, whole: Whole, strategies: StrategySet, named: set[str]) -> Output:
    stage, index = divmod(rank, strategies.ranks_per_stage)
    layouts = strategies.stages[stage].layouts
    tensors = []
    for number, tensor in enumerate(whole.tensors):
        spec, layout = tensor.spec, layouts.get(tensor.spec.name)
        if layout is not None:
            box = _region(spec, layout, index)
        elif spec.name in named:
            continue
        else:
            box = tuple((0, size) for size in spec.dims)
        dims = tuple(stop - start for start, stop in box)
        tensors.append(OutputTensor(Spec(spec.name, dims, spec.dtype, spec.text_bytes), number, box))
    return Output(rank, tuple(tensors))


def _region(spec: Spec, layout: Layout, index: int) -> Region:
    try:
        return region(layout, spec.dims, index)
    except CheckpointError as error:
        raise CheckpointError(f"{spec.name} does not fit the strategy: {error.what}") from error


def unknown_names(whole: Whole, strategies: StrategySet) -> list[str]:
    """Weights that the strategy names and the checkpoint lacks, in the strategy's order."""
    have = {tensor.spec.name for tensor in whole.tensors}
    named = dict.fromkeys(name for strategy in strategies.stages for name in strategy.layouts)
    return [name for name in named if is_weight(name) and name not in have]
