"""Converting checkpoints of this machine from any layout to any other: combine, split and transform.

A person names a folder of all ranks' files with its strategies, or one file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.assemble import Assembled, assemble
from orchestrator.checkpoint.atomic import mapped_errors, require_new
from orchestrator.checkpoint.copy_engine import copy_files
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.copy_plan import (
    CopyPlan,
    Output,
    plan_copies,
    rank_outputs,
    unknown_names,
    whole_output,
)
from orchestrator.checkpoint.files.strategy_files import StrategySet, read_strategy_set
from orchestrator.checkpoint.hf_layout import weight_groups, weight_index
from orchestrator.checkpoint.open_checkpoint import open_checkpoint, open_rank_files
from orchestrator.checkpoint.output_layout import Format, OutputLayout, lay_out
from orchestrator.checkpoint.shard_index import Shard
from orchestrator.core.errors import CheckpointError

__all__ = [
    "Conversion",
    "RankFolder",
    "kind_of",
    "open_ranks",
    "open_strategies",
    "plan_combine",
    "plan_split",
    "plan_transform",
    "require",
    "write",
]

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

    def assemble(self, *, with_optimizer: bool, with_texts: bool) -> Assembled:
        """The whole tensors; CheckpointError as from `checkpoint.assemble.assemble`."""
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
            for name, stored in shard.tensors.items():
                total[name] = total.get(name, 0) + stored.spec.nbytes
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
    CheckpointError: nothing complete, damaged files that no other can replace, strategies that contradict
    each other.
    """
    require(folder)
    if (folder / "checkpoint").is_dir():
        folder = folder / "checkpoint"
    strategies = open_strategies(folder, strategy)
    found, shards = open_rank_files(
        folder, strategies, step=step, with_optimizer=with_optimizer, replicated=replicated
    )
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


@dataclass(frozen=True, slots=True)
class Conversion:
    """What will be written: one file, or a folder of several.

    `left_out` gives for each reason the number of tensors and their bytes in the source.
    """

    plan: CopyPlan
    layout: OutputLayout
    left_out: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]
    step: int = 0

    @property
    def label(self) -> str:
        """`step 20, `, or nothing where no step is known."""
        return f"step {self.step}, " if self.step else ""

    @property
    def is_folder(self) -> bool:
        return self.layout.is_folder

    @property
    def sizes(self) -> list[int]:
        """The bytes of each file."""
        return [file.size for _, file in self.layout.files]


def plan_combine(
    checkpoint_dir: Path,
    strategy: Path | None,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
    format: Format = "ckpt",
    max_shard_bytes: int | None = None,
) -> Conversion:
    """All ranks' files as one file of whole tensors, or as several of at most `max_shard_bytes` and an index.

    CheckpointError: as from `open_ranks` and `checkpoint.assemble.assemble`; several files of another format.
    """
    source = open_ranks(
        checkpoint_dir, strategy, step=step, with_optimizer=with_optimizer, replicated=replicated
    )
    whole = source.assemble(with_optimizer=with_optimizer, with_texts=format == "ckpt")
    output = whole_output(whole)
    if max_shard_bytes is None:
        return _conversion(source, whole, [output], format)
    if format != "safetensors":
        raise CheckpointError("only safetensors can be written as several files with an index")
    groups = weight_groups(output.tensors, [spec.nbytes for spec in output.specs], max_shard_bytes)
    outputs = [Output(0, tuple(group)) for group in groups]
    names = [f"model-{n:05}-of-{len(outputs):05}.safetensors" for n in range(1, len(outputs) + 1)]
    index = weight_index([one.specs for one in outputs], names)
    texts = {"model.safetensors.index.json": index}
    return _conversion(source, whole, outputs, format, names, texts=texts)


def plan_split(
    file: Path, strategy: Path, *, with_optimizer: bool = False, format: Format = "ckpt"
) -> Conversion:
    """One checkpoint of whole tensors as the files of all ranks that the strategy is for.

    CheckpointError: damaged, a strategy that does not fit the tensors.
    """
    require(file)
    if file.is_dir() and any(file.glob("rank_*")):
        raise CheckpointError(
            "holds the files of ranks", where=str(file), remedy="use `orchestrate checkpoint transform`"
        )
    shard = open_checkpoint(file)
    source = RankFolder(file, (shard,), None, 0, 0, (), False)
    return _to_ranks(source, strategy, with_optimizer, format)


def plan_transform(
    checkpoint_dir: Path,
    strategy: Path | None,
    target: Path,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
    format: Format = "ckpt",
) -> Conversion:
    """The files of all ranks of one layout as those of another.

    CheckpointError: as from `plan_combine` and `plan_split`.
    """
    source = open_ranks(
        checkpoint_dir, strategy, step=step, with_optimizer=with_optimizer, replicated=replicated
    )
    return _to_ranks(source, target, with_optimizer, format)


def _to_ranks(source: RankFolder, target: Path, with_optimizer: bool, format: Format) -> Conversion:
    require(target)
    strategies = read_strategy_set(target)
    whole = source.assemble(with_optimizer=with_optimizer, with_texts=format == "ckpt")
    try:
        outputs = rank_outputs(whole, strategies)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=str(target), remedy=error.remedy) from error
    names = [
        f"rank_{output.rank}/checkpoint_rank_{output.rank}-{source.epoch}_{source.step}.{format}"
        for output in outputs
    ]
    notes = [*strategies.notes, *_unknown(whole, strategies, target)]
    return _conversion(source, whole, outputs, format, names, notes=notes)


def _unknown(whole: Assembled, strategies: StrategySet, target: Path) -> list[str]:
    names = unknown_names(whole, strategies)
    if not names:
        return []
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return [f"{target} names {len(names)} parameters that the checkpoint lacks: {shown}"]


def _conversion(
    source: RankFolder,
    whole: Assembled,
    outputs: Sequence[Output],
    format: Format,
    names: Sequence[str] = ("",),
    *,
    notes: Sequence[str] = (),
    texts: Mapping[str, bytes] | None = None,
) -> Conversion:
    if not whole.tensors:
        raise CheckpointError("holds no weights", where=str(source.folder))
    plan = plan_copies(whole, outputs)
    layout = lay_out([output.specs for output in outputs], format, names=names, texts=texts)
    sizes = source.sizes()
    left_out: dict[str, tuple[int, int]] = {}
    for name, reason in plan.skipped:
        count, nbytes = left_out.get(reason, (0, 0))
        left_out[reason] = (count + 1, nbytes + sizes[name])
    return Conversion(plan, layout, left_out, (*source.notes, *notes), source.step)


def write(
    conversion: Conversion,
    output: Path,
    options: CopyOptions | None = None,
    report: Report | None = None,
) -> None:
    """Write the file, or the folder, whole or not at all.

    CheckpointError: no room, `output` cannot be written; a folder that is not empty.
    """
    if conversion.is_folder:
        require_new(output)
        if output.is_dir():
            with mapped_errors(output):
                output.rmdir()
    copy_files(conversion.plan, output, conversion.layout, options, report)
