"""The output of a copy: every byte is written once, at its final place, in whatever order it comes."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.checkpoint.atomic import mapped_errors, require_own, sync_folder
from orchestrator.checkpoint.copy_options import CopyOptions
from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.journal import Journal
from orchestrator.checkpoint.output_layout import OutputLayout
from orchestrator.checkpoint.placed_file import PlacedFile
from orchestrator.core.errors import CheckpointError

__all__ = ["OutputFiles", "discard", "new_output"]

# Room for the file system's own records, and for the logs of whoever runs this.
_MARGIN = 16 << 20


class OutputFiles:
    """A checkpoint file, or a folder of them, of known layout that is filled from many threads.

    It grows under a temporary name beside `path`. `finish` puts it in place once all bytes of all tensors are
    there; leaving a `with` block before keeps it for the next time, or until `discard`. `keep`: what an
    earlier copy to the same layout has written is still of use. CheckpointError: no room, cannot be written.
    One writer at a time is the caller's business.
    """

    def __init__(
        self, path: Path, layout: OutputLayout, options: CopyOptions | None = None, *, keep: bool = False
    ) -> None:
        options = options or CopyOptions()
        self.path = path
        self.layout = layout
        self.temporary = _temporary(path)
        self._durable = options.durable
        self._missing = [destination.source.nbytes for destination in layout.destinations]
        self._left = [0] * len(layout.files)
        for destination in layout.destinations:
            self._left[destination.file] += destination.source.nbytes
        self._lock = threading.Lock()
        self._files: dict[int, PlacedFile] = {}
        self._completed: set[int] = set()
        self._is_closed = False
        with mapped_errors(path):
            self._check(options)
            self._prepare(keep)

    def _check(self, options: CopyOptions) -> None:
        if self.layout.is_folder and os.path.lexists(self.path):
            raise CheckpointError("exists already", where=str(self.path), remedy="name a new folder")
        if self.path.is_dir():
            raise CheckpointError("is a folder", where=str(self.path), remedy="name a file")
        have, need = options.free(self.path.parent), self.layout.size - _allocated(self.temporary) + _MARGIN
        if have < need:
            raise CheckpointError(
                f"needs {need / 1e9:.2f} GB and {self.path.parent} has {have / 1e9:.2f} GB free",
                where=str(self.path),
                remedy="free some space or choose another folder",
            )

    def _prepare(self, keep: bool) -> None:
        """Have the room of every file now; of several only those that are written are open."""
        if self.temporary.is_dir() != self.layout.is_folder or not keep:
            _remove(self.temporary)
        if self.layout.is_folder:
            self.temporary.mkdir(exist_ok=True)
            require_own(self.temporary)
        for number, (name, _) in enumerate(self.layout.files):
            (self.temporary / name).parent.mkdir(parents=True, exist_ok=True)
            file = self._placed(number)
            if self.layout.is_folder:
                file.close()
            else:
                self._files[0] = file

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def put(self, tensor: int, region: Region, start: int, data: memoryview) -> memoryview:
        """Write the bytes of a region from its byte `start` on; returns them as they were written.

        `start` and the end are multiples of the destination's `unit`.
        """
        destination = self.layout.destinations[tensor]
        written = destination.arrange(region, data)
        with mapped_errors(self.path):
            parts = destination.written(region, start, len(data))
            self._file(destination.file).put(destination.spans, parts, written)
        self.account(tensor, len(data))
        return written

    def crc(self, tensor: int, region: Region, start: int, nbytes: int) -> int:
        """The crc32 of what is there of that part of a region: of what `put` returned when it was written."""
        destination = self.layout.destinations[tensor]
        with mapped_errors(self.path):
            parts = destination.written(region, start, nbytes)
            return self._file(destination.file).crc(destination.spans, parts)

    def account(self, tensor: int, nbytes: int) -> None:
        """Note that so many bytes more of a tensor, as the shards have it, are in place."""
        file = self.layout.destinations[tensor].file
        with self._lock:
            self._missing[tensor] -= nbytes
            self._left[file] -= nbytes
            is_complete = not self._left[file] and len(self.layout.files) > 1
        if is_complete:
            with mapped_errors(self.path):
                self._complete(file)

    def write_back(self) -> None:
        """Have the disk take what was written so far; so `finish` is not kept waiting for all of it."""
        with self._lock:
            files = list(self._files.values()) if self._durable else []
        with mapped_errors(self.path):
            for file in files:
                file.write_back()

    def finish(self) -> None:
        """Put the output in place, on the disk if it is to be. CheckpointError: a tensor is not complete."""
        names = (destination.source.name for destination in self.layout.destinations)
        wrong = [(name, missing) for name, missing in zip(names, self._missing, strict=True) if missing]
        if wrong:
            name, missing = wrong[0]
            raise CheckpointError(
                f"{missing} bytes of {name} are missing, {len(wrong)} tensors in all are incomplete",
                where=str(self.path),
            )
        with mapped_errors(self.path):
            for number in range(len(self.layout.files)):
                if number not in self._completed:
                    self._complete(number)
            for name, text in self.layout.texts:
                (self.temporary / name).write_bytes(text)
            self._close()
            self._put_in_place()

    def _put_in_place(self) -> None:
        if self._durable and self.layout.is_folder:
            folders = {(self.temporary / name).parent for name, _ in self.layout.files}
            for folder in (*folders, self.temporary):
                sync_folder(folder)
        os.replace(self.temporary, self.path)
        if self._durable:
            sync_folder(self.path.parent)

    def _file(self, number: int) -> PlacedFile:
        with self._lock:
            if self._is_closed:
                raise CheckpointError("is closed already", where=str(self.path))
            if number not in self._files:
                self._files[number] = self._placed(number)
            return self._files[number]

    def _placed(self, number: int) -> PlacedFile:
        name, layout = self.layout.files[number]
        return PlacedFile(self.temporary / name, layout, self.path.parent)

    def _complete(self, number: int) -> None:
        """All bytes of a file are in place: of many files only those that are written are open."""
        file = self._file(number)
        file.seal()
        if self._durable:
            file.sync()
        with self._lock:
            self._completed.add(number)
            del self._files[number]
        file.close()

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
            files, self._files = list(self._files.values()), {}
        for file in files:
            file.close()


def discard(path: Path) -> None:
    """Remove what an unfinished copy to `path` has left."""
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
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


@contextmanager
def new_output(path: Path, layout: OutputLayout, options: CopyOptions) -> Iterator[OutputFiles]:
    """An output to fill, put in place if the block ends well; else nothing is left of it.

    CheckpointError: no room, a tensor that is not complete, or somebody else is writing it.
    """
    journal = Journal(path)
    try:
        with OutputFiles(path, layout, options) as output:
            yield output
            output.finish()
    finally:
        discard(path)
        journal.remove()
        journal.close()
