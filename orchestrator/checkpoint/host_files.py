"""The files of hosts as a copy reads them: what any host offers, and the hosts that are folders here."""

from __future__ import annotations

import itertools
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from orchestrator.agent.shard_ranges import identity_of, index_shard, list_shards, read_segments
from orchestrator.checkpoint.copy_plan import Segment
from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_types import Array
from orchestrator.checkpoint.shard_index import ShardFile, StoredTensor
from orchestrator.checkpoint.spans import RegionSpans, StridedSpan, locate
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import map_file

__all__ = ["CHUNK", "HostFiles", "LocalFiles", "MappedFiles", "ReadSegment"]

ReadSegment = tuple[memoryview, int | None]
"""The bytes of a segment, valid until the next one is asked for, and the crc32 that the host has of them;
None where they were read from the file itself."""


class HostFiles(Protocol):
    """The files of several hosts. All may be called from many threads at once.

    Every method raises TransportError where the connection broke (the caller may try again), and another
    OrchestrateError where the host answered that it cannot.
    """

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        """The run's shards on the host."""

    def index(self, host: str, path: str) -> Iterable[Mapping[str, Any]]:
        """What `index_shard` says of the file there."""

    def read(self, host: str, segments: Sequence[Segment]) -> Iterator[ReadSegment]:
        """The bytes of every segment, one segment after another.

        CheckpointError or AgentError where a file is not the one any more that was listed.
        """

    def sums(self, host: str, segments: Sequence[Segment]) -> Iterator[int]:
        """The crc32 of each of these segments, of which no byte is moved. The errors are those of `read`."""

    def interrupt(self) -> None:
        """Wake every thread that waits in one of the others, which then raises TransportError."""


class LocalFiles:
    """Folders of this machine as hosts, `{host name: checkpoint folder}`; any file of it can be read."""

    def __init__(self, folders: Mapping[str, str | Path] | None = None) -> None:
        self._folders = {host: str(folder) for host, folder in (folders or {}).items()}
        self._identities: dict[str, Sequence[int]] = {}
        self._mapped = MappedFiles()

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        files = [ShardFile.of(row) for row in list_shards(self._folders[host])]
        self._identities.update((file.path, file.identity) for file in files)
        return files

    def index(self, host: str, path: str) -> Iterable[Mapping[str, Any]]:
        return index_shard(path)

    def read(self, host: str, segments: Sequence[Segment]) -> Iterator[ReadSegment]:
        """As HostFiles has it; a file that was not listed must not change after its first bytes were read."""
        for path in {segment.copy.path for segment in segments}:
            if path not in self._identities:
                self._identities[path] = _identity(path)
        for is_mapped, group in itertools.groupby(segments, _has_short_runs):
            if is_mapped:
                yield from ((self._mapped_bytes(segment), None) for segment in group)
                continue
            wanted = [(segment.copy.path, segment.spans) for segment in group]
            yield from ((data, None) for data in read_segments(wanted, self._identities))

    def sums(self, host: str, segments: Sequence[Segment]) -> Iterator[int]:
        return (zlib.crc32(data) for data, _ in self.read(host, segments))

    def _mapped_bytes(self, segment: Segment) -> memoryview:
        path = segment.copy.path
        data = self._mapped.joined(path, segment.copy.stored, segment.strided)
        if tuple(_identity(path)) != tuple(self._identities[path]):
            raise CheckpointError("has changed while it was read", where=path, remedy="try again")
        return data

    def interrupt(self) -> None:
        pass


# Below this length of a run, a copy out of the mapped file beats a system call for each run.
_SHORT_RUN = 64 << 10


def _has_short_runs(segment: Segment) -> bool:
    return any(span.rows > 1 and span.run < _SHORT_RUN for span in segment.strided)


def _identity(path: str) -> Sequence[int]:
    try:
        return identity_of(os.stat(path))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error


CHUNK = 32 << 20
# After so many bytes the pages of a mapping are given back: memory is bounded by this and not by the file.
_KEPT = 128 << 20


class MappedFiles:
    """Files that are mapped when they are first read, and stay so until the end of a `with` block."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        self._touched = 0

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        # The mappings go when the last view of them does.
        self._maps.clear()

    def chunks(
        self, path: str, stored: StoredTensor, part: Region, size: int = CHUNK
    ) -> Iterator[memoryview]:
        """The bytes of a part of a tensor in C order, at most `size` at once; each is valid until the next.

        CheckpointError: the file cannot be read, or has become shorter since it was indexed.
        """
        spans = RegionSpans.of_part(stored.spec, part)
        for start in range(0, spans.nbytes, size):
            strided = spans.between(start, min(start + size, spans.nbytes))
            yield self.joined(path, stored, [one for span in strided for one in locate(span, stored.spans)])

    def joined(self, path: str, stored: StoredTensor, strided: Sequence[StridedSpan]) -> memoryview:
        """The bytes at these places of the file, joined: a view of it where they are together."""
        if path not in self._maps:
            self._maps[path] = map_file(path)
        mapped = self._maps[path]
        if any(offset + length > len(mapped) for offset, length in stored.spans):
            raise CheckpointError(f"has become shorter: {stored.spec.name} is not all there", where=path)
        nbytes = sum(span.nbytes for span in strided)
        self._forget(nbytes)
        if len(strided) == 1 and strided[0].rows == 1:
            return memoryview(mapped)[strided[0].offset : strided[0].offset + nbytes]
        chunk: Array = np.empty(nbytes, np.uint8)
        position = 0
        for span in strided:
            rows = chunk[position : position + span.nbytes].reshape(span.rows, span.run)
            rows[:] = np.ndarray(rows.shape, np.uint8, mapped, span.offset, (span.stride, 1))
            position += span.nbytes
        return chunk.data

    def _forget(self, nbytes: int) -> None:
        self._touched += nbytes
        if self._touched >= _KEPT:
            self._touched = nbytes
            for mapped in list(self._maps.values()):
                mapped.madvise(mmap.MADV_DONTNEED)
