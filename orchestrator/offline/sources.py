"""What a person names on the command line: a folder of all ranks' files with its strategies, or one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.rank_files import find_rank_files
from orchestrator.checkpoint.shard import Shard
from orchestrator.checkpoint.stored import open_checkpoint
from orchestrator.checkpoint.strategy_set import StrategySet, read_strategy_set
from orchestrator.checkpoint.whole import Whole, assemble
from orchestrator.errors import CheckpointError

__all__ = ["RankFolder", "kind_of", "open_ranks", "open_strategies", "require"]

_RANK_FOLDER = re.compile(r"rank_\d+")
# The first byte of a strategy file in protobuf: field 1 a number, or fields 2 and 3 messages.
_STRATEGY_BYTES = (b"\x08", b"\x12", b"\x1a")


@dataclass(frozen=True, slots=True)
class RankFolder:
    """The files of all ranks at one step, what they hold, and how it is cut (None: nothing is)."""

    folder: Path
    shards: tuple[Shard, ...]
    strategies: StrategySet | None
    epoch: int
    step: int
    notes: tuple[str, ...]
    replicated: bool

    def assemble(self, *, with_optimizer: bool, with_texts: bool) -> Whole:
        """The whole tensors; CheckpointError as from `checkpoint.whole.assemble`."""
        known = self.strategies.by_rank() if self.strategies else {}
        return assemble(
            self.shards,
            known,
            world_size=self.strategies.world_size if self.strategies else None,
            with_optimizer=with_optimizer,
            with_texts=with_texts,
            replicated=self.replicated,
        )

    def sizes(self) -> Mapping[str, int]:
        """The bytes that all files together hold of each tensor."""
        total: dict[str, int] = {}
        for shard in self.shards:
            for name, held in shard.tensors.items():
                total[name] = total.get(name, 0) + held.spec.nbytes
        return total


def require(path: Path) -> None:
    """Raise CheckpointError where there is nothing at `path`."""
    if not path.exists():
        raise CheckpointError("there is no such file or folder", where=str(path))


def open_strategies(folder: Path, given: Path | None) -> StrategySet | None:
    """The strategies that were named, else those in `strategy` beside the checkpoint folder, else None."""
    if given is not None:
        require(given)
        return read_strategy_set(given)
    beside = folder.absolute().parent / "strategy"
    return read_strategy_set(beside) if beside.is_dir() else None


def open_ranks(
    folder: Path,
    strategy: Path | None,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
) -> RankFolder:
    """Index the files of the newest complete step in `folder`, or of `step`; no tensor is read.

    `folder` may hold `checkpoint` and `strategy` (MindFormers' output) instead of the ranks' folders.
    CheckpointError: nothing complete, a file that is damaged, strategies that contradict each other.
    """
    require(folder)
    if (folder / "checkpoint").is_dir():
        folder = folder / "checkpoint"
    strategies = open_strategies(folder, strategy)
    found = find_rank_files(
        folder, strategies, step=step, with_optimizer=with_optimizer, replicated=replicated
    )
    shards = tuple(open_checkpoint(path, rank) for rank, path in sorted(found.files.items()))
    notes = (*(strategies.notes if strategies else ()), *found.notes)
    return RankFolder(folder, shards, strategies, found.epoch, found.step, notes, replicated)


def kind_of(path: Path) -> str:
    """`ranks`, `strategy` or `checkpoint`, from what is at `path`; CheckpointError where nothing is."""
    require(path)
    if path.is_dir():
        return _kind_of_folder(path)
    if path.suffix == ".json":
        return "strategy" if b'"parallel_layout_item"' in path.read_bytes() else "checkpoint"
    with path.open("rb") as file:
        first = file.read(1)
    return "strategy" if first in _STRATEGY_BYTES and path.suffix != ".safetensors" else "checkpoint"


def _kind_of_folder(path: Path) -> str:
    names = [entry.name for entry in path.iterdir()]
    if "checkpoint" in names or any(map(_RANK_FOLDER.fullmatch, names)):
        return "ranks"
    if any(name.endswith(".index.json") or name == "param_name_map.json" for name in names):
        return "checkpoint"
    files = [entry for entry in path.iterdir() if entry.suffix in (".ckpt", ".json")]
    return "strategy" if files and all(kind_of(file) == "strategy" for file in files) else "ranks"
