"""Plans: which bytes of which shard go where in the output files, and the segments that they are moved in.

One planner serves every change of layout: many ranks to one file (collect, combine), one file to many ranks
(split, distribute), many to many (transform), one library's names to another's (convert). Pure data.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.checkpoint.assemble import Assembled
from orchestrator.checkpoint.cut.coverage import is_weight, weight_of
from orchestrator.checkpoint.cut.slices import Layout, Region, cuts, region
from orchestrator.checkpoint.files.strategy_files import Strategy, StrategySet
from orchestrator.checkpoint.files.tensor_files import Span
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.output_layout import Destination
from orchestrator.checkpoint.shard_index import Shard, StoredTensor
from orchestrator.checkpoint.spans import RegionSpans, StridedSpan, locate
from orchestrator.core.errors import CheckpointError

__all__ = [
    "Copy",
    "CopyPlan",
    "Output",
    "OutputTensor",
    "Segment",
    "batches",
    "cut_segments",
    "plan_copies",
    "rank_outputs",
    "unknown_names",
    "whole_output",
    "whole_region",
]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """What an output file has of assembled tensor number `number`; `spec` has the shape of that region."""

    spec: Spec
    number: int
    region: Region


@dataclass(frozen=True, slots=True)
class Output:
    """One file to write: of rank `rank`, or of no rank in particular (0) where it has whole tensors."""

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
    """`part` of what a shard has stored becomes `region` of tensor number `tensor` of all outputs together.

    `stored` may see the bytes in other axes than they were saved in, such as (heads, parts, head size).
    """

    tensor: int
    region: Region
    rank: int
    host: str
    path: str
    stored: StoredTensor
    part: Region

    @property
    def nbytes(self) -> int:
        spec = self.stored.spec
        return spec.nbytes if spec.dtype == "str" else math.prod(_shape(self.part)) * spec.item_size

    def stripes(self, size: int) -> Iterator[Copy]:
        """The copy of a matrix as copies of columns of about `size` bytes."""
        rows, columns = _shape(self.part)
        width = max(1, size // max(1, rows * self.stored.spec.item_size))
        for first in range(0, columns, width):
            last = min(first + width, columns)
            region, part = (
                (axes[0], (axes[1][0] + first, axes[1][0] + last)) for axes in (self.region, self.part)
            )
            yield replace(self, region=region, part=part)


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """The files to write, every part of them to copy once, and what is left out with the reason."""

    outputs: tuple[Output, ...]
    copies: tuple[Copy, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def tensors(self) -> tuple[Spec, ...]:
        """Those of all outputs, as `Copy.tensor` counts them."""
        return tuple(spec for output in self.outputs for spec in output.specs)

    @property
    def nbytes(self) -> int:
        return sum(output.nbytes for output in self.outputs)

    @property
    def bytes_per_host(self) -> dict[str, int]:
        load: Counter[str] = Counter()
        for copy in self.copies:
            load[copy.host] += copy.nbytes
        return dict(load)


def whole_region(spec: Spec) -> Region:
    """All of the tensor."""
    return tuple((0, size) for size in spec.dims)


def whole_output(whole: Assembled) -> Output:
    """One file of all tensors, uncut."""
    tensors = enumerate(tensor.spec for tensor in whole.tensors)
    return Output(0, tuple(OutputTensor(spec, number, whole_region(spec)) for number, spec in tensors))


@dataclass(frozen=True, slots=True)
class _Part:
    """What an output's tensor and one slice have in common: `region` of the tensor is `part` of the slice."""

    tensor: int
    region: Region
    part: Region
    holders: tuple[Shard, ...]
    name: str

    def copy_from(self, shard: Shard) -> Copy:
        stored = shard.tensors[self.name]
        path = stored.path or shard.path
        return Copy(self.tensor, self.region, shard.rank, shard.host, path, stored, self.part)


def plan_copies(whole: Assembled, outputs: Sequence[Output]) -> CopyPlan:
    """Fill every output from the slices, each element once, from the least loaded host that has it."""
    tensors = enumerate(tensor for output in outputs for tensor in output.tensors)
    parts = [part for number, tensor in tensors for part in _parts(whole, number, tensor)]
    # One by one: of a large model, all of them are many megabytes.
    return CopyPlan(tuple(outputs), tuple(map(_Part.copy_from, parts, _choose(parts))), whole.skipped)


def _parts(whole: Assembled, number: int, tensor: OutputTensor) -> Iterator[_Part]:
    source = whole.tensors[tensor.number]
    for piece in source.slices:
        shared = _overlap(piece.region, tensor.region)
        if shared is not None:
            into, part = _within(shared, tensor.region), _within(shared, piece.region)
            yield _Part(number, into, part, piece.holders, source.spec.name)


@functools.lru_cache(maxsize=1 << 12)  # layers are alike: few regions serve all of a network
def _overlap(one: Region, other: Region) -> Region | None:
    """What two regions share; None for nothing. An empty tensor shares itself, so that it has one copy."""
    shared = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return shared if one == other or all(start < stop for start, stop in shared) else None


@functools.lru_cache(maxsize=1 << 12)
def _within(region: Region, frame: Region) -> Region:
    """The region in coordinates that start at the frame's corner."""
    return tuple((start - low, stop - low) for (start, stop), (low, _) in zip(region, frame, strict=True))


