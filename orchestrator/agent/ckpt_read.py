"""The host's side of collecting a checkpoint: which shards there are, and the bytes of their spans.

Shards are named `<prefix>_rank_<rank>[_<rerun>]-<epoch>_<step>.ckpt` (MindFormers), or without the rank in a
folder `rank_<rank>` (MindSpore's own callback); `.safetensors` as well. A second run into one folder adds the
rerun number.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import os
import re
import zlib
from typing import Dict, Iterator, List, Sequence, Tuple, Union

from orchestrator.agent.ckpt_index import Entry, index_ckpt
from orchestrator.agent.safetensors_index import index_safetensors
from orchestrator.errors import CheckpointError

__all__ = ["CHUNK", "Range", "Row", "crc_ranges", "index_shard", "list_shards", "parse_name", "read_ranges"]

Range = Tuple[int, int]
Row = Dict[str, Union[int, str]]

CHUNK = 4 << 20

_WITH_RANK = re.compile(
    r".+_rank_(?P<rank>\d+)(?:_(?P<rerun>\d+))?-(?P<epoch>\d+)_(?P<step>\d+)\.(?:ckpt|safetensors)"
)
_WITHOUT_RANK = re.compile(r".+?(?:_(?P<rerun>\d+))?-(?P<epoch>\d+)_(?P<step>\d+)\.(?:ckpt|safetensors)")
_FOLDER = re.compile(r"rank_(\d+)")


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


def list_shards(folder: str) -> List[Row]:
    """The shards in `folder` and its `rank_<r>` folders, by rank, epoch, step; none where it is missing."""
    paths: List[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _FOLDER.fullmatch(entry.name) and entry.is_dir():
                    paths += [os.path.join(entry.path, name) for name in os.listdir(entry.path)]
                else:
                    paths.append(entry.path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot be listed: {error.strerror or error}", where=folder) from error
    rows = [row for row in map(parse_name, paths) if row]
    return sorted(rows, key=lambda row: [row[key] for key in ("rank", "epoch", "step", "rerun", "path")])


def index_shard(path: str) -> List[Entry]:
    """What the file holds and where, in either format, as `index_ckpt` tells it."""
    return index_safetensors(path) if path.endswith(".safetensors") else index_ckpt(path)


def read_ranges(path: str, ranges: Sequence[Range], chunk: int = CHUNK) -> Iterator[bytes]:
    """The bytes of `(offset, length)` after `(offset, length)`, in pieces of at most `chunk` bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error
    try:
        for offset, length in ranges:
            stop = offset + length
            while offset < stop:
                data = os.pread(descriptor, min(chunk, stop - offset), offset)
                if not data:
                    raise CheckpointError(f"ends at byte {offset}, {stop - offset} too early", where=path)
                offset += len(data)
                yield data
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error
    finally:
        os.close(descriptor)


def crc_ranges(path: str, groups: Sequence[Sequence[Range]]) -> List[int]:
    """The crc32 of each group of ranges, taken as one stream of bytes."""
    return [_crc(path, group) for group in groups]


def _crc(path: str, ranges: Sequence[Range]) -> int:
    value = 0
    for data in read_ranges(path, ranges):
        value = zlib.crc32(data, value)
    return value
