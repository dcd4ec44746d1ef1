"""What one rank's checkpoint file holds.

How shards on other machines are reached: a small protocol, and its form for folders of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.agent.shard_ranges import index_shard, list_shards, read_segments
from orchestrator.checkpoint.files.tensor_types import Spec

__all__ = [
    "Held",
    "HostFiles",
    "LocalFiles",
    "Ranges",
    "ReadSegment",
    "Shard",
    "ShardFile",
    "ShardIndex",
]


@dataclass(frozen=True, slots=True)
class Held:
    """What one shard holds of a parameter, and the spans `(offset, length)` of the file it is in.

    `path` is that file where a shard is spread over several; else it is the shard's.
    """

    spec: Spec
    pieces: tuple[tuple[int, int], ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's checkpoint file on a host: what is wanted of it, and the rest by name with the reason."""

    rank: int
    host: str
    path: str
    tensors: Mapping[str, Held]
    skipped: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, rank: int, host: str, path: str, entries: Iterable[Mapping[str, Any]]) -> Shard:
        """From the entries that `index_ckpt` gave on the host."""
        return ShardIndex().shard(rank, host, path, entries)


class ShardIndex:
    """Makes shards of the entries of files, without those that `why_not(name, dtype)` gives a reason for.

    Hundreds of ranks have millions of tensors. Two thirds of them are moments; and ranks that have slices of
    the same shapes have files of the same layout, so that what is equal in several shards is kept once.
    """

    def __init__(self, why_not: Callable[[str, str], str] = lambda name, dtype: "") -> None:
        self._why_not = why_not
        self._held: dict[Held, Held] = {}
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}

    def shard(self, rank: int, host: str, path: str, entries: Iterable[Mapping[str, Any]]) -> Shard:
        """One rank's file, from the entries that `index_ckpt` gave on the host. Threads may share it."""
        tensors, skipped = {}, []
        for entry in entries:
            if reason := self._why_not(entry["name"], entry["dtype"]):
                pair = entry["name"], reason
                skipped.append(self._pairs.setdefault(pair, pair))
                continue
            held = _held(entry)
            held = self._held.setdefault(held, held)
            tensors[held.spec.name] = held
        return Shard(rank, host, path, tensors, tuple(skipped))


def _held(entry: Mapping[str, Any]) -> Held:
    pieces = tuple((int(offset), int(length)) for offset, length in entry["pieces"])
    text_bytes = sum(length for _, length in pieces) if entry["dtype"] == "str" else 0
    return Held(Spec(entry["name"], tuple(entry["dims"]), entry["dtype"], text_bytes), pieces)


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
