"""The files that a conversion writes: there whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from orchestrator.checkpoint.atomic import mapped_errors, sync_folder, temporary_name
from orchestrator.checkpoint.placed_file import PlacedFile
from orchestrator.checkpoint.spans import Stretch
from orchestrator.checkpoint.target import OutputLayout, Target
from orchestrator.core.errors import CheckpointError

__all__ = ["WeightsOutput"]

_MARGIN = 16 << 20


class WeightsOutput:
    """A file or folder of known layout, filled from several threads under a temporary name.

    `finish` puts it in place; leaving the `with` block before that removes it. `flush` False leaves it to the
    system when the bytes reach the disk, as `cp` does. CheckpointError: no room, cannot be written.
    """

    def __init__(self, path: Path, layout: OutputLayout, *, flush: bool = True) -> None:
        self.path = path
        self._layout, self._flush = layout, flush
        self._temporary = temporary_name(path)
        self._files: list[PlacedFile] = []
        self._flusher = _Flusher(self._files) if flush else None
        with mapped_errors(path):
            self._check()
            try:
                self._open()
            except BaseException:
                self._remove()
                raise

    def _check(self) -> None:
        if self._layout.is_folder and os.path.lexists(self.path):
            raise CheckpointError("exists already", where=str(self.path), remedy="name a new folder")
        if self.path.is_dir():
            raise CheckpointError("is a folder", where=str(self.path), remedy="name a file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        have, need = shutil.disk_usage(self.path.parent).free, self._layout.size + _MARGIN
        if have < need:
            raise CheckpointError(
                f"needs {need / 1e9:.2f} GB and {self.path.parent} has {have / 1e9:.2f} GB free",
                where=str(self.path),
                remedy="free some space or choose another folder",
            )

    def _open(self) -> None:
        if self._layout.is_folder:
            self._temporary.mkdir()
        for name, layout in self._layout.files:
            self._files.append(PlacedFile(self._temporary / name, layout, keep=False))

    def __enter__(self) -> WeightsOutput:
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def put(self, target: Target, offset: int, data: memoryview) -> None:
        """Write bytes of a tensor from its byte `offset` on, in the type that it has in the output."""
        with mapped_errors(self.path):
            stretch = Stretch(offset, len(data), len(data), 1)
            self._files[target.file].put(target.places, [stretch], data)
        if self._flusher:
            self._flusher.note(len(data))

    def finish(self) -> None:
        """Flush to the disk and put the output in place."""
        with mapped_errors(self.path):
            if self._flusher:
                self._flusher.close()
            for file in self._files:
                file.seal()
                if self._flush:
                    file.sync()
            for name, text in self._layout.texts:
                (self._temporary / name).write_bytes(text)
            self._close()
            if self._layout.is_folder:
                sync_folder(self._temporary)
            os.replace(self._temporary, self.path)
            sync_folder(self.path.parent)

    def _close(self) -> None:
        if self._flusher:
            self._flusher.close()
        files, self._files[:] = list(self._files), []
        for file in files:
            file.close()

    def _remove(self) -> None:
        self._close()
        if self._temporary.is_dir():
            shutil.rmtree(self._temporary)
        else:
            self._temporary.unlink(missing_ok=True)


class _Flusher:
    """Has the disk take what is written while more is written, so that the end is not one long wait."""

    EVERY = 128 << 20

    def __init__(self, files: list[PlacedFile]) -> None:
        self._files = files
        self._waiting = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def note(self, nbytes: int) -> None:
        with self._changed:
            self._waiting += nbytes
            self._changed.notify()

    def close(self) -> None:
        """Nothing is flushed any more when this returns."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting >= self.EVERY)
                if self._closed:
                    return
                self._waiting = 0
            for file in list(self._files):
                try:
                    file.write_back()
                except OSError:
                    # The flush at the end meets it again, and says so.
                    return
