"""The weights of one model in whatever files they came: which tensor is where, values unread.

A file (`.ckpt`, `.safetensors`, `.bin`, `.pt`, `.pth`), or a folder of them as Hugging Face lays it out: one
file, or shards with an index (`*.index.json`) that names the shard of every tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.agent.ckpt_index import crc_matches, map_file
from orchestrator.agent.ckpt_read import index_shard
from orchestrator.checkpoint.shard import Held, Shard
from orchestrator.checkpoint.torch_file import index_torch
from orchestrator.errors import CheckpointError

__all__ = ["INDEXES", "find_weights", "holds_weights"]

# In this order, as transformers looks for them.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PATTERNS = ("model.safetensors", "pytorch_model.bin", "model*.safetensors", "pytorch_model*.bin", "*.ckpt")
_LONGEST_INDEX = 256 << 20


def holds_weights(path: Path) -> bool:
    """True for a file, and for a folder in which there are weights of a known kind."""
    return path.is_file() or (path.is_dir() and bool(_indexes(path) or _files(path)))


def find_weights(path: Path) -> dict[str, Held]:
    """Every tensor by name with the file that it is in, in the order of the files.

    CheckpointError: nothing there, a damaged or foreign file, an index that does not fit its shards.
    """
    if path.is_file():
        return _joined([path])
    if not path.is_dir():
        raise CheckpointError("there is no such file or folder", where=str(path))
    indexes = _indexes(path)
    if indexes:
        return _indexed(indexes[0])
    files = _files(path)
    if not files:
        raise CheckpointError(
            "there are no weights in the folder",
            where=str(path),
            remedy="put model.safetensors, pytorch_model.bin, or shards with their index there",
        )
    return _joined(files)


def _indexes(folder: Path) -> list[Path]:
    return [folder / name for name in INDEXES if (folder / name).is_file()]


def _files(folder: Path) -> list[Path]:
    """The files of the first pattern that fits; a folder with several `.ckpt` files says nothing."""
    for pattern in _PATTERNS:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found and pattern == "*.ckpt" and len(found) > 1:
            raise CheckpointError(
                f"holds {len(found)} .ckpt files", where=str(folder), remedy="name one of them"
            )
        if found:
            return found
    return []


def _joined(files: Iterable[Path]) -> dict[str, Held]:
    tensors: dict[str, Held] = {}
    for path in files:
        for name, held in _index(path).items():
            if name in tensors:
                raise CheckpointError(f"{name} is in {Path(tensors[name].path).name} too", where=str(path))
            tensors[name] = replace(held, path=str(path))
    return tensors


def _index(path: Path) -> Mapping[str, Held]:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise CheckpointError(
            f"is no weight file: {path.suffix or 'no suffix'}",
            where=str(path),
            remedy=f"known are {', '.join(_READERS)}",
        )
    return reader(path)


def _index_shard(path: Path) -> Mapping[str, Held]:
    if path.suffix == ".ckpt":
        with map_file(str(path)) as buffer:
            if not crc_matches(buffer):
                raise CheckpointError("the checksum does not fit: the file is damaged", where=str(path))
    return Shard.of(0, "", str(path), index_shard(str(path))).tensors


_READERS: Mapping[str, Callable[[Path], Mapping[str, Held]]] = {
    ".ckpt": _index_shard,
    ".safetensors": _index_shard,
    ".bin": index_torch,
    ".pt": index_torch,
    ".pth": index_torch,
}


def _indexed(index: Path) -> dict[str, Held]:
    weight_map = _weight_map(index)
    names = list(dict.fromkeys(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"names {len(names)} shards, of which {len(missing)} are missing: {', '.join(missing)}",
            where=str(index),
            remedy="download them again",
        )
    tensors = _joined(index.parent / name for name in names)
    wrong = [
        name
        for name in {**weight_map, **tensors}
        if name not in tensors or Path(tensors[name].path).name != weight_map.get(name)
    ]
    if wrong:
        raise CheckpointError(f"does not fit its shards: {_few(wrong)}", where=str(index))
    return tensors


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _weight_map(index: Path) -> dict[str, str]:
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            raise ValueError("it is too long")
        content: Any = json.loads(index.read_bytes())
        weight_map = content["weight_map"]
        pairs = [(str(name), file) for name, file in weight_map.items()]
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=str(index)) from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            "is no index of weights", where=str(index), remedy="download it again"
        ) from None
    for _, file in pairs:
        # A name and no path: an index from elsewhere must not reach out of its folder.
        if not isinstance(file, str) or Path(file).name != file or not file:
            raise CheckpointError(f"names the shard {file!r}, which is no file name", where=str(index))
    return dict(pairs)
