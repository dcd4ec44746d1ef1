"""The spans of a file, or of a tensor's bytes, in which a region of the tensor lies. Pure arithmetic.

A region's bytes in C order are runs of the tensor's bytes; those that lie evenly spaced are one strided span,
so that a cut along the last axis of a large matrix is a few copies and not one for every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_files import Span
from orchestrator.checkpoint.files.tensor_types import Spec

__all__ = ["RegionSpans", "StridedSpan", "locate"]


@dataclass(frozen=True, slots=True)
class StridedSpan:
    """`rows` runs of `run` bytes each, the first at byte `offset`, their starts `stride` bytes apart."""

    offset: int
    run: int
    stride: int
    rows: int

    @property
    def nbytes(self) -> int:
        return self.run * self.rows


@dataclass(frozen=True, slots=True)
class RegionSpans:
    """From a region's bytes to the tensor's: its axes are `(size, start, stop)`, the last one in bytes."""

    axes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, dims: Sequence[int], item_size: int, region: Region) -> RegionSpans:
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
    def of_part(cls, spec: Spec, region: Region) -> RegionSpans:
        """Of a part of a tensor; a text has no parts."""
        if spec.dtype == "str":
            return cls(((1, 0, 1), (spec.nbytes, 0, spec.nbytes)))
        return cls.of(spec.dims, spec.item_size, region)

    @property
    def nbytes(self) -> int:
        """The size of the region."""
        total = 1
        for _, start, stop in self.axes:
            total *= stop - start
        return total

    def between(self, start: int, stop: int) -> Iterator[StridedSpan]:
        """Where in the tensor the region's bytes `start` to `stop` are, in their order."""
        (_, first_row, last_row), (width, column, column_end) = self.axes[-2:]
        run, rows = column_end - column, last_row - first_row
        position = start
        while position < stop:
            row, into = divmod(position, run)
            block, row = divmod(row, rows)
            offset = self._block_start(block) + (first_row + row) * width + column + into
            if into or stop - position < run:
                part = StridedSpan(offset, min(run - into, stop - position), width, 1)
            else:
                part = StridedSpan(offset, run, width, min(rows - row, (stop - position) // run))
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


def locate(part: StridedSpan, spans: Sequence[Span]) -> Iterator[StridedSpan]:
    """The same part as offsets of the file in which the tensor's bytes are the `spans`, one after another."""
    if len(spans) == 1:
        yield StridedSpan(spans[0][0] + part.offset, part.run, part.stride, part.rows)
        return
    begin = 0
    ends = []
    for offset, length in spans:
        ends.append((begin, begin + length, offset))
        begin += length
    row, into = 0, 0
    while row < part.rows:
        at = part.offset + row * part.stride + into
        begin, end, offset = next(span for span in ends if at < span[1])
        if into == 0 and at + part.run <= end:
            rows = min(part.rows - row, (end - at - part.run) // part.stride + 1)
            yield StridedSpan(offset + at - begin, part.run, part.stride, rows)
            row += rows
            continue
        length = min(part.run - into, end - at)
        yield StridedSpan(offset + at - begin, length, length, 1)
        into += length
        if into == part.run:
            row, into = row + 1, 0
