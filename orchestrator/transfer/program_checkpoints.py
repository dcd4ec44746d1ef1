"""What a program of one's own has saved: its newest whole checkpoint, in any layout, for its next attempt.

How it loads that is the program's matter. It learns the folder and the step by two variables.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.cut.attempt_steps import SavedAttempt
from orchestrator.checkpoint.cut.iterations import newest_iteration
from orchestrator.core.errors import AgentError, CheckpointError
from orchestrator.core.iteration_answers import IterationList
from orchestrator.core.records import Attempt, WorkerSpec
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.transfer.saved_attempts import choose_checked, iterations_of

__all__ = ["ProgramCheckpoint", "newest_checkpoint", "telling"]

_FOLDER, _STEP = "ORCHESTRATE_CHECKPOINT", "ORCHESTRATE_CHECKPOINT_STEP"


@dataclass(frozen=True, slots=True)
class ProgramCheckpoint:
    """A checkpoint that is whole over all hosts; `notes` say what was passed over for it."""

    attempt: int
    step: int
    notes: tuple[str, ...] = ()


def newest_checkpoint(
    fleet: Fleet, run_id: str, attempts: Sequence[SavedAttempt]
) -> ProgramCheckpoint | None:
    """Of the newest attempt that has one: shards of all ranks, or an iteration of MindFormers' own form.

    None where nothing is whole that looks like a checkpoint: the program may have a form of its own.
    """
    for saved in sorted(attempts, key=lambda attempt: -attempt.number):
        attempt = Attempt(saved.number, saved.token)
        found = list(_of_attempt(fleet, saved, iterations_of(fleet, run_id, attempt)))
        if found:
            return max(found, key=lambda each: each.step)
    return None


def _of_attempt(
    fleet: Fleet, saved: SavedAttempt, iterations: Mapping[str, IterationList]
) -> Iterator[ProgramCheckpoint]:
    # None that is whole, of no rank all, or in a form of the program's own: then there is nothing to tell.
    with contextlib.suppress(CheckpointError, AgentError):
        shards = choose_checked(fleet, [saved], placed={}, same_layout=()).step
        yield ProgramCheckpoint(saved.number, shards.choice.step, tuple(shards.notes()))
    with contextlib.suppress(CheckpointError):
        whole = newest_iteration(iterations)
        yield ProgramCheckpoint(saved.number, whole.iteration, tuple(whole.notes()))


def telling(plan: LaunchPlan, found: ProgramCheckpoint) -> LaunchPlan:
    """The plan whose processes learn of the checkpoint, where the job does not use these names itself."""
    own = {_FOLDER: f"{{run_dir}}/attempts/{found.attempt}/checkpoint", _STEP: str(found.step)}

    def told(worker: WorkerSpec) -> WorkerSpec:
        return dataclasses.replace(worker, env={**own, **worker.env})

    manifests = {
        name: dataclasses.replace(
            manifest,
            workers=tuple(map(told, manifest.workers)),
            scheduler=told(manifest.scheduler) if manifest.scheduler else None,
        )
        for name, manifest in plan.manifests.items()
    }
    return dataclasses.replace(plan, manifests=manifests)