def _shape(region: Region) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in region)


def _choose(parts: Sequence[_Part]) -> list[Shard]:
    """Who gives each part: the host with least to send; first where there is one holder, then large parts."""
    load: Counter[str] = Counter()
    chosen = [part.holders[0] for part in parts]
    sizes = [part.copy_from(shard).nbytes for part, shard in zip(parts, chosen, strict=True)]
    for number in sorted(range(len(parts)), key=lambda n: (len(parts[n].holders) > 1, -sizes[n])):
        chosen[number] = min(parts[number].holders, key=lambda holder: (load[holder.host], holder.rank))
        load[chosen[number].host] += sizes[number]
    return chosen


def rank_outputs(whole: Assembled, strategies: StrategySet) -> tuple[Output, ...]:
    """One file for each rank, with its slices of the tensors of its stage.

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
    return tuple(_rank_output(rank, whole, strategies, named) for rank in range(strategies.world_size))


def _check_moment(name: str, strategy: Strategy, named: set[str]) -> None:
    layout = strategy.layouts.get(weight_of(name))
    if name not in named and layout is not None and math.prod(cuts(layout)) > 1:
        raise CheckpointError(
            f"the strategy says how {weight_of(name)} is cut but not how {name} is",
            remedy="leave the optimizer's state out",
        )


def _rank_output(rank: int, whole: Assembled, strategies: StrategySet, named: set[str]) -> Output:
    stage, index = divmod(rank, strategies.ranks_per_stage)
    layouts = strategies.stages[stage].layouts
    tensors = []
    for number, tensor in enumerate(whole.tensors):
        spec, layout = tensor.spec, layouts.get(tensor.spec.name)
        if layout is not None or spec.name not in named:
            part = whole_region(spec) if layout is None else _region(spec, layout, index)
            tensors.append(OutputTensor(replace(spec, dims=_shape(part)), number, part))
    return Output(rank, tuple(tensors))


def _region(spec: Spec, layout: Layout, index: int) -> Region:
    try:
        return region(layout, spec.dims, index)
    except CheckpointError as error:
        raise CheckpointError(f"{spec.name} does not fit the strategy: {error.what}") from error


def unknown_names(whole: Assembled, strategies: StrategySet) -> list[str]:
    """Weights that the strategy names and the checkpoint lacks, in the strategy's order."""
    have = {tensor.spec.name for tensor in whole.tensors}
    named = dict.fromkeys(name for strategy in strategies.stages for name in strategy.layouts)
    return [name for name in named if is_weight(name) and name not in have]


@dataclass(frozen=True, slots=True)
class Segment:
    """What is read, checked, written and noted as one: bytes `start` to `start + nbytes` of a plan's copy.

    `number` is that of the copy in the plan.
    """

    number: int
    copy: Copy
    start: int
    nbytes: int

    @property
    def key(self) -> tuple[int, int]:
        """As a journal has it."""
        return self.number, self.start

    @property
    def strided(self) -> list[StridedSpan]:
        """Where its bytes are in the shard's file."""
        stored = self.copy.stored
        spans = RegionSpans.of_part(stored.spec, self.copy.part).between(self.start, self.start + self.nbytes)
        return [part for span in spans for part in locate(span, stored.spans)]

    @property
    def spans(self) -> list[Span]:
        """The same, run by run."""
        return [
            (span.offset + row * span.stride, span.run) for span in self.strided for row in range(span.rows)
        ]


def cut_segments(
    plan: CopyPlan, destinations: Sequence[Destination], size: int, *, stripe: int = 0
) -> list[Segment]:
    """Every copy as segments of about `size` bytes, in the order of the plan.

    With `stripe`, what is to be transposed comes as columns of so many bytes, which are rows of the output.
    """
    segments = []
    for number, whole in enumerate(plan.copies):
        destination = destinations[whole.tensor]
        is_striped = stripe > 0 and destination.transposed
        for copy in whole.stripes(stripe) if is_striped else (whole,):
            nbytes, unit = copy.nbytes, destination.unit(copy.region)
            step = max(unit, nbytes if is_striped else size - size % unit)
            segments += [
                Segment(number, copy, start, min(step, nbytes - start)) for start in range(0, nbytes, step)
            ]
    return segments


def batches(
    segments: Sequence[Segment], destinations: Sequence[Destination], limit: int
) -> Iterator[list[Segment]]:
    """Each host's segments in the order of the output, at most `limit` bytes at a time.

    So the slices of a tensor, which alternate in its rows, come at about the same time from all files and
    hosts, and the output grows from its beginning: no page of it is written to the disk again and again.
    """

    def position(segment: Segment) -> tuple[int, int, int]:
        destination = destinations[segment.copy.tensor]
        return destination.file, destination.first_byte, segment.start

    hosts: dict[str, list[Segment]] = {}
    for segment in sorted(segments, key=position):
        hosts.setdefault(segment.copy.host, []).append(segment)
    for having in hosts.values():
        batch: list[Segment] = []
        nbytes = 0
        for segment in having:
            if batch and nbytes + segment.nbytes > limit:
                yield batch
                batch, nbytes = [], 0
            batch.append(segment)
            nbytes += segment.nbytes
        yield batch
