"""Checkpoints on this machine, whatever their format: one file, or several with an index.

`.ckpt`; `.safetensors`; beside the files it names, a `*.safetensors.index.json` as Hugging Face writes it
(`weight_map`: name -> file) or MindSpore's `param_name_map.json` (name -> file).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.agent.ckpt_read import index_shard
from orchestrator.checkpoint.shard import Held, Shard
from orchestrator.errors import CheckpointError

__all__ = ["open_checkpoint"]

_INDEXES = ("*.safetensors.index.json", "param_name_map.json")


def open_checkpoint(path: str | Path, rank: int = 0) -> Shard:
    """What the checkpoint holds and where; no tensor is read. `path` may be the folder of an index.

    CheckpointError: unreadable, damaged, foreign, of an unknown type; a file of the index that is missing.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if path.suffix == ".json":
        return _open_index(path, rank)
    return Shard.of(rank, "", str(path), index_shard(str(path)))


def _in_folder(folder: Path) -> Path:
    found = [file for pattern in _INDEXES for file in sorted(folder.glob(pattern))]
    if len(found) == 1:
        return found[0]
    what = f"holds {len(found)} indexes" if found else "is a folder without an index of safetensors files"
    raise CheckpointError(what, where=str(folder), remedy="name the file")


def _open_index(path: Path, rank: int) -> Shard:
    weight_map = _weight_map(path)
    parts = {name: _open_part(path.parent, name, path) for name in dict.fromkeys(weight_map.values())}
    held: dict[str, Held] = {}
    for name, file in weight_map.items():
        found = parts[file].tensors.get(name)
        if found is None:
            raise CheckpointError(f"says that {file} holds {name}, but it does not", where=str(path))
        held[name] = replace(found, path=parts[file].path)
    for file, part in parts.items():
        for name in part.tensors:
            if weight_map.get(name) != file:
                raise CheckpointError(f"does not say that {file} holds {name}", where=str(path))
    return Shard(rank, "", str(path), held)


def _weight_map(path: Path) -> Mapping[str, str]:
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (ValueError, RecursionError):
        raise CheckpointError("is no JSON", where=str(path)) from None
    weight_map = table.get("weight_map", table) if isinstance(table, dict) else None
    if not weight_map or not isinstance(weight_map, dict):
        raise CheckpointError("is no index of safetensors files", where=str(path))
    for name, file in weight_map.items():
        # A name with a folder in it could lead anywhere.
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"names no safetensors file beside it for {name}", where=str(path))
    return weight_map


def _open_part(folder: Path, name: str, index: Path) -> Shard:
    """One file of an index; CheckpointError says which index wants it where it is missing."""
    file = folder / name
    if not file.exists():
        raise CheckpointError(f"names {name}, which is missing", where=str(index))
    return Shard.of(0, "", str(file), index_shard(str(file)))
