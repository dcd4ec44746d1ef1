"""The output of a collection: every byte is written once, at its final place, in whatever order it comes."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from orchestrator.checkpoint.atomic import mapped_errors, sync_folder
from orchestrator.checkpoint.file_layout import FileLayout
from orchestrator.checkpoint.layout import Region
from orchestrator.checkpoint.scatter import Scatter, Stretch, locate
from orchestrator.checkpoint.tensor import Array, Spec
from orchestrator.errors import CheckpointError

__all__ = ["FreeSpace", "OutputFile", "SliceWriter", "free_space"]

FreeSpace = Callable[[Path], int]

# Room for the file system's own records, and for the logs of whoever runs this.
_MARGIN = 16 << 20
# Below this length of a run, a copy into the mapped file beats a system call for each run.
_SHORT_RUN = 64 << 10
_MOST_MAPPED = 64 << 20


def free_space(folder: Path) -> int:
    """Bytes that may be written to the file system of `folder`."""
    return shutil.disk_usage(folder).free


class OutputFile:
    """A checkpoint file of known layout that is filled from many threads.

    It grows under a temporary name beside `path`. `finish` puts it in place once all bytes of all tensors are
    there; `abort`, or leaving a `with` block before, removes it. CheckpointError: no room, cannot be written.
    """

    def __init__(
        self, path: Path, specs: Sequence[Spec], layout: FileLayout, *, free: FreeSpace = free_space
    ) -> None:
        self.path = path
        self._specs = tuple(specs)
        self._layout = layout
        self._missing = [spec.nbytes for spec in specs]
        self._lock = threading.Lock()
        # One name for all: a collection that was killed leaves a file that the next one takes over.
        self._temporary = path.with_name(f".{path.name}.part")
        self._descriptor: int | None = None
        with mapped_errors(path):
            self._check_space(free)
            try:
                self._open()
            except BaseException:
                self.abort()
                raise

    def _check_space(self, free: FreeSpace) -> None:
        if self.path.is_dir():
            raise CheckpointError("is a folder", where=str(self.path), remedy="name a file")
        have, need = free(self.path.parent), self._layout.size + _MARGIN
        if have < need:
            raise CheckpointError(
                f"needs {need / 1e9:.2f} GB and {self.path.parent} has {have / 1e9:.2f} GB free",
                where=str(self.path),
                remedy="free some space or choose another folder",
            )

    def _open(self) -> None:
        self._descriptor = self._claim()
        os.ftruncate(self._descriptor, 0)
        if self._layout.size:
            # Real blocks and no hole: a full disk is an error here, not a SIGBUS in a mapping later.
            os.posix_fallocate(self._descriptor, 0, self._layout.size)
        for offset, frame in self._layout.frames:
            _write_at(self._descriptor, memoryview(frame), offset)

    def _claim(self) -> int:
        descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The owner before may have put the file in place between our open and our lock.
            if os.stat(self._temporary).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        raise CheckpointError("is being written by another collection", where=str(self.path))

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def slice(self, tensor: int, region: Region, start: int = 0) -> SliceWriter:
        """A writer for one region of tensor number `tensor`, from byte `start` of the slice on."""
        spec = self._specs[tensor]
        if spec.dtype == "str":
            return SliceWriter(self, tensor, Scatter(((1, 0, 1), (spec.nbytes, 0, spec.nbytes))), start)
        return SliceWriter(self, tensor, Scatter.of(spec.dims, spec.item_size, region), start)

    def put(self, tensor: int, stretch: Stretch, data: memoryview) -> None:
        """Write a stretch of a tensor's bytes; for `SliceWriter`."""
        if self._descriptor is None:
            raise CheckpointError("is closed already", where=str(self.path))
        position = 0
        with mapped_errors(self.path):
            for part in locate(stretch, self._layout.places[tensor]):
                _put(self._descriptor, part, data[position : position + part.nbytes])
                position += part.nbytes

    def account(self, tensor: int, nbytes: int) -> None:
        """Note that so many bytes more of a tensor are in place."""
        with self._lock:
            self._missing[tensor] -= nbytes

    def finish(self) -> None:
        """Flush to the disk and put the file in place; CheckpointError where a tensor is not complete."""
        wrong = [(s.name, n) for s, n in zip(self._specs, self._missing, strict=True) if n]
        if wrong:
            name, missing = wrong[0]
            self.abort()
            raise CheckpointError(
                f"{missing} bytes of {name} are missing, {len(wrong)} tensors in all are incomplete",
                where=str(self.path),
            )
        with mapped_errors(self.path):
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is None:
                raise CheckpointError("is closed already", where=str(self.path))
            try:
                os.fsync(descriptor)
                os.replace(self._temporary, self.path)
            except BaseException:
                self._temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
            sync_folder(self.path.parent)

    def abort(self) -> None:
        """Remove what was written; nothing happens after `finish` or a second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._temporary.unlink(missing_ok=True)
            os.close(descriptor)


class SliceWriter:
    """Takes the bytes of a slice in their order, in chunks of any size."""

    def __init__(self, output: OutputFile, tensor: int, scatter: Scatter, start: int) -> None:
        self._output = output
        self._tensor = tensor
        self._scatter = scatter
        self._start = start
        self._position = start

    @property
    def received(self) -> int:
        """Bytes written since the beginning, or since `rewind`."""
        return self._position - self._start

    def write(self, data: bytes | memoryview) -> None:
        """Put the next bytes in place; CheckpointError where there are more than the slice has."""
        view = memoryview(data)
        stop = self._position + len(view)
        if stop > self._scatter.nbytes:
            raise CheckpointError(f"got {stop} bytes of a slice of {self._scatter.nbytes}")
        first = self._position
        for stretch in self._scatter.stretches(first, stop):
            at = self._position - first
            self._output.put(self._tensor, stretch, view[at : at + stretch.nbytes])
            self._position += stretch.nbytes

    def rewind(self) -> None:
        """Start again: what is written next overwrites what came before."""
        self._position = self._start

    def done(self) -> None:
        """Count what was received as in place, once."""
        self._output.account(self._tensor, self.received)
        self._start = self._position


def _put(descriptor: int, stretch: Stretch, data: memoryview) -> None:
    if stretch.rows > 1 and stretch.run < _SHORT_RUN:
        rows = max(1, _MOST_MAPPED // stretch.stride)
        for first in range(0, stretch.rows, rows):
            part = Stretch(
                stretch.offset + first * stretch.stride,
                stretch.run,
                stretch.stride,
                min(rows, stretch.rows - first),
            )
            _copy_rows(descriptor, part, data[first * stretch.run : (first + part.rows) * stretch.run])
        return
    for row in range(stretch.rows):
        run = data[row * stretch.run : (row + 1) * stretch.run]
        _write_at(descriptor, run, stretch.offset + row * stretch.stride)


def _copy_rows(descriptor: int, stretch: Stretch, data: memoryview) -> None:
    into = stretch.offset % mmap.ALLOCATIONGRANULARITY
    length = into + (stretch.rows - 1) * stretch.stride + stretch.run
    with mmap.mmap(descriptor, length, offset=stretch.offset - into) as mapped:
        rows: Array = np.ndarray(
            (stretch.rows, stretch.run), np.uint8, mapped, offset=into, strides=(stretch.stride, 1)
        )
        rows[:] = np.frombuffer(data, np.uint8).reshape(rows.shape)
        # The mapping cannot be closed while an array looks at it.
        del rows


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
