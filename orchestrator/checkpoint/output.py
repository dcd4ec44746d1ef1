"""The output of a collection: every byte is written once, at its final place, in whatever order it comes.

An output that is made in one go: whole, or nothing is left of it.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.checkpoint.atomic import mapped_errors, sync_folder
from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.journal import Journal
from orchestrator.checkpoint.placed_file import PlacedFile
from orchestrator.checkpoint.target import OutputLayout
from orchestrator.core.errors import CheckpointError

__all__ = [
    "FreeSpace",
    "OutputFiles",
    "discard",
    "free_space",
    "new_output",
]

FreeSpace = Callable[[Path], int]

# Room for the file system's own records, and for the logs of whoever runs this.
_MARGIN = 16 << 20


def free_space(folder: Path) -> int:
    """Bytes that may be written to the file system of `folder`."""
    return shutil.disk_usage(folder).free


class OutputFiles:
    """A checkpoint file, or a folder of them, of known layout that is filled from many threads.

    It grows under a temporary name beside `path`. `finish` puts it in place once all bytes of all tensors are
    there; leaving a `with` block before keeps it for the next time, or until `discard`. `keep`: what an
    earlier collection of the same layout has written is still of use. `durable`: a file under its final name
    is on the disk and survives a power cut. CheckpointError: no room, cannot be written. One writer at a time
    is the caller's business.
    """

    def __init__(
        self,
        path: Path,
        layout: OutputLayout,
        *,
        keep: bool = False,
        durable: bool = True,
        free: FreeSpace = free_space,
    ) -> None:
        self.path = path
        self.layout = layout
        self.temporary = _temporary(path)
        self._durable = durable
        self._missing = [target.source.nbytes for target in layout.targets]
        self._lock = threading.Lock()
        self._files: list[PlacedFile] = []
        with mapped_errors(path):
            self._check(free)
            try:
                self._open(keep)
            except BaseException:
                self._close()
                raise

    def _check(self, free: FreeSpace) -> None:
        if self.layout.is_folder and os.path.lexists(self.path):
            raise CheckpointError("exists already", where=str(self.path), remedy="name a new folder")
        if self.path.is_dir():
            raise CheckpointError("is a folder", where=str(self.path), remedy="name a file")
        have, need = free(self.path.parent), self.layout.size - _allocated(self.temporary) + _MARGIN
        if have < need:
            raise CheckpointError(
                f"needs {need / 1e9:.2f} GB and {self.path.parent} has {have / 1e9:.2f} GB free",
                where=str(self.path),
                remedy="free some space or choose another folder",
            )

    def _open(self, keep: bool) -> None:
        if self.temporary.is_dir() != self.layout.is_folder or not keep:
            _remove(self.temporary)
        if self.layout.is_folder:
            self.temporary.mkdir(exist_ok=True)
        for name, layout in self.layout.files:
            self._files.append(PlacedFile(self.temporary / name, layout, keep=keep))

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def put(self, tensor: int, region: Region, start: int, data: memoryview) -> memoryview:
        """Write the bytes of a slice from its byte `start` on; returns them as they were written.

        `start` and the end are multiples of the target's `unit`.
        """
        target = self.layout.targets[tensor]
        written = target.arrange(region, data)
        with mapped_errors(self.path):
            self._file(target.file).put(target.places, target.stretches(region, start, len(data)), written)
        self.account(tensor, len(data))
        return written

    def crc(self, tensor: int, region: Region, start: int, nbytes: int) -> int:
        """The crc32 of what is there of that part of a slice: of what `put` returned when it was written."""
        target = self.layout.targets[tensor]
        with mapped_errors(self.path):
            return self._file(target.file).crc(target.places, target.stretches(region, start, nbytes))

    def account(self, tensor: int, nbytes: int) -> None:
        """Note that so many bytes more of a tensor, as the shards have it, are in place."""
        with self._lock:
            self._missing[tensor] -= nbytes

    def write_back(self) -> None:
        """Have the disk take what was written so far; so `finish` is not kept waiting for all of it."""
        with mapped_errors(self.path):
            for file in list(self._files) if self._durable else ():
                file.write_back()

    def finish(self) -> None:
        """Put the output in place, on the disk if `durable`. CheckpointError: a tensor is not complete."""
        targets = self.layout.targets
        wrong = [(t.source.name, n) for t, n in zip(targets, self._missing, strict=True) if n]
        if wrong:
            name, missing = wrong[0]
            raise CheckpointError(
                f"{missing} bytes of {name} are missing, {len(wrong)} tensors in all are incomplete",
                where=str(self.path),
            )
        with mapped_errors(self.path):
            self._file(0)
            for file in self._files if self._durable else ():
                file.sync()
            for name, text in self.layout.texts:
                (self.temporary / name).write_bytes(text)
            self._close()
            if self.layout.is_folder and self._durable:
                sync_folder(self.temporary)
            os.replace(self.temporary, self.path)
            if self._durable:
                sync_folder(self.path.parent)

    def _file(self, number: int) -> PlacedFile:
        if not self._files:
            raise CheckpointError("is closed already", where=str(self.path))
        return self._files[number]

    def _close(self) -> None:
        files, self._files = self._files, []
        for file in files:
            file.close()


def discard(path: Path) -> None:
    """Remove what an unfinished collection to `path` has left."""
    with mapped_errors(path):
        _remove(_temporary(path))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _allocated(path: Path) -> int:
    """What a file, or the files of a folder, take of the disk."""
    files = path.glob("*") if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


@contextmanager
def new_output(path: Path, layout: OutputLayout, *, free: FreeSpace = free_space) -> Iterator[OutputFiles]:
    """An output to fill, put in place if the block ends well.

    CheckpointError: no room, a tensor that is not complete, or somebody else is writing it.
    """
    journal = Journal(path)
    try:
        with OutputFiles(path, layout, free=free) as output:
            yield output
            output.finish()
    finally:
        discard(path)
        journal.remove()
        journal.close()
