"""A snapshot: the contents of a rank's shard in the host's memory, in one buffer that serves every save."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from model.errors import ModelError
from orchestrator.checkpoint.files.tensor_types import Tensor

__all__ = ["Snapshot"]

_LINE = 64  # bytes; copies begin where the cache's lines do


class Snapshot:
    """Room for tensors of these sizes in bytes. What is taken holds until the next is.

    Raises ModelError where the host gives no such memory.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        nbytes = sum(_rounded(size) for size in sizes)
        try:
            self.buffer = np.empty(nbytes, np.uint8)
        except MemoryError:
            raise ModelError(
                f"the host gives no {nbytes / 2**30:.1f} GiB of memory for a copy of the shard",
                where="checkpoint.async",
                remedy="set it to false, or share the optimizer state (parallel.optimizer_shard)",
            ) from None

    def touch(self) -> None:
        """Have the system provide the memory now: a host that has too little shows it before the first save,
        and that one is as fast as the others."""
        self.buffer.fill(0)

    def take(self, contents: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        """Copies of the tensors, one after the other; for what finds no room, as counters, a copy apart."""
        taken, start = [], 0
        for name, tensor in contents:
            stop = start + tensor.nbytes
            if stop <= self.buffer.nbytes:
                room = self.buffer[start:stop]
                np.copyto(room, np.frombuffer(tensor.data, np.uint8))
                data = room.data
                start = _rounded(stop)
            else:
                data = memoryview(bytes(tensor.data))
            taken.append((name, Tensor(tensor.dims, tensor.dtype, data)))
        return taken


def _rounded(size: int) -> int:
    return -(-size // _LINE) * _LINE
