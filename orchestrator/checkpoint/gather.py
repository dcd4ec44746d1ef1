"""Parts of tensors out of files of this machine, in chunks: the way back of `scatter`."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

from orchestrator.agent.ckpt_index import map_file
from orchestrator.checkpoint.layout import Region
from orchestrator.checkpoint.scatter import Scatter, Stretch, locate
from orchestrator.checkpoint.shard import Held
from orchestrator.checkpoint.tensor import Array
from orchestrator.errors import CheckpointError

__all__ = ["CHUNK", "MappedFiles"]

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

    def chunks(self, path: str, held: Held, part: Region, size: int = CHUNK) -> Iterator[memoryview]:
        """The bytes of a part of a tensor in C order, at most `size` at once; each is valid until the next.

        CheckpointError: the file cannot be read, or has become shorter since it was indexed.
        """
        if path not in self._maps:
            self._maps[path] = map_file(path)
        mapped = self._maps[path]
        if any(offset + length > len(mapped) for offset, length in held.pieces):
            raise CheckpointError(f"has become shorter: {held.spec.name} is not all there", where=path)
        scatter = Scatter.of_part(held.spec, part)
        for start in range(0, scatter.nbytes, size):
            stop = min(start + size, scatter.nbytes)
            yield _gather(mapped, held, scatter, start, stop)
            self._forget(stop - start)

    def _forget(self, nbytes: int) -> None:
        self._touched += nbytes
        if self._touched >= _KEPT:
            self._touched = 0
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)


def _gather(mapped: mmap.mmap, held: Held, scatter: Scatter, start: int, stop: int) -> memoryview:
    stretches = [part for stretch in scatter.stretches(start, stop) for part in locate(stretch, held.pieces)]
    if len(stretches) == 1 and stretches[0].rows == 1:
        offset = stretches[0].offset
        return memoryview(mapped)[offset : offset + stop - start]
    chunk: Array = np.empty(stop - start, np.uint8)
    position = 0
    for stretch in stretches:
        chunk[position : position + stretch.nbytes].reshape(stretch.rows, stretch.run)[:] = _rows(
            mapped, stretch
        )
        position += stretch.nbytes
    return chunk.data


def _rows(mapped: mmap.mmap, stretch: Stretch) -> Array:
    rows: Array = np.ndarray(
        (stretch.rows, stretch.run),
        np.uint8,
        mapped,
        offset=stretch.offset,
        strides=(stretch.stride, 1),
    )
    return rows
