"""Where the bytes of a slice lie in the bytes of the whole tensor. Pure arithmetic, no files.

A slice's bytes in C order are runs of the tensor's bytes; those that lie evenly spaced are one stretch, so
that a cut along the last axis of a large matrix is a few copies and not one for every row.

Parts of tensors out of files of this machine, in chunks: the way back of `scatter`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_files import Piece
from orchestrator.checkpoint.files.tensor_types import Array, Spec
from orchestrator.checkpoint.shard_source import Held
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import map_file

__all__ = [
    "CHUNK",
    "MappedFiles",
    "Scatter",
    "Stretch",
    "locate",
]


@dataclass(frozen=True, slots=True)
class Stretch:
    """`rows` runs of `run` bytes each, the first at byte `offset`, their starts `stride` bytes apart."""

    offset: int
    run: int
    stride: int
    rows: int

    @property
    def nbytes(self) -> int:
        return self.run * self.rows


@dataclass(frozen=True, slots=True)
class Scatter:
    """The way from a slice's bytes to the tensor's; axes are `(size, start, stop)`, the last one in bytes."""

    axes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, dims: Sequence[int], item_size: int, region: Region) -> Scatter:
        """An axis that is not cut is joined to the one before it."""
        axes: list[tuple[int, int, int]] = []
        for size, (start, stop) in zip(dims, region, strict=True):
            if axes and (start, stop) == (0, size):
                before = axes.pop()
                axes.append((before[0] * size, before[1] * size, before[2] * size))
            else:
                axes.append((size, start, stop))
        last = axes.pop() if axes else (1, 0, 1)
        axes.append((last[0] * item_size, last[1] * item_size, last[2] * item_size))
        # A row axis and a run axis are always there.
        return cls(tuple(axes) if len(axes) > 1 else ((1, 0, 1), *axes))

    @classmethod
    def of_part(cls, spec: Spec, region: Region) -> Scatter:
        """Of a part of a tensor; a text has no parts."""
        if spec.dtype == "str":
            return cls(((1, 0, 1), (spec.nbytes, 0, spec.nbytes)))
        return cls.of(spec.dims, spec.item_size, region)

    @property
    def nbytes(self) -> int:
        """The size of the slice."""
        total = 1
        for _, start, stop in self.axes:
            total *= stop - start
        return total

    def stretches(self, start: int, stop: int) -> Iterator[Stretch]:
        """The places of the slice's bytes `start` to `stop`, in their order."""
        (_, first_row, last_row), (width, column, column_end) = self.axes[-2:]
        run, rows = column_end - column, last_row - first_row
        position = start
        while position < stop:
            row, into = divmod(position, run)
            block, row = divmod(row, rows)
            offset = self._block_start(block) + (first_row + row) * width + column + into
            if into or stop - position < run:
                part = Stretch(offset, min(run - into, stop - position), width, 1)
            else:
                part = Stretch(offset, run, width, min(rows - row, (stop - position) // run))
            yield part
            position += part.nbytes

    def _block_start(self, block: int) -> int:
        offset = 0
        weight = self.axes[-1][0] * self.axes[-2][0]
        for size, start, stop in reversed(self.axes[:-2]):
            block, number = divmod(block, stop - start)
            offset += (start + number) * weight
            weight *= size
        return offset


def locate(stretch: Stretch, places: Sequence[Piece]) -> Iterator[Stretch]:
    """The same stretch as offsets of the file in which the tensor lies at `places`, `(offset, length)`."""
    if len(places) == 1:
        yield Stretch(places[0][0] + stretch.offset, stretch.run, stretch.stride, stretch.rows)
        return
    begin = 0
    ends = []
    for offset, length in places:
        ends.append((begin, begin + length, offset))
        begin += length
    row, into = 0, 0
    while row < stretch.rows:
        at = stretch.offset + row * stretch.stride + into
        begin, end, offset = next(piece for piece in ends if at < piece[1])
        if into == 0 and at + stretch.run <= end:
            rows = min(stretch.rows - row, (end - at - stretch.run) // stretch.stride + 1)
            yield Stretch(offset + at - begin, stretch.run, stretch.stride, rows)
            row += rows
            continue
        length = min(stretch.run - into, end - at)
        yield Stretch(offset + at - begin, length, length, 1)
        into += length
        if into == stretch.run:
            row, into = row + 1, 0


CHUNK = 32 << 20
# After so many bytes the pages of a mapping are given back: memory is bounded by this and not by the file.
_KEPT = 128 << 20


class MappedFiles:
    """Files that are mapped when they are first read, and stay so until the end of a `with` block."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        self._touched = 0

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        # The mappings go when the last view of them does.
        self._maps.clear()

    def chunks(self, path: str, held: Held, part: Region, size: int = CHUNK) -> Iterator[memoryview]:
        """The bytes of a part of a tensor in C order, at most `size` at once; each is valid until the next.

        CheckpointError: the file cannot be read, or has become shorter since it was indexed.
        """
        if path not in self._maps:
            self._maps[path] = map_file(path)
        mapped = self._maps[path]
        if any(offset + length > len(mapped) for offset, length in held.pieces):
            raise CheckpointError(f"has become shorter: {held.spec.name} is not all there", where=path)
        scatter = Scatter.of_part(held.spec, part)
        for start in range(0, scatter.nbytes, size):
            stop = min(start + size, scatter.nbytes)
            yield _gather(mapped, held, scatter, start, stop)
            self._forget(stop - start)

    def _forget(self, nbytes: int) -> None:
        self._touched += nbytes
        if self._touched >= _KEPT:
            self._touched = 0
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)


def _gather(mapped: mmap.mmap, held: Held, scatter: Scatter, start: int, stop: int) -> memoryview:
    stretches = [part for stretch in scatter.stretches(start, stop) for part in locate(stretch, held.pieces)]
    if len(stretches) == 1 and stretches[0].rows == 1:
        offset = stretches[0].offset
        return memoryview(mapped)[offset : offset + stop - start]
    chunk: Array = np.empty(stop - start, np.uint8)
    position = 0
    for stretch in stretches:
        chunk[position : position + stretch.nbytes].reshape(stretch.rows, stretch.run)[:] = _rows(
            mapped, stretch
        )
        position += stretch.nbytes
    return chunk.data


def _rows(mapped: mmap.mmap, stretch: Stretch) -> Array:
    rows: Array = np.ndarray(
        (stretch.rows, stretch.run),
        np.uint8,
        mapped,
        offset=stretch.offset,
        strides=(stretch.stride, 1),
    )
    return rows
