"""Inspecting checkpoints and strategy files: what they hold, as rows to print, and what two differ in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.compare import distance, same_bits
from orchestrator.checkpoint.cut.slices import Layout, cuts
from orchestrator.checkpoint.files.strategy_files import StrategySet, read_strategy_set
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.host_files import MappedFiles
from orchestrator.checkpoint.open_checkpoint import open_checkpoint
from orchestrator.checkpoint.shard_index import Shard, StoredTensor
from orchestrator.transfer.convert import RankFolder, kind_of, open_ranks, require

__all__ = [
    "Difference",
    "Listing",
    "Row",
    "diff",
    "inspect",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor; `cut` is the number of pieces per axis, then of the optimizer's cut where there is one.

    `shape`, `type` and `nbytes` (of the whole tensor) are None where only a strategy tells of it.
    """

    name: str
    shape: tuple[int, ...] | None
    type: str | None
    cut: tuple[int, ...]
    stages: tuple[int, ...]
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found: its kind, facts about all of it, a row for each tensor, and notes."""

    kind: str
    facts: Mapping[str, int]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        rows = [asdict(row) for row in self.rows]
        return {"kind": self.kind, **self.facts, "tensors": rows, "notes": list(self.notes)}


def inspect(path: Path, strategy: Path | None = None, *, step: int | None = None) -> Listing:
    """List a checkpoint, the files of all ranks (with their strategies) or strategy files; no tensor is read.

    CheckpointError: nothing there, damaged, or ranks that do not fit together.
    """
    kind = kind_of(path)
    if kind == "strategy":
        return _of_strategies(read_strategy_set(path))
    if kind == "ranks":
        return _of_ranks(open_ranks(path, strategy, step=step, with_optimizer=True))
    shard = open_checkpoint(path)
    layouts = _layouts(read_strategy_set(strategy)) if strategy else {}
    specs = [stored.spec for stored in shard.tensors.values()]
    rows = [
        Row(spec.name, spec.dims, spec.dtype, *_cut(layouts.get(spec.name, ())), spec.nbytes)
        for spec in specs
    ]
    return Listing("checkpoint", _facts(rows), tuple(rows), ())


_Layouts = Mapping[str, Sequence[tuple[int, Layout]]]


def _layouts(strategies: StrategySet | None) -> _Layouts:
    found: dict[str, list[tuple[int, Layout]]] = {}
    for strategy in strategies.stages if strategies else ():
        for name, layout in strategy.layouts.items():
            found.setdefault(name, []).append((strategy.stage, layout))
    return found


def _cut(layouts: Sequence[tuple[int, Layout]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not layouts:
        return (), ()
    *pieces, optimizer = cuts(layouts[0][1])
    cut = (*pieces, optimizer) if optimizer > 1 else tuple(pieces)
    return cut, tuple(stage for stage, _ in layouts)


def _of_strategies(strategies: StrategySet) -> Listing:
    rows = [Row(name, None, None, *_cut(found), None) for name, found in _layouts(strategies).items()]
    facts = {"ranks": strategies.world_size, "stages": len(strategies.stages)}
    return Listing("strategy", facts, tuple(rows), strategies.notes)


def _of_ranks(folder: RankFolder) -> Listing:
    whole = folder.assemble(with_optimizer=True, with_texts=True)
    layouts = _layouts(folder.strategies)
    rows = [
        Row(
            one.spec.name,
            one.spec.dims,
            one.spec.dtype,
            *_cut(layouts.get(one.spec.name, ())),
            one.spec.nbytes,
        )
        for one in whole.tensors
    ]
    facts = {"files": len(folder.shards), "epoch": folder.epoch, "step": folder.step}
    if folder.strategies:
        facts |= {"ranks": folder.strategies.world_size, "stages": len(folder.strategies.stages)}
    return Listing("ranks", facts | _facts(rows), tuple(rows), folder.notes)


def _facts(rows: Iterable[Row]) -> dict[str, int]:
    known = [row for row in rows if row.nbytes is not None]
    elements = sum(math.prod(row.shape or ()) for row in known if row.type != "str")
    return {"parameters": elements, "nbytes": sum(row.nbytes or 0 for row in known)}


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
    files: MappedFiles, one: tuple[str, StoredTensor], other: tuple[str, StoredTensor], atol: float | None
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
