"""What a run YAML says that no run survives: refused at a launch, or told there.

Conditions of MindFormers: trainer/trainer.py (`_validate_auto_trans_ckpt_requirements`,
`_using_checkpoint_name_or_path_if_needed`) and core/callback/callback.py (`save_checkpoint`) of 1.9.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from orchestrator.config.job import Job
from orchestrator.config.run_yaml import RunYaml
from orchestrator.core.errors import Problem
from orchestrator.plan.mindformers_run import CompletedRun, saving_callback

__all__ = ["launch_notes", "launch_problems"]

# The paths that MindFormers believes to be shared, though it does not see a network file system there.
_SHARED = "SHARED_PATHS"


def launch_problems(job: Job, completed: CompletedRun) -> Iterator[Problem]:
    """Why MindFormers would fail as it starts. An attempt that goes on transforms nothing, and has none; nor
    does one that begins with what is distributed."""
    run, key = completed.run, ("auto_trans_ckpt",)
    if not run.get(*key) or job.checkpoint.distribute:
        return
    given = (
        ("load_checkpoint",),
        ("checkpoint", "load_path"),
        ("pretrained_model_dir",),
        ("model", "model_config", "checkpoint_name_or_path"),
    )
    if not any(run.get(*path) for path in given):
        what = "has nothing to transform: load_checkpoint is empty, and MindFormers would not start"
        yield Problem(_where(job, completed, key), what, "name the checkpoint, or write False")
        return
    hosts = math.prod(_degrees(completed)) // job.devices_per_host
    if hosts > 1 and not job.env.get(_SHARED):
        what = f"needs an output folder that all {hosts} hosts share, and each host has its own here"
        remedy = (
            "write False, and cut the checkpoint for this layout before: orchestrate checkpoint transform, "
            f"or split; where the run directories are on shared storage, name it in the job: env: {_SHARED}"
        )
        yield Problem(_where(job, completed, key), what, remedy)


def _where(job: Job, completed: CompletedRun, key: tuple[str, ...]) -> str:
    """Where a person wrote a key: in the job, or in the run YAML as it was before it was completed."""
    if job.mindformers is not None and ".".join(key) in job.mindformers.set:
        return job.where("mindformers", "set", *key)
    return RunYaml(completed.run.name, completed.source).where(key)


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
            f"{_where(job, completed, key)} is 1: MindFormers removes the file before it writes the next, so "
            "a failure in a save leaves nothing to go on from (keep 2 or more: "
            f"--set mindformers.set.{'.'.join(key)}=2)"
        )
