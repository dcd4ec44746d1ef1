"""The files beside an output: which of those that are there may be replaced, and the putting of new ones.

A folder that a person names may hold another model, with its own `config.yaml` and `tokenizer.json`, and
other files. Replaced is only what this tool put there for the same output, as its manifest says. All else is
named before a byte is moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from re import Pattern

from orchestrator.checkpoint.atomic import mapped_errors, require_own
from orchestrator.checkpoint.collection_manifest import Earlier, manifest_path, read_earlier
from orchestrator.checkpoint.open_checkpoint import open_checkpoint
from orchestrator.core.errors import CheckpointError
from orchestrator.core.paths import replacing
from orchestrator.core.safe_open import open_safely

__all__ = ["BesideOutput", "Put", "SmallFile", "require_own_output", "require_same_names"]

_CHECKPOINTS = (".ckpt", ".safetensors", ".bin", ".pt", ".pth")
_BLOCK = 1 << 20
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file that is not in memory, or is small: `read` gives its content in pieces, again each time."""

    sha256: str
    size: int
    read: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, data: bytes) -> SmallFile:
        return cls(hashlib.sha256(data).hexdigest(), len(data), lambda: (data,))

    def content(self) -> bytes:
        """All of it at once, for who has to parse it."""
        return b"".join(self.read())


@dataclass(frozen=True, slots=True)
class Put:
    """The files beside the output: those written, those that had been there already, those removed."""

    written: tuple[Path, ...] = ()
    unchanged: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class BesideOutput:
    """Files to put beside `output`, by their path from the folder that it is in.

    `folders` are those of the output's own name, with what the names of our files in them look like. Nothing
    else may be in them: it would mix with what is put there. The files of those that are `filled_later` are
    not among `files`: what an earlier copy has left there stays until another takes its place.
    """

    output: Path
    files: Mapping[str, SmallFile] = field(default_factory=dict)
    folders: Mapping[str, Pattern[str]] = field(default_factory=dict)
    filled_later: frozenset[str] = frozenset()

    def require_free(self) -> Earlier | None:
        """Raise CheckpointError, which names them, where files that are not ours would be replaced.

        What `put` is to be given: an earlier copy to this output, which tells what is ours.
        """
        if self.output.name in self.files:
            what = "is the name of a file that belongs beside it"
            raise CheckpointError(what, where=str(self.output), remedy="name another output")
        with mapped_errors(self.output):
            earlier = read_earlier(self.output)
            self._require(earlier)
        return earlier

    def _require(self, earlier: Earlier | None) -> None:
        foreign = [name for name in self._there() if not self._may_go(name, earlier)]
        if foreign:
            shown = ", ".join(foreign[:_MOST_NAMED]) + (" …" if len(foreign) > _MOST_NAMED else "")
            raise CheckpointError(
                f"{shown} in {self.output.absolute().parent} would be replaced or removed, but did"
                " not come from an earlier copy to this output",
                where=str(self.output),
                remedy="name an output in another folder, or move them away",
            )

    def put(self, earlier: Earlier | None) -> Put:
        """Write what is not there yet, and remove what the `earlier` copy has left in our folders.

        CheckpointError: as from `require_free`, or a file that cannot be written.
        """
        written, unchanged, removed = [], [], []
        with mapped_errors(self.output):
            self._require(earlier)
            for name in self._there():
                if name not in self.files and name.rpartition("/")[0] not in self.filled_later:
                    removed.append(self._path(name))
                    self._path(name).unlink()
            for name, file in self.files.items():
                path = self._path(name)
                if _digest(path, file.size) == file.sha256:
                    unchanged.append(path)
                    continue
                path.parent.mkdir(exist_ok=True)
                with replacing(path, 0o644) as target:
                    for piece in file.read():
                        target.write(piece)
                written.append(path)
        return Put(tuple(written), tuple(unchanged), tuple(removed))

    def folder(self, name: str) -> Path:
        """One of our folders, made if it is not there."""
        path = self._path(name)
        with mapped_errors(path):
            path.mkdir(exist_ok=True)
            require_own(path)
        return path

    def _path(self, name: str) -> Path:
        return self.output.parent / name

    def _there(self) -> Iterator[str]:
        """What is there under our names, and all that is in our folders."""
        for name in self.files:
            if "/" not in name and os.path.lexists(self._path(name)):
                yield name
        for folder in self.folders:
            path = self._path(folder)
            if os.path.lexists(path):
                require_own(path)
                yield from sorted(f"{folder}/{entry}" for entry in os.listdir(path))

    def _may_go(self, name: str, earlier: Earlier | None) -> bool:
        file, path = self.files.get(name), self._path(name)
        if file is not None and _digest(path, file.size) == file.sha256:
            return True
        if earlier is None or path.is_symlink() or not path.is_file():
            return False
        if name in earlier.beside:
            is_ours = _digest(path) == earlier.beside[name]
            return is_ours and ("/" in name or not _other_checkpoints(self.output))
        folder, _, base = name.rpartition("/")
        # What a version without this list has put there, and logs, which grow: by their names.
        is_listed = any(known.startswith(f"{folder}/") for known in earlier.beside)
        return bool(folder) and not is_listed and bool(self.folders[folder].fullmatch(base))


def require_own_output(output: Path, source: str) -> None:
    """Raise CheckpointError where what is at `output` was not collected from the same source."""
    with mapped_errors(output):
        earlier = read_earlier(output)
        if os.path.lexists(manifest_path(output)) and earlier is None:
            what = "is there and no manifest of ours"
            raise CheckpointError(what, where=str(manifest_path(output)), remedy="name another output")
        if not os.path.lexists(output) or output.is_dir():
            return  # of a folder, who writes the output says that it is in the way
        if earlier is None or output.is_symlink() or not earlier.fits(output):
            what = "is there already, and no file that was collected"
        elif earlier.source != source:
            what = f"is there already: step {earlier.step} of {earlier.source or 'another run'}"
        else:
            return
    raise CheckpointError(what, where=str(output), remedy="name another output, or move it away")


def require_same_names(output: Path, names: Collection[str]) -> None:
    """Raise CheckpointError where a file at `output` is no checkpoint of the same tensors, which may go."""
    if not os.path.lexists(output) or output.is_dir():
        return
    what = "is there already, and holds something else"
    if os.path.lexists(manifest_path(output)):
        what = "is there already, with the manifest of a collection beside it"
    elif output.is_file():
        with contextlib.suppress(CheckpointError):
            if open_checkpoint(output).tensors.keys() == set(names):
                return
    raise CheckpointError(what, where=str(output), remedy="name another output, or move it away")


def _other_checkpoints(output: Path) -> bool:
    """Whether other weights are in the folder, to which a file beside them may belong as well."""
    own = {output.name, f".{output.name}.part"}
    return any(
        entry.suffix in _CHECKPOINTS or entry.name.endswith(".index.json")
        for entry in output.parent.iterdir()
        if entry.name not in own and not entry.is_dir()
    )


def _digest(path: Path, size: int | None = None) -> str:
    """The SHA-256 of a regular file; empty where there is none, or none of `size`."""
    if not path.is_file() or (size is not None and path.stat().st_size != size):
        return ""
    path = path.resolve()
    digest = hashlib.sha256()
    with os.fdopen(open_safely(path, path.parent), "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
