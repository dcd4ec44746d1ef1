"""What one rank's checkpoint file holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.checkpoint.tensor import Spec

__all__ = ["Held", "Shard", "ShardIndex"]


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
