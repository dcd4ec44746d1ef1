"""The layout of an output: its files, where each tensor goes in them, and how its bytes change on the way.

This is the one place where tensors are interleaved, transposed and given another type. What of that a tensor
needs is data here; which tensors of a network need it, the table of its family tells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_files import FileLayout, Span, lay_out_ckpt, lay_out_safetensors
from orchestrator.checkpoint.files.tensor_types import Array, Spec, converted, target_type
from orchestrator.checkpoint.files.transpose import transpose
from orchestrator.checkpoint.spans import RegionSpans, StridedSpan
from orchestrator.formats.ckpt_index import ITEM_SIZES

__all__ = ["Destination", "Format", "Interleaved", "OutputLayout", "lay_out"]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """The rows are one of several parts that alternate head by head: (heads, parts, head size, …)."""

    heads: int
    part: int
    parts: int

    def region(self, rows: tuple[int, int], size: int) -> Region:
        """The first three axes for these rows of heads of `size`: whole heads, or a part of one."""
        start, stop = rows
        within = (start % size, start % size + stop - start) if stop - start < size else (0, size)
        return (start // size, -(-stop // size)), (self.part, self.part + 1), within


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one tensor of a plan goes: `source` as the plan has it, `dtype` and `spans` as file `file` does.

    `transposed`: there the two axes are swapped. `interleaved`: there it is a part of a larger tensor.
    """

    source: Spec
    dtype: str
    file: int
    spans: tuple[Span, ...]
    transposed: bool = False
    interleaved: Interleaved | None = None

    @property
    def first_byte(self) -> int:
        return self.spans[0][0] if self.spans else 0

    def unit(self, region: Region) -> int:
        """A region may be cut at multiples of so many bytes: whole rows of what is to be transposed."""
        columns = region[1][1] - region[1][0] if self.transposed else 1
        return max(1, columns) * self.source.item_size

    def arrange(self, region: Region, data: memoryview) -> memoryview:
        """The bytes of a part of a region as they are written: in the output's type, and transposed."""
        ready = converted(data, self.source.dtype, self.dtype, self.source.name)
        if not self.transposed or not ready:
            return ready
        columns = region[1][1] - region[1][0]
        rows = np.frombuffer(ready, f"<u{ITEM_SIZES[self.dtype]}").reshape(-1, columns)
        turned: Array = np.empty((columns, len(rows)), rows.dtype)
        transpose(rows, turned)
        return turned.reshape(-1).view(np.uint8).data

    def written(self, region: Region, start: int, nbytes: int) -> Iterator[StridedSpan]:
        """Where in the output's tensor what `arrange` made of the region's bytes from `start` on goes."""
        source, item = self.source.item_size, ITEM_SIZES[self.dtype]
        first, last = start // source * item, (start + nbytes) // source * item
        if self.transposed:
            if last > first:
                yield self._columns(region, first, last, item)
            return
        for begin, end, spans in self._parts(region, item):
            yield from spans.between(max(first, begin) - begin, min(last, end) - begin)

    def _columns(self, region: Region, first: int, last: int, item: int) -> StridedSpan:
        (top, _), (left, right) = region
        height, row = self.source.dims[0], (right - left) * item
        rows = (last - first) // row
        offset = (left * height + top + first // row) * item
        if rows == height:
            return StridedSpan(offset, last - first, last - first, 1)
        return StridedSpan(offset, rows * item, height * item, right - left)

    def _parts(self, region: Region, item: int) -> Iterator[tuple[int, int, RegionSpans]]:
        """The region as regions of the output's tensor, each with the span of its bytes that it is."""
        dims, fused = self.source.dims, self.interleaved
        if fused is None:
            spans = RegionSpans.of_part(replace(self.source, dtype=self.dtype), region)
            yield 0, spans.nbytes, spans
            return
        size = dims[0] // fused.heads
        row = math.prod(stop - start for start, stop in region[1:]) * item
        top = region[0][0]
        for start, stop in _at_heads(*region[0], size):
            part = (*fused.region((start, stop), size), *region[1:])
            spans = RegionSpans.of((fused.heads, fused.parts, size, *dims[1:]), item, part)
            yield (start - top) * row, (stop - top) * row, spans


def _at_heads(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Rows as runs of whole heads, with a part of a head before and behind where they begin or end in one."""
    first, last = -(-start // size) * size, stop // size * size
    cuts = [start, stop] if first > last else sorted({start, first, last, stop})
    yield from itertools.pairwise(cuts)


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """A whole output: its files by name (one without a name is the output itself), a destination per tensor.

    `texts` are small files of a folder that are known beforehand.
    """

    files: tuple[tuple[str, FileLayout], ...]
    destinations: tuple[Destination, ...]
    texts: tuple[tuple[str, bytes], ...] = ()

    @property
    def is_folder(self) -> bool:
        return self.files[0][0] != ""

    @property
    def size(self) -> int:
        return sum(layout.size for _, layout in self.files)


Format = Literal["ckpt", "safetensors", "huggingface", "unified"]

_FORMATS: Mapping[Format, Callable[[Sequence[Spec]], FileLayout]] = {
    "ckpt": lay_out_ckpt,
    "safetensors": lay_out_safetensors,
}


def lay_out(
    files: Sequence[Sequence[Spec]],
    format: Format,
    *,
    names: Sequence[str] = ("",),
    dtype: str | None = None,
    transposed: Collection[str] = (),
    texts: Mapping[str, bytes] | None = None,
) -> OutputLayout:
    """Files of these tensors in their order, floats as `dtype` (MindSpore's name of a type) if it is given.

    The axes of those that are named in `transposed` are swapped. `huggingface` and `unified` are folders: see
    `lay_out_huggingface`, `lay_out_unified`. CheckpointError: a tensor that the format cannot hold.
    """
    layouts: list[FileLayout] = []
    destinations: list[Destination] = []
    for specs in files:
        types = [target_type(spec.dtype, dtype) for spec in specs]
        turned = [spec.name in transposed for spec in specs]
        layout = _FORMATS[format](
            [
                replace(spec, dtype=type, dims=spec.dims[::-1] if swaps else spec.dims)
                for spec, type, swaps in zip(specs, types, turned, strict=True)
            ]
        )
        destinations += [
            Destination(spec, type, len(layouts), spans, swaps)
            for spec, type, spans, swaps in zip(specs, types, layout.spans, turned, strict=True)
        ]
        layouts.append(layout)
    named = tuple(zip(names, layouts, strict=True))
    return OutputLayout(named, tuple(destinations), tuple((texts or {}).items()))
