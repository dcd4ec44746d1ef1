"""MindSpore's strategy files: how the parameters of each rank's stage are cut.

Formats: the protobuf message `mindspore.straspb.ParallelStrategyMap` of node_strategy.proto
(`current_stage = 1, parallel_strategy_item = 2, parallel_layout_item = 3`) and its JSON form. The strategies
of all ranks are read from whatever files tell them: one per rank, one per stage, or merged ones.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.cut.own_names import under_own_names
from orchestrator.checkpoint.cut.slices import Layout, MapEntry, cuts
from orchestrator.core.errors import CheckpointError
from orchestrator.families.registry import families
from orchestrator.formats import protobuf as wire
from orchestrator.formats.protobuf import bytes_field, varint_field

__all__ = [
    "Layout",
    "Strategy",
    "StrategySet",
    "parse_strategies",
    "parse_strategy",
    "read_content",
    "read_strategy",
    "read_strategy_set",
    "with_own_names",
    "write_strategy",
]

_MERGED_NAME = re.compile(r"(\d{1,6})-(.+)", re.ASCII)


@dataclass(frozen=True)
class Strategy:
    """A rank's pipeline stage, and the layout of every parameter (and optimizer moment) of that stage."""

    stage: int
    layouts: Mapping[str, Layout]

    @functools.cached_property
    def device_count(self) -> int:
        """The ranks of the stage."""
        return max((layout.device_count for layout in self.layouts.values()), default=1)


def read_strategy(path: str | Path) -> Strategy:
    """Read either form; CheckpointError: unreadable, damaged, merged, or a cut that is not supported."""
    return parse_strategy(read_content(path), str(path))


def parse_strategy(content: bytes, where: str) -> Strategy:
    """Like `read_strategy`, of a file's content that came from elsewhere; `where` is for the messages."""
    stages = parse_strategies(content, where)
    if len(stages) > 1:
        raise CheckpointError(
            f"is merged from {len(stages)} stages", where=where, remedy="name the strategy file of one rank"
        )
    return stages[0]


def read_content(path: str | Path) -> bytes:
    """The bytes of a strategy file; CheckpointError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def parse_strategies(content: bytes, where: str) -> tuple[Strategy, ...]:
    """The strategies that a file's content tells: one, or that of every stage where it is merged."""
    try:
        strategy = _from_json(content) if content.lstrip()[:1] == b"{" else _from_wire(content)
        strategies = [Strategy(one.stage, under_own_names(one.layouts)) for one in _stages(strategy)]
    except CheckpointError as error:
        raise CheckpointError(error.what, where=where, remedy=error.remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"is damaged or no strategy file: {error}", where=where) from error
    if not strategy.layouts:
        raise CheckpointError("holds no layouts", where=where)
    return tuple(strategies)


def _stages(strategy: Strategy) -> tuple[Strategy, ...]:
    """`merge_pipeline_strategys` puts `<stage>-` before every name."""
    matches = [_MERGED_NAME.fullmatch(name) for name in strategy.layouts]
    stages: dict[int, dict[str, Layout]] = {}
    for match, layout in zip(matches, strategy.layouts.values(), strict=True):
        if match is None:
            return (strategy,)
        stages.setdefault(int(match[1]), {})[match[2]] = layout
    return tuple(Strategy(stage, layouts) for stage, layouts in sorted(stages.items()))


def _from_wire(content: bytes) -> Strategy:
    stage: int | None = None
    layouts: dict[str, Layout] = {}
    for field in wire.fields(content, 0, len(content)):
        if field.number == 2 and stage is None:
            # current_stage counts something else in files of one stage; the items carry the stage.
            stage = _item_stage(content, field)
        elif field.number == 3:
            name, layout = _layout_item(content, field)
            layouts[name] = layout
    return Strategy(stage or 0, layouts)


def _parts(content: bytes, parent: wire.Field, number: int) -> list[wire.Field]:
    if parent.wire_type != wire.LENGTH:
        raise ValueError(f"field {parent.number} is no message")
    return [field for field in wire.fields(content, parent.start, parent.stop) if field.number == number]


def _item_stage(content: bytes, item: wire.Field) -> int:
    for strategies in _parts(content, item, 2):
        for field in _parts(content, strategies, 1):
            return field.value
    return 0


def _layout_item(content: bytes, item: wire.Field) -> tuple[str, Layout]:
    (name,) = _parts(content, item, 1)
    (layouts,) = _parts(content, item, 2)
    title = content[name.start : name.stop].decode()
    if layouts.wire_type != wire.LENGTH:
        raise ValueError(f"field {layouts.number} is no message")
    layout = _layout(content[layouts.start : layouts.stop])
    if layout is None:
        raise CheckpointError(f"{title} is cut unevenly, which is not supported")
    return title, layout


