"""What a run YAML says that no run survives: refused at a launch, or told there.

Conditions of MindFormers: trainer/trainer.py (`_validate_auto_trans_ckpt_requirements`,
`_using_checkpoint_name_or_path_if_needed`), tools/ckpt_transform/transform_checkpoint.py (`TransformCkpt`),
utils/load_checkpoint_utils.py (`validate_config_with_file_mode`, `get_merged_dst_strategy_path`) and
core/callback/callback.py (`save_checkpoint`) of 1.9.0.
"""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.core.errors import Problem
from orchestrator.plan.mindformers_run import CompletedRun, saving_callback

__all__ = ["launch_notes", "launch_problems"]

_TRANSFORMS = ("auto_trans_ckpt",)
_PER_HOST = "npu_num_per_node"
_CUT = "cut the checkpoint for this layout before: orchestrate checkpoint transform, or split"


def launch_problems(job: Job, completed: CompletedRun) -> Iterator[Problem]:
    """Why MindFormers would fail as it starts, or wait for ever.

    An attempt that goes on transforms nothing, and has none; nor has one that begins with what is
    distributed.
    """
    run = completed.run
    if job.checkpoint.distribute:
        return
    loaded = next((path for path in _LOADED if run.get(*path)), None)
    if not run.get(*_TRANSFORMS):
        yield from _whole(job, completed, loaded)
    elif loaded is None:
        what = "has nothing to transform: load_checkpoint is empty, and MindFormers would not start"
        yield completed.places.problem(_TRANSFORMS, what, "name the checkpoint, or write False")
    elif (hosts := _hosts(job, completed)) > 1:
        # Also on shared storage: hosts have folders of their own there, and each would wait for the others'.
        what = f"needs an output folder that all {hosts} hosts share, and each host has its own here"
        yield completed.places.problem(_TRANSFORMS, what, f"write False, and {_CUT}")
    elif _is_odd(job.devices_per_host) and not run.get(_PER_HOST) and not _is_safetensors(completed):
        what = f"needs hosts of a power of two of devices, and here are {job.devices_per_host}"
        yield completed.places.problem(_TRANSFORMS, what, f"write {_PER_HOST}: 8 beside it")


_LOADED = (
    ("load_checkpoint",),
    ("checkpoint", "load_path"),
    ("pretrained_model_dir",),
    ("model", "model_config", "checkpoint_name_or_path"),
)


def _whole(job: Job, completed: CompletedRun, loaded: tuple[str, ...] | None) -> Iterator[Problem]:
    """Whole safetensors, Hugging Face's above all, are for several ranks only with `auto_trans_ckpt`."""
    run = completed.run
    ranks = math.prod(_degrees(completed))
    if loaded not in _LOADED[:3] or ranks == 1 or not _is_safetensors(completed):
        return
    text = str(run.get(*loaded))
    named = posixpath.normpath(text)
    if named.endswith(".safetensors"):
        if not posixpath.basename(posixpath.dirname(named)).startswith("rank_"):
            what = f"is one file, and several ranks load only a folder, by {_TRANSFORMS[0]}: True"
            yield completed.places.problem(loaded, what, _how(job, completed))
    elif _is_whole(job.local_path(text)):
        what = f"holds whole weights, which MindFormers loads on {ranks} ranks only by {_TRANSFORMS[0]}: True"
        yield completed.places.problem(loaded, what, _how(job, completed))


def _how(job: Job, completed: CompletedRun) -> str:
    if _hosts(job, completed) == 1:
        return f"name the folder, and write {_TRANSFORMS[0]}: True"
    return f"that needs an output folder which hosts share, and each has its own: {_CUT}"


def _is_whole(folder: Path | None) -> bool:
    """Whether a folder that is here has safetensors, and none of ranks."""
    try:
        names = os.listdir(folder) if folder is not None and folder.is_dir() else []
    except (OSError, ValueError):
        return False
    is_cut = any(name.startswith("rank_") for name in names)
    return not is_cut and any(name.endswith(".safetensors") for name in names)


def _is_safetensors(completed: CompletedRun) -> bool:
    """Whether they are read as safetensors, in the way of before "checkpoint 2.0"."""
    run = completed.run
    return run.get("load_ckpt_format") == "safetensors" and run.get("use_legacy_format") is not False


def _is_odd(count: int) -> bool:
    return count & (count - 1) != 0


def _hosts(job: Job, completed: CompletedRun) -> int:
    return math.prod(_degrees(completed)) // job.devices_per_host


def _degrees(completed: CompletedRun) -> Iterator[int]:
    """Of which the product is the number of ranks."""
    for key in ("data_parallel", "model_parallel", "context_parallel", "pipeline_stage"):
        yield completed.degrees[key]


def launch_notes(job: Job, completed: CompletedRun) -> Iterator[str]:
    """What a run that goes on by itself would not find."""
    found = saving_callback(completed.run)
    if not job.restart.max or not completed.trains or found is None:
        return
    path, callback = found
    if callback.get("keep_checkpoint_max") == 1:
        key = (*path, "keep_checkpoint_max")
        yield (
            f"{completed.places.where(key)} is 1: MindFormers removes the file before it writes the next, so "
            "a failure in a save leaves nothing to go on from (keep 2 or more: "
            f"--set mindformers.set.{'.'.join(key)}=2)"
        )
