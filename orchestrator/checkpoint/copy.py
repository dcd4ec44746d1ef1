"""Carries out a plan whose shards and outputs are files of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.ckpt_file import lay_out_ckpt
from orchestrator.checkpoint.file_layout import FileLayout
from orchestrator.checkpoint.gather import MappedFiles
from orchestrator.checkpoint.new_output import new_output
from orchestrator.checkpoint.output_layout import lay_out_file
from orchestrator.checkpoint.plan import Copy, CopyPlan
from orchestrator.checkpoint.safetensors_file import lay_out_safetensors
from orchestrator.checkpoint.tensor import Spec
from orchestrator.checkpoint.write import FreeSpace, free_space
from orchestrator.errors import CheckpointError

__all__ = ["Format", "copy_files", "file_sizes", "lay_out"]

Format = Literal["ckpt", "safetensors"]
Progress = Callable[[int, int], None]


def lay_out(format: Format, specs: Sequence[Spec]) -> FileLayout:
    """Where a file of this format has each tensor."""
    return lay_out_safetensors(specs) if format == "safetensors" else lay_out_ckpt(specs)


def file_sizes(plan: CopyPlan, format: Format) -> list[int]:
    """The size in bytes of each file of the plan."""
    return [lay_out(format, output.specs).size for output in plan.outputs]


def copy_files(
    plan: CopyPlan,
    paths: Sequence[Path],
    format: Format,
    *,
    progress: Progress | None = None,
    free: FreeSpace = free_space,
) -> None:
    """Write every output of the plan to its path, each file whole or not at all.

    One chunk is in memory at a time. `progress` gets `(bytes done, bytes in all)`. CheckpointError: a shard
    that has changed, no room for all files, cannot be written.
    """
    _check_space(plan, paths, format, free)
    copies: list[list[Copy]] = [[] for _ in plan.outputs]
    for copy in plan.copies:
        copies[copy.output].append(copy)
    done = 0
    with MappedFiles() as files:
        for output, path, mine in zip(plan.outputs, paths, copies, strict=True):
            with mapped_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with new_output(path, lay_out_file(output.specs, format), free=free) as file:
                for copy in mine:
                    start = 0
                    for chunk in files.chunks(copy.path, copy.held, copy.part):
                        file.put(copy.tensor, copy.region, start, chunk)
                        start += len(chunk)
                        done += len(chunk)
                        if progress:
                            progress(done, plan.nbytes)


def _check_space(plan: CopyPlan, paths: Sequence[Path], format: Format, free: FreeSpace) -> None:
    folder = paths[0].parent
    while not folder.exists():
        folder = folder.parent
    need, have = sum(file_sizes(plan, format)), free(folder)
    if have < need:
        raise CheckpointError(
            f"needs {need / 1e9:.2f} GB and {folder} has {have / 1e9:.2f} GB free",
            where=str(paths[0] if len(paths) == 1 else folder),
            remedy="free some space or choose another folder",
        )