@functools.lru_cache(maxsize=4096)
def _layout(content: bytes) -> Layout | None:
    """The layout that a message describes, None for one that is uneven.

    A model has few different layouts, and its files have hundreds of parameters and as many moments.
    """
    message = wire.Field(0, wire.LENGTH, 0, 0, len(content))
    matrices, maps, shapes = (
        [_dims(content, field, bits) for field in _parts(content, message, number)]
        for number, bits in ((1, 64), (2, 32), (3, 64))
    )
    numbers = {n: [_signed32(field) for field in _parts(content, message, n)] for n in (5, 6, 7)}
    if any(numbers[5]) or any(shapes):
        return None
    # More than one tensor map: one per axis, each listing the grid axes that cut it.
    entries = [_entry(dims) for dims in maps if dims] if len(maps) > 1 else list(maps[0])
    return Layout(tuple(matrices[0]), tuple(entries), numbers[6][0], numbers[7][0])


def _entry(dims: list[int]) -> MapEntry:
    return dims[0] if len(dims) == 1 else tuple(dims)


def _dims(content: bytes, message: wire.Field, bits: int) -> list[int]:
    return [n for field in _parts(content, message, 1) for n in wire.integers(content, field, bits)]


def _signed32(field: wire.Field) -> int:
    return wire.integers(b"", field, 32)[0]


def _from_json(content: bytes) -> Strategy:
    table: dict[str, Any] = json.loads(content)
    items = table.get("parallel_strategy_item") or {}
    stage = next((int(item["stage"]) for item in items.values()), 0)
    return Strategy(
        stage, {name: _json_layout(name, item) for name, item in table["parallel_layout_item"].items()}
    )


def _json_layout(name: str, item: Mapping[str, Any]) -> Layout:
    if item.get("field") or item.get("param_split_shape"):
        raise CheckpointError(f"{name} is cut unevenly, which is not supported")
    entries = tuple(tuple(map(int, e)) if isinstance(e, list) else int(e) for e in item["tensor_map"])
    step, size = int(item.get("opt_weight_shard_step", 0)), int(item.get("opt_weight_shard_size", 0))
    return Layout(tuple(map(int, item["dev_matrix"])), entries, step, size)


def write_strategy(path: str | Path, strategy: Strategy) -> None:
    """Write the protobuf form, atomic, mode 0600; the same strategy always gives the same bytes.

    MindSpore's merge drops byte-identical files and refuses a file without a strategy item, so there is one.
    """
    if not strategy.layouts:
        raise CheckpointError("a strategy needs at least one layout", where=str(path))
    with replacing(Path(path)) as file:
        file.write(_to_wire(strategy))


def with_own_names(content: bytes, where: str) -> bytes:
    """The content of a rank's strategy file, written anew where its names are not the own ones."""
    if not any(prefix.encode() in content for family in families() for prefix in family.other_prefixes):
        return content
    return _to_wire(parse_strategy(content, where))


def _to_wire(strategy: Strategy) -> bytes:
    name, layout = next(iter(strategy.layouts.items()))
    parts = [
        varint_field(1, strategy.stage),
        bytes_field(2, bytes_field(1, name.encode()) + bytes_field(2, _operator(strategy.stage, layout))),
    ]
    for name, layout in strategy.layouts.items():
        parts.append(bytes_field(3, bytes_field(1, name.encode()) + bytes_field(2, _layout_bytes(layout))))
    return b"".join(parts)


def _operator(stage: int, layout: Layout) -> bytes:
    return varint_field(1, stage) + bytes_field(2, _numbers(cuts(layout)[:-1]))


def _layout_bytes(layout: Layout) -> bytes:
    nested = any(isinstance(entry, tuple) for entry in layout.tensor_map)
    maps = [e if isinstance(e, tuple) else (e,) for e in layout.tensor_map] if nested else [layout.tensor_map]
    if nested and len(maps) == 1:
        # One map alone would be read as one axis of the tensor per number; readers pass over an empty one.
        maps = [*maps, ()]
    parts = [bytes_field(1, _numbers(layout.dev_matrix))]
    parts += [bytes_field(2, _numbers(entries)) for entries in maps]
    # Two empty messages that MindSpore's reader expects to be there, and no field slicing.
    parts += [bytes_field(3, b""), bytes_field(4, b""), varint_field(5, 0)]
    parts += [varint_field(6, layout.opt_weight_shard_step), varint_field(7, layout.opt_weight_shard_size)]
    return b"".join(parts)


def _numbers(values: Iterable[MapEntry]) -> bytes:
    return b"".join(varint_field(1, value) for value in values if isinstance(value, int))


_RANK = re.compile(r".*_rank_(\d{1,6})\.\w+")
_SUFFIXES = (".ckpt", ".json")


