"""A shard: which tensors one rank's checkpoint file holds, and where in the file each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from orchestrator.checkpoint.cut.own_names import changed_names
from orchestrator.checkpoint.files.tensor_types import Spec

__all__ = ["Shard", "ShardFile", "ShardIndex", "StoredTensor"]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What one shard has of a parameter, and the spans `(offset, length)` of the file that are its bytes.

    `path` is that file where a shard is spread over several; else it is the shard's.
    """

    spec: Spec
    spans: tuple[tuple[int, int], ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's checkpoint file on a host: what is wanted of it, and the rest by name with the reason."""

    rank: int
    host: str
    path: str
    tensors: Mapping[str, StoredTensor]
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
        self._stored: dict[StoredTensor, StoredTensor] = {}
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}

    def shard(self, rank: int, host: str, path: str, entries: Iterable[Mapping[str, Any]]) -> Shard:
        """One rank's file, from the entries that `index_ckpt` gave on the host. Threads may share it."""
        tensors, skipped = {}, []
        for entry in entries:
            if reason := self._why_not(entry["name"], entry["dtype"]):
                pair = entry["name"], reason
                skipped.append(self._pairs.setdefault(pair, pair))
                continue
            stored = _stored(entry)
            tensors[stored.spec.name] = stored
        changed = changed_names(chain(tensors, (name for name, _ in skipped)))
        if changed:
            tensors = {changed.get(name, name): _renamed(one, changed) for name, one in tensors.items()}
            pairs = ((changed.get(name, name), reason) for name, reason in skipped)
            skipped = [self._pairs.setdefault(pair, pair) for pair in pairs]
        tensors = {name: self._stored.setdefault(stored, stored) for name, stored in tensors.items()}
        return Shard(rank, host, path, tensors, tuple(skipped))


def _renamed(stored: StoredTensor, names: Mapping[str, str]) -> StoredTensor:
    name = stored.spec.name
    return replace(stored, spec=replace(stored.spec, name=names.get(name, name)))


def _stored(entry: Mapping[str, Any]) -> StoredTensor:
    spans = tuple((int(offset), int(length)) for offset, length in entry["pieces"])
    text_bytes = sum(length for _, length in spans) if entry["dtype"] == "str" else 0
    return StoredTensor(Spec(entry["name"], tuple(entry["dims"]), entry["dtype"], text_bytes), spans)


@dataclass(frozen=True, slots=True, order=True)
class ShardFile:
    """A checkpoint of one rank, told from its name; `rerun` counts the runs into one folder.

    `identity` is the file's `[size, mtime_ns, inode]` where it is: what changes when it is written again. A
    copy has an `owner`, the host that wrote the shard, and counts only if its bytes have the `sha256` that
    this one has told. `global_step` is what the file itself says, where that was looked for: see
    `cut/global_steps`.
    """

    rank: int
    epoch: int
    step: int
    rerun: int
    path: str
    identity: tuple[int, ...] = ()
    owner: str = ""
    sha256: str = ""
    global_step: int | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Of a copy: where its owner had it, below its checkpoint."""
        return self.path.rpartition("/checkpoint/")[2]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ShardFile:
        """From a row of the agent's `list_shards`."""
        rank, epoch, step, rerun = (int(row[key]) for key in ("rank", "epoch", "step", "rerun"))
        identity = tuple(int(number) for number in row.get("identity", ()))
        inside = row.get("global_step")
        return cls(
            rank,
            epoch,
            step,
            rerun,
            str(row["path"]),
            identity,
            str(row.get("owner") or ""),
            global_step=None if inside is None else int(inside),
        )
