"""The checksum of a shard: a small file beside it that says how many bytes it has, and their crc32.

    rank_0/mindformers_rank_0-1_120.ckpt         the shard
    rank_0/mindformers_rank_0-1_120.ckpt.sum     {"format": 1, "size": 81920, "crc32": 3735928559}

It is there before its shard is. Shards of other programs, and of earlier versions, have none.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import BinaryIO, Optional, Union

from orchestrator.core.errors import CheckpointError
from orchestrator.core.paths import replacing
from orchestrator.core.record_class import dataclass
from orchestrator.core.safe_open import open_safely, read_safely

__all__ = ["Sum", "SummedFile", "read_sum", "sum_of", "sum_path", "write_sum"]

_FORMAT = 1
_LARGEST = 1 << 12
_CHUNK = 4 << 20


@dataclass(frozen=True)
class Sum:
    """The bytes of a file: how many, and their crc32."""

    size: int
    crc32: int


class SummedFile:
    """A file that is written through from its beginning; `sum` is of what has been written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = self._crc = 0

    def write(self, data: Union[bytes, memoryview]) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self._size += data.nbytes if isinstance(data, memoryview) else len(data)

    @property
    def sum(self) -> Sum:
        return Sum(self._size, self._crc)


def sum_path(shard: Union[str, Path]) -> Path:
    """Where the checksum of a shard is."""
    return Path(f"{shard}.sum")


def write_sum(shard: Union[str, Path], found: Sum) -> None:
    """Put the checksum beside a shard, durably: an empty one would make the shard a damaged one."""
    text = json.dumps({"format": _FORMAT, "size": found.size, "crc32": found.crc32})
    with replacing(sum_path(shard)) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_sum(shard: Union[str, Path]) -> Optional[Sum]:
    """The checksum beside a shard; None where there is none. CheckpointError: it cannot be read as one."""
    path = sum_path(shard)
    try:
        data = json.loads(read_safely(path, path.parent, _LARGEST))
        if data["format"] > _FORMAT:
            raise CheckpointError("is of a newer version", where=str(path))
        return Sum(int(data["size"]), int(data["crc32"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError("is no checksum of a shard", where=str(path)) from None


def sum_of(shard: Union[str, Path]) -> Sum:
    """The checksum of what is on the disk now; reads all of it. CheckpointError: it cannot be read."""
    path = Path(shard)
    try:
        with os.fdopen(open_safely(path, path.parent), "rb", buffering=0) as file:
            buffer = memoryview(bytearray(_CHUNK))
            size = crc = 0
            while count := file.readinto(buffer):
                crc = zlib.crc32(buffer[:count], crc)
                size += count
            return Sum(size, crc)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
