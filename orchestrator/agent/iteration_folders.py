"""The folders of MindFormers' "checkpoint 2.0" on a host: which files of which iteration are whole.

    latest_checkpointed_iteration.txt             the tracker: written last, and not at once
    iteration_00000100/common.json                step, epoch and the like
    iteration_00000100/metadata.json              which parameter is in which file
    iteration_00000100/[prefix-]model-0000000-0000008.safetensors     and opt-…, file 0 of 8

Of one rank alone there is no metadata.json. Where ranks save to their own hosts each has its own files, and
the two JSON files are on that of the first rank.
Source: mindformers 1.9.0 and 2.1.0, checkpoint/*.py.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from orchestrator.agent.shard_ranges import identity_of
from orchestrator.agent.steps_in_files import list_metas
from orchestrator.core.errors import CheckpointError
from orchestrator.core.safe_open import read_safely, require_folder, require_regular
from orchestrator.formats.safetensors_index import index_safetensors

__all__ = ["list_iterations"]

_FOLDER = re.compile(r"iteration_(\d{8,12})", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}\.safetensors", re.ASCII)
_TRACKER = "latest_checkpointed_iteration.txt"
_LARGEST_JSON = 64 << 20
_MOST_NAMED = 100_000


def list_iterations(folder: str) -> Dict[str, Any]:
    """As `IterationList` has it; nothing where there is no such folder. What is a link counts as missing."""
    rows = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(folder)):
            match = _FOLDER.fullmatch(name)
            if match:
                rows.append(_row(Path(folder, name), int(match[1])))
    return {"tracker": _tracker(Path(folder)), "iterations": rows, "metas": list_metas(folder)}


def _row(folder: Path, iteration: int) -> Dict[str, Any]:
    files: List[str] = []
    damaged: List[str] = []
    try:
        require_folder(folder)
    except OSError:
        return {"iteration": iteration}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if _FILE.fullmatch(name):
                (files if _is_whole(folder / name) else damaged).append(name)
    named = _json(folder / "metadata.json")
    return {
        "iteration": iteration,
        "files": files,
        "damaged": damaged,
        "common": isinstance(_json(folder / "common.json"), dict),
        "named": None if named is None else sorted(set(_files_in(named)))[:_MOST_NAMED],
        "places": dict(_places(folder, [*files, "common.json", "metadata.json"])),
    }


def _places(folder: Path, names: List[str]) -> Iterator[Tuple[str, List[int]]]:
    for name in names:
        with contextlib.suppress(OSError):
            yield str(folder / name), identity_of(require_regular(folder / name))


def _is_whole(path: Path) -> bool:
    """By its structure: the header tells of each byte."""
    try:
        require_regular(path)
        index_safetensors(str(path))
    except (OSError, CheckpointError):
        return False
    return True


def _json(path: Path) -> Any:
    """What a file says; None where it is missing, cut, or no JSON."""
    try:
        return json.loads(read_safely(path, path.parent, _LARGEST_JSON))
    except (OSError, ValueError, RecursionError):
        return None


def _files_in(data: Any) -> Iterator[str]:
    """Every name of a tensor file that is anywhere in it, as key or value."""
    waiting = [data]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.keys()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, str) and _FILE.fullmatch(os.path.basename(each)):
            yield os.path.basename(each)


def _tracker(folder: Path) -> Optional[int]:
    try:
        text = read_safely(folder / _TRACKER, folder, 1 << 12).decode("ascii", "replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and len(text) < 13 else None
