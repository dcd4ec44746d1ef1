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
from orchestrator.checkpoint.windows import WINDOW, Windows

__all__ = ["PlacedFile"]

# Below this length of a run, a copy into the mapped file beats a system call for each run.
_SHORT_RUN = 64 << 10
_READ = 4 << 20


class PlacedFile:
    """Open for reading and writing; every OSError is let out, the caller maps them."""

    def __init__(self, path: Path, layout: FileLayout, *, keep: bool) -> None:
        """Preallocate and write the format's own bytes; `keep` what an earlier collection has written."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._checksums = layout.checksums
        self._windows = Windows(self._descriptor, layout.size)
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
                self._put(part, data[position : position + part.nbytes])
                position += part.nbytes

    def crc(self, places: tuple[Piece, ...], stretches: Iterable[Stretch]) -> int:
        """The crc32 of what `put` would have to be given to write what is there."""
        value = 0
        for stretch in stretches:
            for part in locate(stretch, places):
                value = self._crc(part, value)
        return value

    def _put(self, stretch: Stretch, data: memoryview) -> None:
        if stretch.rows > 1 and stretch.run < _SHORT_RUN:
            for number, first, last in _by_window(stretch):
                part = data[first * stretch.run : last * stretch.run]
                if number < 0:
                    _write_at(self._descriptor, part, stretch.offset + first * stretch.stride)
                    continue
                with self._windows.window(number) as mapped:
                    rows = _rows(stretch, first, last, mapped)
                    rows[:] = np.frombuffer(part, np.uint8).reshape(rows.shape)
                    # The mapping cannot be closed while an array looks at it.
                    del rows
            return
        for row in range(stretch.rows):
            run = data[row * stretch.run : (row + 1) * stretch.run]
            _write_at(self._descriptor, run, stretch.offset + row * stretch.stride)

    def _crc(self, stretch: Stretch, value: int) -> int:
        if stretch.rows > 1 and stretch.run < _SHORT_RUN:
            for number, first, last in _by_window(stretch):
                if number < 0:
                    value = self._crc_run(stretch.offset + first * stretch.stride, stretch.run, value)
                    continue
                with self._windows.window(number) as mapped:
                    # Contiguous rows are looked at and not copied: the array must go before the mapping may.
                    value = zlib.crc32(np.ascontiguousarray(_rows(stretch, first, last, mapped)).data, value)
            return value
        for row in range(stretch.rows):
            value = self._crc_run(stretch.offset + row * stretch.stride, stretch.run, value)
        return value

    def _crc_run(self, begin: int, length: int, value: int) -> int:
        for offset in range(begin, begin + length, _READ):
            data = os.pread(self._descriptor, min(_READ, begin + length - offset), offset)
            value = zlib.crc32(data, value)
        return value

    def seal(self) -> None:
        """Write the checksums that the format has, now that all bytes are there."""
        for checksum in self._checksums:
            value = self._crc_run(checksum.offset, checksum.length, 0).to_bytes(4, "little")
            for offset in checksum.at:
                _write_at(self._descriptor, memoryview(value), offset)

    def write_back(self) -> None:
        """Have the disk take what was written so far."""
        os.fdatasync(self._descriptor)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        self._windows.close()
        os.close(self._descriptor)


def _by_window(stretch: Stretch) -> Iterator[tuple[int, int, int]]:
    """The rows of a stretch as `(window, first, last)`; a row that no window holds whole has window -1."""
    row = 0
    while row < stretch.rows:
        begin = stretch.offset + row * stretch.stride
        number = begin // WINDOW
        room = (number + 1) * WINDOW - begin
        fitting = (room - stretch.run) // stretch.stride + 1 if room >= stretch.run else 0
        last = min(stretch.rows, row + max(1, fitting))
        yield (number if fitting else -1), row, last
        row = last


def _rows(stretch: Stretch, first: int, last: int, mapped: mmap.mmap) -> Array:
    into = (stretch.offset + first * stretch.stride) % WINDOW
    shape, strides = (last - first, stretch.run), (stretch.stride, 1)
    return np.ndarray(shape, np.uint8, mapped, offset=into, strides=strides)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
