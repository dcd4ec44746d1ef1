"""A file of known layout whose bytes come in any order and from many threads."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from orchestrator.checkpoint.file_layout import FileLayout, Piece
from orchestrator.checkpoint.scatter import Stretch, locate
from orchestrator.checkpoint.tensor import Array

__all__ = ["PlacedFile"]

# Below this length of a run, a copy into the mapped file beats a system call for each run.
_SHORT_RUN = 64 << 10
_MOST_MAPPED = 16 << 20
_READ = 4 << 20


class PlacedFile:
    """Open for reading and writing; every OSError is let out, the caller maps them."""

    def __init__(self, path: Path, layout: FileLayout, *, keep: bool) -> None:
        """Preallocate and write the format's own bytes; `keep` what an earlier collection has written."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not keep:
                os.ftruncate(self._descriptor, 0)
            if layout.size:
                # Real blocks and no hole: a full disk is an error here, not a SIGBUS in a mapping later.
                os.posix_fallocate(self._descriptor, 0, layout.size)
            for offset, frame in layout.frames:
                _write_at(self._descriptor, memoryview(frame), offset)
        except BaseException:
            os.close(self._descriptor)
            raise

    def put(self, places: tuple[Piece, ...], stretches: Iterable[Stretch], data: memoryview) -> None:
        """Write the stretches of the tensor that lies at `places`; `data` are their bytes in that order."""
        position = 0
        for stretch in stretches:
            for part in locate(stretch, places):
                _put(self._descriptor, part, data[position : position + part.nbytes])
                position += part.nbytes

    def crc(self, places: tuple[Piece, ...], stretches: Iterable[Stretch]) -> int:
        """The crc32 of what `put` would have to be given to write what is there."""
        value = 0
        for stretch in stretches:
            for part in locate(stretch, places):
                value = _crc(self._descriptor, part, value)
        return value

    def write_back(self) -> None:
        """Have the disk take what was written so far."""
        os.fdatasync(self._descriptor)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _put(descriptor: int, stretch: Stretch, data: memoryview) -> None:
    if stretch.rows > 1 and stretch.run < _SHORT_RUN:
        done = 0
        for part in _windows(stretch):
            with mmap.mmap(descriptor, _span(part)[1], offset=_span(part)[0]) as mapped:
                rows = _rows(part, mapped)
                rows[:] = np.frombuffer(data[done : done + part.nbytes], np.uint8).reshape(rows.shape)
                # The mapping cannot be closed while an array looks at it.
                del rows
            done += part.nbytes
        return
    for row in range(stretch.rows):
        run = data[row * stretch.run : (row + 1) * stretch.run]
        _write_at(descriptor, run, stretch.offset + row * stretch.stride)


def _crc(descriptor: int, stretch: Stretch, value: int) -> int:
    if stretch.rows > 1 and stretch.run < _SHORT_RUN:
        for part in _windows(stretch):
            offset, length = _span(part)
            with mmap.mmap(descriptor, length, offset=offset, access=mmap.ACCESS_READ) as mapped:
                value = zlib.crc32(np.ascontiguousarray(_rows(part, mapped)).data, value)
        return value
    for row in range(stretch.rows):
        begin = stretch.offset + row * stretch.stride
        for offset in range(begin, begin + stretch.run, _READ):
            value = zlib.crc32(os.pread(descriptor, min(_READ, begin + stretch.run - offset), offset), value)
    return value


def _windows(stretch: Stretch) -> Iterator[Stretch]:
    """The stretch in parts, none of which maps more of the file than is to be in memory."""
    rows = max(1, _MOST_MAPPED // stretch.stride)
    for first in range(0, stretch.rows, rows):
        offset = stretch.offset + first * stretch.stride
        yield Stretch(offset, stretch.run, stretch.stride, min(rows, stretch.rows - first))


def _span(stretch: Stretch) -> tuple[int, int]:
    """Offset and length of the mapping that holds a stretch."""
    into = stretch.offset % mmap.ALLOCATIONGRANULARITY
    return stretch.offset - into, into + (stretch.rows - 1) * stretch.stride + stretch.run


def _rows(stretch: Stretch, mapped: mmap.mmap) -> Array:
    into = stretch.offset % mmap.ALLOCATIONGRANULARITY
    shape, strides = (stretch.rows, stretch.run), (stretch.stride, 1)
    return np.ndarray(shape, np.uint8, mapped, offset=into, strides=strides)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
