"""The host's side of collecting a checkpoint: which shards there are, and the bytes of their spans.

Shards are named `<prefix>_rank_<rank>[_<rerun>]-<epoch>_<step>.ckpt` (MindFormers), or without the rank in a
folder `rank_<rank>` (MindSpore's own callback); `.safetensors` as well. A second run into one folder adds the
rerun number. What MindSpore saves at the end of its life has `_breakpoint` behind the step
(CheckpointConfig's `exception_save`), or is in a folder `ttp_saved_checkpoints-step_<n>` with those of the
ranks (train/callback/_train_fault_tolerance.py), whose name has a `_tmp` behind it until all of it is there.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from orchestrator.agent.steps_in_files import step_in_file
from orchestrator.core.errors import CheckpointError
from orchestrator.core.safe_open import require_folder, require_regular
from orchestrator.core.visible_text import visible
from orchestrator.formats.ckpt_index import Entry, index_ckpt
from orchestrator.formats.safetensors_index import index_safetensors

__all__ = ["Range", "Row", "identity_of", "index_shard", "list_shards", "parse_name", "read_segments"]

Range = Tuple[int, int]
Row = Dict[str, Any]

_END = r"-(?P<epoch>\d+)_(?P<step>\d+)(?:_breakpoint)?\.(?:ckpt|safetensors)"
_WITH_RANK = re.compile(r".+_rank_(?P<rank>\d+)(?:_(?P<rerun>\d+))?" + _END)
_WITHOUT_RANK = re.compile(r".+?(?:_(?P<rerun>\d+))?" + _END)
_FOLDER = re.compile(r"rank_(\d+)")
_LAST_WORDS = re.compile(r"ttp_saved_checkpoints-step_\d{1,12}", re.ASCII)


def parse_name(path: str) -> Row:
    """`{"rank", "rerun", "epoch", "step", "path"}` of a shard's path; empty where it is none."""
    folder, name = os.path.split(path)
    match = _WITH_RANK.fullmatch(name)
    if match:
        rank = match["rank"]
    else:
        match = _WITHOUT_RANK.fullmatch(name)
        home = _FOLDER.fullmatch(os.path.basename(folder))
        if not match or not home or name.startswith("."):
            return {}
        rank = home[1]
    numbers = {"rank": rank, "rerun": match["rerun"] or 0, "epoch": match["epoch"], "step": match["step"]}
    row: Row = {key: int(value) for key, value in numbers.items()}
    row["path"] = path
    return row


def list_shards(folder: str, *, follow_links: bool = True, with_steps: bool = False) -> List[Row]:
    """The shards in `folder` and its `rank_<r>` folders, by rank, epoch, step; none where it is missing.

    With those that were saved at the end of a life, once all of them are there. Each row is that of
    `parse_name` with the file's `identity`; `with_steps`, of runs whose names count the steps of an epoch,
    also with `global_step`, which the file itself says, or None.
    CheckpointError where what has the name of a shard, or of such a folder, is none. So is a link unless they
    are followed, as in a folder that a person has named; in that of a run they are not, and to leave one out
    would be silent.
    """
    try:
        paths = _paths(folder, follow_links)
        rows = [row for row in map(parse_name, paths) if row and _identify(row, follow_links)]
    except FileNotFoundError:
        return []
    except OSError as error:
        where = visible(str(error.filename or folder))
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=where) from error
    for row in rows if with_steps else ():
        row["global_step"] = step_in_file(row["path"])
    return sorted(rows, key=lambda row: [row[key] for key in ("rank", "epoch", "step", "rerun", "path")])


def _paths(folder: str, follow_links: bool, *, inner: bool = False) -> List[str]:
    """Every path that could be that of a shard."""
    paths: List[str] = []
    require_folder(Path(folder), follow_links=follow_links)
    with os.scandir(folder) as entries:
        for entry in entries:
            if _FOLDER.fullmatch(entry.name) and entry.is_dir():
                require_folder(Path(entry.path), follow_links=follow_links)
                paths += [os.path.join(entry.path, name) for name in os.listdir(entry.path)]
            elif not inner and _LAST_WORDS.fullmatch(entry.name) and entry.is_dir():
                paths += _paths(entry.path, follow_links, inner=True)
            else:
                paths.append(entry.path)
    return paths


def index_shard(path: str) -> Iterator[Entry]:
    """What the file holds and where, in either format, as `index_ckpt` tells it."""
    yield from index_safetensors(path) if path.endswith(".safetensors") else index_ckpt(path)


def _identify(row: Row, follow_links: bool) -> bool:
    try:
        row["identity"] = identity_of(require_regular(Path(row["path"]), follow_links=follow_links))
    except FileNotFoundError:
        return False  # removed since the folder was listed: only the newest checkpoints are kept
    return True


def identity_of(status: os.stat_result) -> List[int]:
    """What changes when a file is written again: `[size, mtime_ns, inode]`."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def read_segments(
    segments: Sequence[Tuple[str, Sequence[Range]]], identities: Mapping[str, Sequence[int]]
) -> Iterator[memoryview]:
    """The bytes of each segment: ranges `(offset, length)` of a file joined, valid until the next one.

    CheckpointError: unreadable, too short, or not the file any more that had this identity.
    """
    sizes = [sum(length for _, length in ranges) for _, ranges in segments]
    # One buffer for all of them: fresh memory for each would cost as much as the reading.
    buffer = memoryview(bytearray(max(sizes, default=0)))
    descriptors: Dict[str, int] = {}
    path = ""
    try:
        for (path, ranges), size in zip(segments, sizes):
            if path not in descriptors:
                # What has become a link, or a pipe, since it was listed has another identity.
                descriptors[path] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            _fill(descriptors[path], ranges, buffer[:size], path)
            _check_identity(descriptors[path], path, identities.get(path, ()))
            yield buffer[:size]
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _check_identity(descriptor: int, path: str, identity: Sequence[int]) -> None:
    if identity and identity_of(os.fstat(descriptor)) != list(identity):
        raise CheckpointError(
            "has changed since it was listed", where=path, remedy="is the run still writing there? try again"
        )


def _fill(descriptor: int, ranges: Sequence[Range], buffer: memoryview, path: str) -> None:
    position = 0
    for offset, length in ranges:
        stop = offset + length
        while offset < stop:
            count = os.preadv(descriptor, [buffer[position : position + stop - offset]], offset)
            if not count:
                raise CheckpointError(f"ends at byte {offset}, {stop - offset} too early", where=path)
            offset += count
            position += count
