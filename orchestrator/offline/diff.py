"""What two checkpoints on this machine differ in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.compare import distance, same_bits
from orchestrator.checkpoint.gather import MappedFiles
from orchestrator.checkpoint.shard import Held, Shard
from orchestrator.checkpoint.stored import open_checkpoint
from orchestrator.checkpoint.tensor import Spec
from orchestrator.offline.sources import require

__all__ = ["Difference", "diff"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor that is not the same; `largest` is how far apart its values are, infinite if no number."""

    name: str
    what: str
    largest: float = math.inf


def diff(a: Path, b: Path, *, atol: float | None = None) -> list[Difference]:
    """Compare tensor by tensor: bit by bit, or (with `atol`) by value, whatever the types.

    The worst come first: names and shapes that differ, then the largest distance. CheckpointError: a file
    that cannot be read, or is no checkpoint.
    """
    for path in (a, b):
        require(path)
    one, other = open_checkpoint(a), open_checkpoint(b)
    with MappedFiles() as files:
        found = [*_only(one, other, a), *_only(other, one, b)]
        for name in one.tensors:
            if name in other.tensors:
                found += _compare(files, one, other, name, atol)
    return sorted(found, key=lambda difference: -difference.largest)


def _only(one: Shard, other: Shard, path: Path) -> Iterator[Difference]:
    return (Difference(name, f"is only in {path}") for name in one.tensors if name not in other.tensors)


def _compare(
    files: MappedFiles, one: Shard, other: Shard, name: str, atol: float | None
) -> Iterator[Difference]:
    a, b = one.tensors[name], other.tensors[name]
    path_a, path_b = a.path or one.path, b.path or other.path
    if not _comparable(a.spec, b.spec, atol):
        yield Difference(name, f"is {_kind(a.spec)} and {_kind(b.spec)}")
    elif a.spec == b.spec and same_bits(files, path_a, a, path_b, b):
        return
    elif a.spec.dtype == "str":
        yield Difference(name, "is another text")
    else:
        yield from _by_value(files, (path_a, a), (path_b, b), atol)


def _comparable(a: Spec, b: Spec, atol: float | None) -> bool:
    if "str" in (a.dtype, b.dtype):
        return a.dtype == b.dtype
    return a.dims == b.dims and (a.dtype == b.dtype or atol is not None)


def _kind(spec: Spec) -> str:
    return "a text" if spec.dtype == "str" else f"{spec.dtype} {list(spec.dims)}"


def _by_value(
    files: MappedFiles, one: tuple[str, Held], other: tuple[str, Held], atol: float | None
) -> Iterator[Difference]:
    spec = one[1].spec
    found = distance(files, *one, *other)
    if atol is not None and found.largest <= atol:
        return
    if not found.differing:
        yield Difference(spec.name, "has other bits of the same values (-0, NaN)", 0.0)
        return
    elements = math.prod(spec.dims)
    what = (
        f"differs in {found.differing:,} of {elements:,} elements, by {found.largest:.6g} at {list(found.at)}"
    )
    yield Difference(spec.name, what, found.largest)
