"""Where the slices of one tensor go in an output file, which may name, cut, turn or type it differently.

What an output of each format looks like: files, the place of every tensor in them, their types.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_files import FileLayout, Piece, lay_out_ckpt, lay_out_safetensors
from orchestrator.checkpoint.files.tensor_types import Spec, converted, target_type
from orchestrator.checkpoint.spans import Scatter, Stretch
from orchestrator.formats.ckpt_index import ITEM_SIZES

__all__ = [
    "Format",
    "Interleaved",
    "OutputLayout",
    "Target",
    "lay_out_file",
]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """The rows are one of `parts` that alternate head by head in the output: (heads, parts, head size)."""

    heads: int
    part: int
    parts: int


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of a plan, `source` as it is collected whole, in its place of file number `file`.

    `places` hold all bytes of the output's tensor. `transposed`: there the two axes are swapped.
    """

    source: Spec
    dtype: str
    file: int
    places: tuple[Piece, ...]
    transposed: bool = False
    interleaved: Interleaved | None = None

    def unit(self, region: Region) -> int:
        """A slice may be cut at multiples of so many bytes: whole rows of what is to be transposed."""
        columns = region[1][1] - region[1][0] if self.transposed else 1
        return max(1, columns) * self.source.item_size

    def arrange(self, region: Region, data: memoryview) -> memoryview:
        """The bytes of a part of a slice as they are written: in the output's type, and turned."""
        ready = converted(data, self.source.dtype, self.dtype, self.source.name)
        if not self.transposed or not ready:
            return ready
        columns = region[1][1] - region[1][0]
        item = ITEM_SIZES[self.dtype]
        rows = np.frombuffer(ready, f"<u{item}").reshape(-1, columns)
        return np.ascontiguousarray(rows.T).reshape(-1).view(np.uint8).data

    def stretches(self, region: Region, start: int, nbytes: int) -> Iterator[Stretch]:
        """Where what `arrange` made of the slice's bytes `start` to `start + nbytes` lies in the tensor."""
        source, item = self.source.item_size, ITEM_SIZES[self.dtype]
        first, last = start // source * item, (start + nbytes) // source * item
        if self.transposed:
            if last > first:
                yield self._turned(region, first, last, item)
            return
        for begin, end, scatter in self._boxes(region, item):
            yield from scatter.stretches(max(first, begin) - begin, min(last, end) - begin)

    def _turned(self, region: Region, first: int, last: int, item: int) -> Stretch:
        (top, _), (left, right) = region
        height, row = self.source.dims[0], (right - left) * item
        offset = left * height + top + first // row
        return Stretch(offset * item, (last - first) // row * item, height * item, right - left)

    def _boxes(self, region: Region, item: int) -> Iterator[tuple[int, int, Scatter]]:
        """The slice as boxes of the output, each with the span of the slice's bytes that it is."""
        if self.source.dtype == "str":
            size = self.source.nbytes
            yield 0, size, Scatter(((1, 0, 1), (size, 0, size)))
            return
        dims = self.source.dims
        if self.interleaved is None:
            scatter = Scatter.of(dims, item, region)
            yield 0, scatter.nbytes, scatter
            return
        heads, part, parts = self.interleaved.heads, self.interleaved.part, self.interleaved.parts
        size = dims[0] // heads
        row = math.prod(stop - start for start, stop in region[1:]) * item
        top = region[0][0]
        for start, stop in _at_heads(*region[0], size):
            within = (start % size, start % size + stop - start) if stop - start < size else (0, size)
            box = ((start // size, -(-stop // size)), (part, part + 1), within, *region[1:])
            scatter = Scatter.of((heads, parts, size, *dims[1:]), item, box)
            yield (start - top) * row, (stop - top) * row, scatter


def _at_heads(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Rows as runs of whole heads, with a part of a head before and behind where they begin or end in one."""
    first, last = -(-start // size) * size, stop // size * size
    cuts = [start, stop] if first > last else sorted({start, first, last, stop})
    yield from itertools.pairwise(cuts)


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """A whole output: its files by name (one without a name is the output itself) and a target per tensor.

    `texts` are small files of a folder that are known beforehand.
    """

    files: tuple[tuple[str, FileLayout], ...]
    targets: tuple[Target, ...]
    texts: tuple[tuple[str, bytes], ...] = ()

    @property
    def is_folder(self) -> bool:
        return self.files[0][0] != ""

    @property
    def size(self) -> int:
        return sum(layout.size for _, layout in self.files)


Format = Literal["ckpt", "safetensors", "huggingface"]

_FORMATS: Mapping[Format, Callable[[Sequence[Spec]], FileLayout]] = {
    "ckpt": lay_out_ckpt,
    "safetensors": lay_out_safetensors,
}


def lay_out_file(specs: Sequence[Spec], format: Format, dtype: str | None = None) -> OutputLayout:
    """One file of all tensors in their order, floats as `dtype` (MindSpore's name of a type) if it is given.

    `huggingface` is no single file: see `lay_out_huggingface`.
    """
    types = [target_type(spec.dtype, dtype) for spec in specs]
    layout = _FORMATS[format]([replace(spec, dtype=type) for spec, type in zip(specs, types, strict=True)])
    targets = zip(specs, types, layout.places, strict=True)
    return OutputLayout(
        (("", layout),), tuple(Target(spec, type, 0, places) for spec, type, places in targets)
    )