@dataclass(frozen=True, slots=True)
class StrategySet:
    """One strategy for each pipeline stage, in order; `notes` say which files were left aside, and why."""

    stages: tuple[Strategy, ...]
    ranks_per_stage: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, stages: Sequence[Strategy], where: str = "", notes: Sequence[str] = ()) -> StrategySet:
        """CheckpointError: a stage is missing, or stages (or layouts) are made for different rank counts."""
        ordered = tuple(sorted(stages, key=lambda strategy: strategy.stage))
        found = [strategy.stage for strategy in ordered]
        missing = [stage for stage in range(min(found[-1], len(found)) + 1) if stage not in found]
        if missing:
            raise CheckpointError(
                f"tells of stage {', '.join(map(str, found))}, but not of stage {missing[0]}",
                where=where,
                remedy="name a folder with the strategy files of all stages",
            )
        sizes = [max(layout.device_count for layout in one.layouts.values()) for one in ordered]
        for strategy, size in zip(ordered, sizes, strict=True):
            if size != sizes[0]:
                raise CheckpointError(
                    f"stage 0 has {sizes[0]} ranks and stage {strategy.stage} has {size}", where=where
                )
            _check_counts(strategy, size, where)
        return cls(ordered, sizes[0], tuple(notes))

    @property
    def world_size(self) -> int:
        return self.ranks_per_stage * len(self.stages)

    def by_rank(self) -> Mapping[int, Strategy]:
        """The strategy of every rank: stages are equally large blocks in rank order."""
        return {rank: self.stages[rank // self.ranks_per_stage] for rank in range(self.world_size)}


def _check_counts(strategy: Strategy, size: int, where: str) -> None:
    for name, layout in strategy.layouts.items():
        if size % layout.device_count:
            raise CheckpointError(
                f"{name} is laid out for {layout.device_count} ranks, others for {size}", where=where
            )


@dataclass(frozen=True, slots=True)
class _File:
    """A strategy file that was read: what it says of each stage, and the rank in its name."""

    path: Path
    strategies: tuple[Strategy, ...]
    rank: int | None


def read_strategy_set(path: str | Path) -> StrategySet:
    """Read a strategy file or a folder of them.

    A merged file beside files of single ranks is left aside: it may be older than they are.
    CheckpointError: unreadable, damaged or no such files, two that contradict each other, a missing stage.
    """
    path = Path(path)
    known: dict[bytes, tuple[Strategy, ...]] = {}
    files = [_read(file, known) for file in _files(path)]
    single = [file for file in files if len(file.strategies) == 1 and not _is_merged(file)]
    counted = single or files
    stages = _agree(counted)
    _check_ranks(counted, stages)
    notes = [_note(file, stages) for file in files if file not in counted]
    return StrategySet.of(list(stages.values()), str(path), notes)


def _is_merged(file: _File) -> bool:
    return file.rank is None and file.path.stem.startswith("merged")


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        files = sorted(f for f in path.iterdir() if f.suffix in _SUFFIXES and not f.name.startswith("."))
    except OSError as error:
        raise CheckpointError(f"cannot be listed: {error.strerror or error}", where=str(path)) from error
    if not files:
        raise CheckpointError("holds no strategy files (*.ckpt, *.json)", where=str(path))
    return files


def _read(path: Path, known: dict[bytes, tuple[Strategy, ...]]) -> _File:
    # The ranks of a stage mostly write the same bytes.
    content = read_content(path)
    if content not in known:
        known[content] = parse_strategies(content, str(path))
    match = _RANK.fullmatch(path.name)
    return _File(path, known[content], int(match[1]) if match else None)


def _agree(files: Iterable[_File]) -> dict[int, Strategy]:
    """The strategy of each stage; CheckpointError where two files tell two things of one."""
    stages: dict[int, tuple[Strategy, Path]] = {}
    for file in files:
        for strategy in file.strategies:
            known, source = stages.setdefault(strategy.stage, (strategy, file.path))
            name = _difference(known.layouts, strategy.layouts)
            if name is not None:
                raise CheckpointError(
                    f"contradicts {source.name} on {name} of stage {strategy.stage}",
                    where=str(file.path),
                    remedy="remove what is left from another run",
                )
    return {stage: strategy for stage, (strategy, _) in stages.items()}


def _difference(one: Mapping[str, Layout], other: Mapping[str, Layout]) -> str | None:
    names = [*one, *(name for name in other if name not in one)]
    return next((name for name in names if one.get(name) != other.get(name)), None)


def _check_ranks(files: Iterable[_File], stages: Mapping[int, Strategy]) -> None:
    size = max(layout.device_count for one in stages.values() for layout in one.layouts.values())
    for file in files:
        stage = file.strategies[0].stage
        if file.rank is not None and len(file.strategies) == 1 and file.rank // size != stage:
            raise CheckpointError(
                f"is of stage {stage}, but with {size} ranks a stage, rank {file.rank} is in stage "
                f"{file.rank // size}",
                where=str(file.path),
                remedy="remove what is left from another run",
            )


def _note(file: _File, stages: Mapping[int, Strategy]) -> str:
    told = {strategy.stage: strategy for strategy in file.strategies}
    differs = told.keys() != stages.keys() or any(
        _difference(told[stage].layouts, stages[stage].layouts) for stage in told
    )
    reason = "it says otherwise than the ranks' own files" if differs else "the ranks' own files say it too"
    return f"{file.path} is left aside: {reason}"
