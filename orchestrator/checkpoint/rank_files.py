"""The files of all ranks in a folder of this machine, as MindFormers, MindSpore and we leave them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.ckpt_read import list_shards
from orchestrator.checkpoint.host_files import ShardFile
from orchestrator.checkpoint.steps import choose_step
from orchestrator.checkpoint.strategy_set import StrategySet
from orchestrator.errors import CheckpointError

__all__ = ["RankFiles", "find_rank_files"]

_FOLDER = re.compile(r"rank_(\d{1,6})")
_SUFFIXES = (".ckpt", ".safetensors")


@dataclass(frozen=True, slots=True)
class RankFiles:
    """One file for each rank that has one, and the step they are of; `notes` say what was passed over."""

    files: Mapping[int, Path]
    epoch: int
    step: int
    notes: tuple[str, ...]


def find_rank_files(
    folder: Path,
    strategies: StrategySet | None,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
) -> RankFiles:
    """The newest step in `folder` that is complete, or `step`.

    Files without epoch and step in their name (as `transform_checkpoints` writes them) count where every
    `rank_<r>` folder holds one file. CheckpointError: no files, no complete step, files of unclear order.
    """
    rows = [ShardFile.of(row) for row in list_shards(str(folder))]
    if not rows:
        return _unnumbered(folder, step)
    world_size = strategies.world_size if strategies else max(row.rank for row in rows) + 1
    choice = choose_step(
        {str(folder): rows},
        strategies.by_rank() if strategies else {},
        world_size,
        step=step,
        with_optimizer=with_optimizer,
        replicated=replicated,
    )
    notes = [
        f"epoch {epoch} step {number} is not complete and was passed over"
        for epoch, number in choice.incomplete
    ]
    lacking = [rank for rank in range(world_size) if rank not in choice.files]
    if lacking:
        notes.append(f"rank {', '.join(map(str, lacking))}: no file of this step; a replica's is used")
    files = {rank: Path(path) for rank, (_, path) in choice.files.items()}
    return RankFiles(files, choice.epoch, choice.step, tuple(notes))


def _unnumbered(folder: Path, step: int | None) -> RankFiles:
    files: dict[int, Path] = {}
    for home in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _FOLDER.fullmatch(home.name)
        if match is None or not home.is_dir():
            continue
        found = sorted(f for f in home.iterdir() if f.suffix in _SUFFIXES and not f.name.startswith("."))
        if len(found) > 1:
            raise CheckpointError(
                f"{found[0].name} and {found[1].name} do not tell which is newer",
                where=str(home),
                remedy="keep one of them",
            )
        if found:
            files[int(match[1])] = found[0]
    if not files:
        raise CheckpointError(
            "holds no checkpoints",
            where=str(folder),
            remedy="expected rank_<r>/<prefix>_rank_<r>-<e>_<s>.ckpt",
        )
    if step is not None:
        raise CheckpointError(
            f"the names of the files do not tell which are of step {step}", where=str(folder)
        )
    return RankFiles(files, 0, 0, ())
