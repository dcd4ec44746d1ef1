"""What one rank's checkpoint file holds."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.checkpoint.tensor import Spec

__all__ = ["Held", "Shard"]


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
    """One rank's checkpoint file on a host."""

    rank: int
    host: str
    path: str
    tensors: Mapping[str, Held]

    @classmethod
    def of(cls, rank: int, host: str, path: str, entries: Sequence[Mapping[str, Any]]) -> Shard:
        """From the entries that `index_ckpt` gave on the host."""
        held = {}
        for entry in entries:
            pieces = tuple((int(offset), int(length)) for offset, length in entry["pieces"])
            size = sum(length for _, length in pieces) if entry["dtype"] == "str" else 0
            spec = _spec(entry["name"], tuple(entry["dims"]), entry["dtype"], size)
            held[spec.name] = Held(spec, pieces)
        return cls(rank, host, path, held)


@functools.lru_cache(maxsize=1 << 16)
def _spec(name: str, dims: tuple[int, ...], dtype: str, size: int) -> Spec:
    """One for all ranks that have a slice of this shape: of hundreds of ranks there are millions."""
    return Spec(name, dims, dtype, size)
