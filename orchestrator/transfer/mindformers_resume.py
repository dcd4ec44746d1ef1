"""The checkpoint from which a run of MindFormers goes on, in either of its forms.

Its legacy form, a file a rank, is chosen and brought as shards of ours are. Its checkpoint 2.0 is loaded from
all files of an iteration: MindFormers saves it only where all hosts share a folder, or on one host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.checkpoint.cut.attempt_steps import AttemptStep, SavedAttempt
from orchestrator.checkpoint.cut.complete_steps import Choice
from orchestrator.checkpoint.cut.iterations import IterationChoice, newest_iteration
from orchestrator.config.run_yaml import RunYaml
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import AgentError, CheckpointError, UsageError
from orchestrator.core.iteration_answers import IterationList
from orchestrator.core.paths import RUN_YAML
from orchestrator.core.records import Attempt, Load
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.transfer.mindformers_saves import meta_notes, resume_words
from orchestrator.transfer.saved_attempts import CheckedStep, choose_checked, iterations_of

__all__ = ["Found", "choose_mindformers", "require_steps_left"]

_JSON = ("common.json", "metadata.json")
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Found:
    """The step to go on from, and what the run YAML says for it.

    `loads` are the files of an iteration on each host, None where it is of shards.
    """

    step: CheckedStep
    words: Mapping[str, Any]
    loads: Mapping[str, tuple[Load, ...]] | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def choose_mindformers(
    fleet: Fleet,
    plan: LaunchPlan,
    attempts: Sequence[SavedAttempt],
    *,
    same_layout: Iterable[int],
    step: int | None = None,
) -> Found:
    """The newest step, or `step`, that is complete over all hosts, of shards or of an iteration.

    CheckpointError: there is none. UsageError: there is one, of ranks in another layout.
    """
    placed = {item.rank: item.host for item in plan.placements}
    # One that cannot be asked was told of already.
    said = {
        saved.number: iterations_of(fleet, plan.run_id, Attempt(saved.number, saved.token))
        for saved in attempts
    }
    if not any(any(saved.listed.values()) for saved in attempts) and not any(
        each.iterations for listed in said.values() for each in listed.values()
    ):
        remedy = "a callback CheckpointMonitor in its run YAML saves every `save_checkpoint_steps` steps"
        raise CheckpointError("no attempt has saved a checkpoint", remedy=remedy)
    errors: list[CheckpointError] = []
    found: list[Found] = []
    try:
        found.append(_of_shards(fleet, plan, attempts, said, placed, same_layout, step))
    except CheckpointError as error:
        errors.append(error)
    except AgentError as error:  # what a host says of its damaged file
        errors.append(CheckpointError(error.what, where=error.where, remedy=error.remedy))
    for saved in sorted(attempts, key=lambda each: -each.number):
        listed = said[saved.number]
        if not any(each.iterations for each in listed.values()):
            continue
        try:
            found.append(_of_iteration(plan, saved, listed, step))
            break
        except CheckpointError as error:
            errors.insert(0, error)
    if not found:
        raise errors[0]
    return max(found, key=lambda each: each.step.step.at)


def require_steps_left(record: RunRecord | None, before: LaunchPlan, plan: LaunchPlan, step: int) -> None:
    """UsageError: the step is the last that a run has, as MindFormers itself has told in its log lines.

    MindFormers would load it, compile for as long as that takes, and fail: `'epoch' must bigger than
    parameter 'initial_epoch'`. Where another number of ranks or epochs is asked for nobody knows yet.
    """
    if record is None or (before.world_size, _steps_by(before)) != (plan.world_size, _steps_by(plan)):
        return
    told = {
        total
        for view in record.hosts.values()
        for rank in (view.status.ranks if view.status is not None else ())
        if isinstance(total := rank.progress.get("total_steps"), int)
    }
    if told and 0 < min(told) <= step:
        run = record.run_id
        raise UsageError(
            f"step {step} is saved, the last of {min(told)}: nothing is left to train",
            remedy=f"`orchestrate collect-ckpt {run}` takes it; `orchestrate resume {run} --set "
            "mindformers.set.runner_config.epochs=N` trains on",
        )


def _steps_by(plan: LaunchPlan) -> list[Any]:
    """What the number of steps follows from, but for what the data themselves hold."""
    run = RunYaml(RUN_YAML, plan.run_yaml)
    return [run.get(key) for key in ("runner_config", "train_dataset", "train_dataset_task")]


def _of_shards(
    fleet: Fleet,
    plan: LaunchPlan,
    attempts: Sequence[SavedAttempt],
    said: Mapping[int, Mapping[str, IterationList]],
    placed: Mapping[int, str],
    same_layout: Iterable[int],
    step: int | None,
) -> Found:
    checked = choose_checked(fleet, attempts, placed=placed, same_layout=same_layout, step=step)
    saved = checked.step.attempt
    if checked.sources is None:
        what = f"step {checked.step.at[1]} was saved by {saved.world_size} ranks in another layout"
        remedy = (
            "go on with the layout that it was saved in, or `orchestrate collect-ckpt` and launch a new run"
        )
        raise UsageError(f"{what}: MindFormers goes on in the same one only", remedy=remedy)
    files = {rank: file for rank, (_, file) in checked.sources.items()}
    words = resume_words(plan.attempt.number, files, world_size=plan.world_size, needs_all=saved.needs_all)
    notes = meta_notes(said[saved.number], [file for _, file in checked.sources.values()])
    return Found(checked, words, notes=notes)


def _of_iteration(
    plan: LaunchPlan, saved: SavedAttempt, listed: Mapping[str, IterationList], step: int | None
) -> Found:
    chosen = newest_iteration(listed, step=step)
    loads = {
        host.name: _loads(host.name, chosen, listed.get(host.name) or IterationList()) for host in plan.hosts
    }
    whole = AttemptStep(saved, Choice(0, chosen.iteration, {}, {}))
    words = resume_words(plan.attempt.number, None, world_size=plan.world_size)
    return Found(CheckedStep(whole, {}, {}), words, loads, chosen.notes())


def _loads(host: str, chosen: IterationChoice, listed: IterationList) -> tuple[Load, ...]:
    """All files of the iteration, which each rank may read; CheckpointError: the host lacks some."""
    row = next((each for each in listed.iterations if each.iteration == chosen.iteration), None)
    places = (
        {path.rpartition("/")[2]: (path, identity) for path, identity in row.places.items()} if row else {}
    )
    named = [name for name in _JSON if name == _JSON[0] or len(chosen.files) > 2 or name in places]
    lacking = [name for name in (*chosen.files, *named) if name not in places]
    if lacking:
        more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
        raise CheckpointError(
            f"{host} lacks {', '.join(lacking[:_MOST_NAMED])}{more} of iteration {chosen.iteration}, "
            "and MindFormers loads its checkpoint 2.0 from all files of it on each host",
            remedy="let all hosts share the folder of runs, or save with use_legacy_format: True",
        )
    found = []
    for name in (*chosen.files, *named):
        with contextlib.suppress(KeyError):
            path, (size, changed, inode) = places[name]
            found.append(Load(name, path, (size, changed, inode)))
    return tuple(found)
