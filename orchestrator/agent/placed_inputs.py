"""The inputs of a run in its directory on a host: what is placed there, and what is there already.

What an attempt was given is noted in its folder with the identity of each file, so that the next one need not
read again what nobody has touched since: `attempts/<n>/placed.json`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Set, Tuple

from orchestrator.agent.content_store import Store, sha256_of_file
from orchestrator.core.codec import DecodeError, Stored, dumps, load
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, atomic_write
from orchestrator.core.record_class import dataclass, field
from orchestrator.core.records import Input, Manifest
from orchestrator.core.safe_open import open_safely, require_folder

__all__ = ["PlacedInputs", "place_inputs"]

# Size, time of the last write and of the last change of any kind (which no program can set), inode number.
Identity = Tuple[int, int, int, int]
_NOTE = "placed.json"


@dataclass(frozen=True)
class PlacedFile:
    """A file as it was when its content was last known."""

    sha256: str
    identity: Identity


@dataclass(frozen=True)
class PlacedInputs(Stored):
    """What an attempt was given, by path in the run's directory."""

    LARGEST = 64 << 20

    files: Mapping[str, PlacedFile] = field(default_factory=dict)


def place_inputs(store: Store, run: RunDir, manifest: Manifest) -> None:
    """Have every input of an attempt in its run; what one replaces is kept. Raises AgentError, OSError."""
    if not manifest.inputs:
        return
    number = manifest.attempt.number
    is_first = len(run.numbers()) < 2
    known = {} if is_first else _known(run, number)
    placed: Dict[str, PlacedFile] = {}
    folders: Set[Path] = set()
    for item in manifest.inputs:
        identity = None if is_first else _is_there(run, item, known.get(item.path), folders)
        if identity is None:
            if not is_first:
                from orchestrator.core.attempt_files import make_way  # late: few runs have a second attempt

                make_way(run, number, item.path)
            store.place(item, run.root)
            identity = _identity_of(os.lstat(run.root / item.path))
        placed[item.path] = PlacedFile(item.sha256, identity)
    # Without it the next attempt reads what there is.
    with contextlib.suppress(OSError):
        atomic_write(run.folder_of(number) / _NOTE, dumps(PlacedInputs(placed)))


def _known(run: RunDir, number: int) -> Mapping[str, PlacedFile]:
    """What the attempt before this one was given."""
    before: List[int] = [each for each in run.numbers() if each < number]
    with contextlib.suppress(OSError, DecodeError, IndexError):
        return load(PlacedInputs, run.folder_of(before[-1]) / _NOTE, run.runs).files
    return {}


def _is_there(
    run: RunDir, item: Input, known: Optional[PlacedFile], folders: Set[Path]
) -> Optional[Identity]:
    """The identity of the file at that place, if the run has these very bytes there.

    `folders` are those that are known to be no links. AgentError where the way there is one.
    """
    folder = run.root
    try:
        for name in Path(item.path).parts[:-1]:
            folder = folder / name
            if folder not in folders:
                with contextlib.suppress(FileNotFoundError):
                    require_folder(folder)
                    folders.add(folder)
    except OSError as error:
        raise AgentError(f"{folder}: {error.strerror}", kind="foreign") from error
    try:
        handle = open_safely(run.root / item.path, run.runs)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        identity = _identity_of(os.fstat(handle))
        if known is not None and known.identity == identity:
            return identity if known.sha256 == item.sha256 else None
        return identity if sha256_of_file(file) == item.sha256 else None


def _identity_of(status: os.stat_result) -> Identity:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
