"""A file of known layout that is filled in any order and from many threads.

Short runs are written through windows mapped into memory, of which the last few are kept: faulting pages in
is what costs.
"""

from __future__ import annotations

import mmap
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from orchestrator.checkpoint.atomic import open_own
from orchestrator.checkpoint.files.tensor_files import FileLayout, Span
from orchestrator.checkpoint.files.tensor_types import Array
from orchestrator.checkpoint.spans import StridedSpan, locate

__all__ = [
    "WINDOW",
    "PlacedFile",
    "Windows",
]

WINDOW = 8 << 20
_KEPT = 6


class Windows:
    """Windows of `WINDOW` bytes, aligned to that, of one file of `size` bytes; from any number of threads."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._lock = threading.Lock()
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._users: dict[int, int] = {}

    @contextmanager
    def window(self, number: int) -> Iterator[mmap.mmap]:
        """The mapping of window `number`; nothing may look at it after the block."""
        with self._lock:
            if number not in self._maps:
                self._maps[number] = self._map(number)
            self._maps.move_to_end(number)
            self._users[number] = self._users.get(number, 0) + 1
            mapped = self._maps[number]
        try:
            yield mapped
        finally:
            with self._lock:
                self._users[number] -= 1
                self._forget()

    def _map(self, number: int) -> mmap.mmap:
        start = number * WINDOW
        return mmap.mmap(self._descriptor, min(WINDOW, self._size - start), offset=start)

    def _forget(self) -> None:
        for number in list(self._maps):
            if len(self._maps) <= _KEPT:
                return
            if not self._users[number]:
                self._maps.pop(number).close()
                del self._users[number]

    def close(self) -> None:
        while self._maps:
            self._maps.popitem()[1].close()


# Below this length of a run, a copy into the mapped file beats a system call for each run.
_SHORT_RUN = 64 << 10
_READ = 4 << 20


class PlacedFile:
    """Open for reading and writing; every OSError is let out, the caller maps them."""

    def __init__(self, path: Path, layout: FileLayout, below: Path | None = None) -> None:
        """Preallocate and write the format's own bytes; what is there of the tensors' stays.

        No link is followed from the folder `below` (default: the file's own) on.
        """
        self._descriptor = open_own(path, below)
        self._checksums = layout.checksums
        self._windows = Windows(self._descriptor, layout.size)
        try:
            if layout.size:
                # Real blocks and no hole: a full disk is an error here, not a SIGBUS in a mapping later.
                os.posix_fallocate(self._descriptor, 0, layout.size)
            for offset, frame in layout.frames:
                _write_at(self._descriptor, memoryview(frame), offset)
        except BaseException:
            os.close(self._descriptor)
            raise

    def put(self, spans: tuple[Span, ...], parts: Iterable[StridedSpan], data: memoryview) -> None:
        """Write parts of the tensor whose bytes are the `spans`; `data` are theirs in that order."""
        position = 0
        for located in parts:
            for part in locate(located, spans):
                self._put(part, data[position : position + part.nbytes])
                position += part.nbytes

    def crc(self, spans: tuple[Span, ...], parts: Iterable[StridedSpan]) -> int:
        """The crc32 of what `put` would have to be given to write what is there."""
        value = 0
        for located in parts:
            for part in locate(located, spans):
                value = self._crc(part, value)
        return value

    def _put(self, span: StridedSpan, data: memoryview) -> None:
        if span.rows > 1 and span.run < _SHORT_RUN:
            for number, first, last in _by_window(span):
                part = data[first * span.run : last * span.run]
                if number < 0:
                    _write_at(self._descriptor, part, span.offset + first * span.stride)
                    continue
                with self._windows.window(number) as mapped:
                    rows = _rows(span, first, last, mapped)
                    rows[:] = np.frombuffer(part, np.uint8).reshape(rows.shape)
                    # The mapping cannot be closed while an array looks at it.
                    del rows
            return
        for row in range(span.rows):
            run = data[row * span.run : (row + 1) * span.run]
            _write_at(self._descriptor, run, span.offset + row * span.stride)

    def _crc(self, span: StridedSpan, value: int) -> int:
        if span.rows > 1 and span.run < _SHORT_RUN:
            for number, first, last in _by_window(span):
                if number < 0:
                    value = self._crc_run(span.offset + first * span.stride, span.run, value)
                    continue
                with self._windows.window(number) as mapped:
                    # Contiguous rows are looked at and not copied: the array must go before the mapping may.
                    value = zlib.crc32(np.ascontiguousarray(_rows(span, first, last, mapped)).data, value)
            return value
        for row in range(span.rows):
            value = self._crc_run(span.offset + row * span.stride, span.run, value)
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


def _by_window(span: StridedSpan) -> Iterator[tuple[int, int, int]]:
    """Its rows as `(window, first, last)`; a row that no window holds whole has window -1."""
    row = 0
    while row < span.rows:
        begin = span.offset + row * span.stride
        number = begin // WINDOW
        room = (number + 1) * WINDOW - begin
        fitting = (room - span.run) // span.stride + 1 if room >= span.run else 0
        last = min(span.rows, row + max(1, fitting))
        yield (number if fitting else -1), row, last
        row = last


def _rows(span: StridedSpan, first: int, last: int, mapped: mmap.mmap) -> Array:
    into = (span.offset + first * span.stride) % WINDOW
    shape, strides = (last - first, span.run), (span.stride, 1)
    return np.ndarray(shape, np.uint8, mapped, offset=into, strides=strides)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
