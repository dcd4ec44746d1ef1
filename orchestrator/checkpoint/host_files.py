"""How shards on other machines are reached: a small protocol, and its form for folders of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.agent.ckpt_read import crc_ranges, index_shard, list_shards, read_ranges

__all__ = ["HostFiles", "LocalFiles", "Ranges", "ShardFile"]

Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, order=True)
class ShardFile:
    """A checkpoint of one rank, told from its name; `rerun` counts the runs into one folder."""

    rank: int
    epoch: int
    step: int
    rerun: int
    path: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ShardFile:
        """From a row of the agent's `list_shards`."""
        rank, epoch, step, rerun = (int(row[key]) for key in ("rank", "epoch", "step", "rerun"))
        return cls(rank, epoch, step, rerun, str(row["path"]))


class HostFiles(Protocol):
    """The files of several hosts. All may be called from many threads at once.

    Every method raises TransportError where the connection broke (the caller may try again), and another
    OrchestrateError where the host answered that it cannot.
    """

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        """The run's shards on the host."""

    def index(self, host: str, paths: Sequence[str]) -> Sequence[Sequence[Mapping[str, Any]]]:
        """For each path what `index_shard` says of it there."""

    def read(self, host: str, path: str, ranges: Ranges) -> Iterator[bytes | memoryview]:
        """The bytes of all ranges `(offset, length)`, one after another, in chunks of any size."""

    def crc(self, host: str, path: str, groups: Sequence[Ranges]) -> Sequence[int]:
        """For each group of ranges the crc32 of its bytes taken together, computed on the host."""


class LocalFiles:
    """Folders of this machine as hosts: `{host name: checkpoint folder}`."""

    def __init__(self, folders: Mapping[str, str | Path]) -> None:
        self._folders = {host: str(folder) for host, folder in folders.items()}

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        return [ShardFile.of(row) for row in list_shards(self._folders[host])]

    def index(self, host: str, paths: Sequence[str]) -> Sequence[Sequence[Mapping[str, Any]]]:
        return [index_shard(path) for path in paths]

    def read(self, host: str, path: str, ranges: Ranges) -> Iterator[bytes | memoryview]:
        return read_ranges(path, ranges)

    def crc(self, host: str, path: str, groups: Sequence[Ranges]) -> Sequence[int]:
        return crc_ranges(path, groups)
