"""How shards on other machines are reached: a small protocol, and its form for folders of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.agent.ckpt_read import index_shard, list_shards, read_segments

__all__ = ["HostFiles", "LocalFiles", "Ranges", "ReadSegment", "ShardFile"]

Ranges = Sequence[tuple[int, int]]
ReadSegment = tuple[memoryview, int | None]
"""The bytes of a segment, valid until the next one is asked for, and the crc32 that the host has of them;
None where they were read from the file itself."""


@dataclass(frozen=True, slots=True, order=True)
class ShardFile:
    """A checkpoint of one rank, told from its name; `rerun` counts the runs into one folder.

    `identity` is the file's `[size, mtime_ns, inode]` where it is: what changes when it is written again.
    """

    rank: int
    epoch: int
    step: int
    rerun: int
    path: str
    identity: tuple[int, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ShardFile:
        """From a row of the agent's `list_shards`."""
        rank, epoch, step, rerun = (int(row[key]) for key in ("rank", "epoch", "step", "rerun"))
        identity = tuple(int(number) for number in row.get("identity", ()))
        return cls(rank, epoch, step, rerun, str(row["path"]), identity)


class HostFiles(Protocol):
    """The files of several hosts. All may be called from many threads at once.

    Every method raises TransportError where the connection broke (the caller may try again), and another
    OrchestrateError where the host answered that it cannot.
    """

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        """The run's shards on the host."""

    def index(self, host: str, path: str) -> Iterable[Mapping[str, Any]]:
        """What `index_shard` says of the file there."""

    def read(self, host: str, segments: Sequence[tuple[str, Ranges]]) -> Iterator[ReadSegment]:
        """The bytes of every segment, ranges `(offset, length)` of a file joined, one segment after another.

        CheckpointError or AgentError where a file is not the one any more that was listed.
        """

    def interrupt(self) -> None:
        """Wake every thread that waits in one of the others, which then raises TransportError."""


class LocalFiles:
    """Folders of this machine as hosts: `{host name: checkpoint folder}`."""

    def __init__(self, folders: Mapping[str, str | Path]) -> None:
        self._folders = {host: str(folder) for host, folder in folders.items()}
        self._identities: dict[str, tuple[int, ...]] = {}

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        files = [ShardFile.of(row) for row in list_shards(self._folders[host])]
        self._identities.update((file.path, file.identity) for file in files)
        return files

    def index(self, host: str, path: str) -> Iterable[Mapping[str, Any]]:
        return index_shard(path)

    def read(self, host: str, segments: Sequence[tuple[str, Ranges]]) -> Iterator[ReadSegment]:
        for data in read_segments(segments, self._identities):
            yield data, None

    def interrupt(self) -> None:
        pass
