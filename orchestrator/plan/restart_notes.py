"""What a job says about going on by itself and what comes of it that nobody may have meant, a line each."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.config.job import Job
from orchestrator.config.tasks import TRAINING

__all__ = ["restart_notes"]

_NEEDS_MAX = ("min_hosts", "wait", "on", "window", "lease")


def restart_notes(job: Job) -> Iterator[str]:
    """Keys of `restart` without effect, and what a run that goes on does not keep."""
    policy = job.restart
    if not policy.max:
        unused = [f"restart.{key}" for key in _NEEDS_MAX if job.says("restart", key)]
        if unused:
            are = "is not used" if len(unused) == 1 else "are not used"
            yield f"{', '.join(unused)} {are}: restart.max is 0, and a run that fails has ended"
        return
    if policy.wait and policy.min_hosts is None:
        yield (
            f"restart.wait: when hosts have been missing for {policy.wait:g} s the run ends; "
            "restart.min_hosts would let it go on with fewer"
        )
    if job.task in TRAINING and not _saves_on_the_way(job):
        yield "restart: without checkpoint.save_steps nothing is saved on the way: attempts begin anew"
    elif job.task == "predict":
        yield "restart: each attempt of a prediction answers all prompts anew"


def _saves_on_the_way(job: Job) -> bool:
    """Whether anything is saved before the end, by steps or by time."""
    return any(getattr(job.checkpoint, key, None) is not None for key in ("save_steps", "save_every"))
