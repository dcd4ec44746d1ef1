"""Opening checkpoints of this machine: which tensor is where, values unread, whatever the files are.

A file (`.ckpt`, `.safetensors`, `.bin`, `.pt`, `.pth`); several with an index that names the file of every
tensor, as Hugging Face writes it (`*.index.json`, `weight_map`: name -> file) or MindSpore
(`param_name_map.json`, name -> file); the files of all ranks, as MindFormers, MindSpore and we leave them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.agent.shard_ranges import index_shard, list_shards
from orchestrator.checkpoint.cut.complete_steps import Failed, choose_readable, choose_step
from orchestrator.checkpoint.cut.global_steps import by_global_step
from orchestrator.checkpoint.cut.own_names import changed_names
from orchestrator.checkpoint.files.strategy_files import StrategySet
from orchestrator.checkpoint.files.torch_reader import index_torch
from orchestrator.checkpoint.shard_index import Shard, ShardFile, StoredTensor
from orchestrator.core.errors import CheckpointError, OrchestrateError
from orchestrator.formats.ckpt_index import crc_matches, map_file

__all__ = [
    "INDEXES",
    "RankFiles",
    "find_rank_files",
    "find_weights",
    "holds_weights",
    "open_checkpoint",
    "open_rank_files",
]

_FOLDER = re.compile(r"rank_(\d{1,6})")
_SUFFIXES = (".ckpt", ".safetensors")


@dataclass(frozen=True, slots=True)
class RankFiles:
    """One file for each rank that has one, and the step they are of; `notes` say what was passed over."""

    files: Mapping[int, Path]
    epoch: int
    step: int
    notes: tuple[str, ...]


def find_rank_files(
    folder: Path,
    strategies: StrategySet | None,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
    failed: Failed | None = None,
) -> RankFiles:
    """The newest step in `folder` that is complete, or `step`; what has `failed` is as if it were not there.

    Which step a file is of it says itself: MindFormers' names count the steps within an epoch.
    Files without epoch and step in their name (as `transform_checkpoints` writes them) count where every
    `rank_<r>` folder holds one file. CheckpointError: no files, no complete step, files of unclear order.
    """
    listed = {str(folder): [ShardFile.of(row) for row in list_shards(str(folder), with_steps=True)]}
    rows = by_global_step(listed)[str(folder)]
    if not rows:
        return _unnumbered(folder, step)
    world_size = strategies.world_size if strategies else max(row.rank for row in rows) + 1
    choice = choose_step(
        {str(folder): rows},
        strategies.by_rank() if strategies else {},
        world_size,
        step=step,
        with_optimizer=with_optimizer,
        replicated=replicated,
        failed=failed,
    )
    notes = choice.notes()
    lacking = [rank for rank in range(world_size) if rank not in choice.files]
    if lacking:
        notes.append(f"rank {', '.join(map(str, lacking))}: no file of this step; a replica's is used")
    files = {rank: Path(path) for rank, (_, path) in choice.files.items()}
    return RankFiles(files, choice.epoch, choice.step, tuple(notes))


def open_rank_files(
    folder: Path,
    strategies: StrategySet | None,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
) -> tuple[RankFiles, tuple[Shard, ...]]:
    """The files that `find_rank_files` finds, and what each holds; no tensor is read.

    A file that is cut or damaged is left aside, and said in the notes: a replica or an older step takes its
    place. CheckpointError: as from `find_rank_files`; of the first damaged file, where nothing can.
    """

    def choose(failed: Failed) -> RankFiles:
        return find_rank_files(
            folder,
            strategies,
            step=step,
            with_optimizer=with_optimizer,
            replicated=replicated,
            failed=failed,
        )

    def read(found: RankFiles) -> tuple[tuple[Shard, ...], Failed]:
        shards: list[Shard] = []
        failed: dict[tuple[str, str], OrchestrateError] = {}
        for rank, path in sorted(found.files.items()):
            try:
                shards.append(open_checkpoint(path, rank))
            except CheckpointError as error:
                failed[str(folder), str(path)] = error
        return tuple(shards), failed

    return choose_readable(choose, read)


def _unnumbered(folder: Path, step: int | None) -> RankFiles:
    files: dict[int, Path] = {}
    for home in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _FOLDER.fullmatch(home.name)
        if match is None or not home.is_dir():
            continue
        found = sorted(f for f in home.iterdir() if f.suffix in _SUFFIXES and not f.name.startswith("."))
        if len(found) > 1:
            raise CheckpointError(
                f"{found[0].name} and {found[1].name} do not tell which is newer",
                where=str(home),
                remedy="keep one of them",
            )
        if found:
            files[int(match[1])] = found[0]
    if not files:
        raise CheckpointError(
            "holds no checkpoints",
            where=str(folder),
            remedy="expected rank_<r>/<prefix>_rank_<r>-<e>_<s>.ckpt",
        )
    if step is not None:
        raise CheckpointError(
            f"the names of the files do not tell which are of step {step}", where=str(folder)
        )
    return RankFiles(files, 0, 0, ())


# In this order, as transformers looks for them.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PATTERNS = ("model.safetensors", "pytorch_model.bin", "model*.safetensors", "pytorch_model*.bin", "*.ckpt")
_LONGEST_INDEX = 256 << 20


def holds_weights(path: Path) -> bool:
    """True for a file, and for a folder in which there are weights of a known kind."""
    return path.is_file() or (path.is_dir() and bool(_indexes(path) or _files(path)))


def find_weights(path: Path) -> dict[str, StoredTensor]:
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


def _joined(files: Iterable[Path]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        for name, stored in _index(path).items():
            if name in tensors:
                raise CheckpointError(f"{name} is in {Path(tensors[name].path).name} too", where=str(path))
            tensors[name] = replace(stored, path=str(path))
    return tensors


def _index(path: Path) -> Mapping[str, StoredTensor]:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise CheckpointError(
            f"is no weight file: {path.suffix or 'no suffix'}",
            where=str(path),
            remedy=f"known are {', '.join(_READERS)}",
        )
    return reader(path)


def _index_shard(path: Path) -> Mapping[str, StoredTensor]:
    if path.suffix == ".ckpt":
        with map_file(str(path)) as buffer:
            if not crc_matches(buffer):
                raise CheckpointError("the checksum does not fit: the file is damaged", where=str(path))
    return Shard.of(0, "", str(path), index_shard(str(path))).tensors


_READERS: Mapping[str, Callable[[Path], Mapping[str, StoredTensor]]] = {
    ".ckpt": _index_shard,
    ".safetensors": _index_shard,
    ".bin": index_torch,
    ".pt": index_torch,
    ".pth": index_torch,
}


def _indexed(index: Path) -> dict[str, StoredTensor]:
    weight_map = _own_map(_weight_map(index))
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
    return {name: tensors[name] for name in weight_map}


def _own_map(weight_map: Mapping[str, str]) -> dict[str, str]:
    """The index under own names, as each of its files is read."""
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(file, []).append(name)
    changed = {old: new for names in files.values() for old, new in changed_names(names).items()}
    return {changed.get(name, name): file for name, file in weight_map.items()}


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _weight_map(index: Path) -> dict[str, str]:
    """The one reader of indexes: the file of every tensor."""
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            raise ValueError("it is too long")
        content: Any = json.loads(index.read_bytes())
        pairs = dict(content.get("weight_map", content).items())
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=str(index)) from error
    except (ValueError, RecursionError, TypeError, AttributeError):
        pairs = {}
    if not pairs:
        others = "name a .ckpt, .safetensors or .bin file, or their folder"
        remedy = "download it again" if ".index." in index.name else others
        raise CheckpointError("is no index of weights", where=str(index), remedy=remedy)
    for file in pairs.values():
        # A name and no path: an index from elsewhere must not reach out of its folder.
        if not isinstance(file, str) or Path(file).name != file or not file:
            raise CheckpointError(f"names the shard {file!r}, which is no file name", where=str(index))
    return pairs


_INDEXES = ("*.safetensors.index.json", "param_name_map.json")


def open_checkpoint(path: str | Path, rank: int = 0) -> Shard:
    """What the checkpoint holds and where; no tensor is read. `path` may be the folder of an index.

    CheckpointError: unreadable, damaged, foreign, of an unknown type; a file of the index that is missing.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if path.suffix == ".json":
        return Shard(rank, "", str(path), _indexed(path))
    return Shard.of(rank, "", str(path), index_shard(str(path)))


def _in_folder(folder: Path) -> Path:
    found = [file for pattern in _INDEXES for file in sorted(folder.glob(pattern))]
    if len(found) == 1:
        return found[0]
    what = f"holds {len(found)} indexes" if found else "is a folder without an index of safetensors files"
    raise CheckpointError(what, where=str(folder), remedy="name the file")
