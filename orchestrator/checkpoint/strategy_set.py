"""The strategies of all ranks, from whatever files tell them: one per rank, one per stage, or merged ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.layout import Layout
from orchestrator.checkpoint.strategy_file import Strategy, parse_strategies, read_content
from orchestrator.errors import CheckpointError

__all__ = ["StrategySet", "read_strategy_set"]

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
