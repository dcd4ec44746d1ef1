"""The plan of a run's next attempt: the same run on hosts that may be others, and what must be as it was."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.config.inventory import Inventory
from orchestrator.config.job import Job
from orchestrator.config.tasks import TRAINING
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.core.records import Input, WorkerSpec
from orchestrator.plan.input_files import Shipment
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.mindformers_next import loads_its_own, other_run
from orchestrator.plan.mindformers_run import trains

__all__ = ["LOAD", "load_folder", "next_plan", "saved_layout"]

LOAD = "load"
# https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"
# What a rank's shard depends on, of `parallel`.
_LAYOUT = ("data_parallel", "model_parallel", "pipeline_stage", "optimizer_shard")
# The folders of inputs that the command line chooses.
_FOLDERS = {"data.path": "data", "data.tokenizer": "tokenizer", "model.preset": "preset"}
# Of the inputs: the bundled code may be a newer one, and what was loaded is loaded no more.
_LEFT = ("attempts/", "inputs/load/")
_MAY_DIFFER = ("code/", "inputs/load/")


def load_folder(number: int) -> str:
    """Where the ranks of an attempt find the shards that they go on from, in the run's directory."""
    return f"attempts/{number}/{LOAD}"


def next_plan(
    before: LaunchPlan,
    job: Job,
    inventory: Inventory,
    *,
    fresh: bool = False,
    by_itself: bool = False,
    overrides: Sequence[str] = (),
    token: Callable[[int], str] = secrets.token_hex,
) -> LaunchPlan:
    """Plan the attempt after `before`. Touches no host; reads the files it will ship.

    A training goes on from shards in `load_folder`; their `origin` says who chooses them. `fresh`: it begins
    anew, as any other task does. `by_itself`: nobody has asked for it, so that code and data are those that
    were launched, whatever has become of the files here. `overrides` are those of this attempt. Raises
    ConfigError: what `make_plan` does; another network or other data than the run has had.
    """
    number = before.attempt.number + 1
    resumes = (job.task in TRAINING or trains(job, before.run_source)) and not fresh
    if resumes:
        # What it began with is in the shards.
        options = dataclasses.replace(job.checkpoint, load=None, resume=None, distribute=False)
        job = job.model_copy(update={"checkpoint": options})
    plan = make_plan(
        job,
        inventory,
        now=before.created,
        run_id=before.run_id,
        number=number,
        token=token,
        load=load_folder(number) if resumes else "",
        mtbf=(before.worker_settings.get("checkpoint") or {}).get("mtbf"),
        shipped=_shipped(before, job, fresh=fresh) if by_itself else None,
        run_source=before.run_source if by_itself and before.run_source else None,
    )
    if resumes and job.task == "mindformers":
        if problems := other_run(before, plan, job):
            raise ConfigError(problems)
    elif resumes and (
        problems := [*_other_network(before, plan, job), *_other_inputs(before, plan, overrides)]
    ):
        raise ConfigError(problems)
    if job.task == "command":
        plan = _restarted(plan, number - 1)
    notes = [*plan.notes, *(_changed_notes(before, plan) if resumes else [])]
    return dataclasses.replace(plan, origin=None if resumes else (0, 0), notes=tuple(notes))


def _shipped(before: LaunchPlan, job: Job, *, fresh: bool) -> Shipment | None:
    """What the attempt before was given, but for what it went on from; None where more is needed."""
    settings = before.worker_settings
    loaded, loads = (settings.get("checkpoint") or {}).get("load") or "", job.checkpoint.load
    if job.task == "mindformers":
        loads = None  # each host was given its own; who begins anew with it is given it again
    if job.task == "mindformers":
        if fresh and loads_its_own(before):
            return None  # as below
    elif job.task != "command" and (job.task not in TRAINING or job.checkpoint.distribute):
        return None
    if loads and loaded.startswith("attempts/"):
        return None  # it begins anew, and the attempt before did not
    items = _items(before)
    # Of what lay beside the weights that it began with its tokenizer may be needed.
    kept, left = (settings.get("data") or {}).get("tokenizer"), ("attempts/",) if loads else _LEFT
    sent = [item for path, item in items.items() if path == kept or not path.startswith(left)]
    known = {item.sha256 for item in sent}
    sources = {sha256: path for sha256, path in before.sources.items() if sha256 in known}
    return Shipment(sent, sources, list(before.host_paths), settings=settings)


def _restarted(plan: LaunchPlan, count: int) -> LaunchPlan:
    """With the variable by which programs for torchrun know that they were started before."""

    def told(worker: WorkerSpec) -> WorkerSpec:
        return dataclasses.replace(worker, env={_RESTARTS: str(count), **worker.env})

    manifests = {
        name: dataclasses.replace(manifest, workers=tuple(map(told, manifest.workers)))
        for name, manifest in plan.manifests.items()
    }
    return dataclasses.replace(plan, manifests=manifests)


def saved_layout(plan: LaunchPlan) -> tuple[Any, ...]:
    """What the shards of an attempt are cut by; equal ones have equal shards, rank by rank."""
    parallel = plan.worker_settings.get("parallel") or {}
    return (plan.world_size, *(parallel.get(key) for key in _LAYOUT))


def _other_network(before: LaunchPlan, plan: LaunchPlan, job: Job) -> list[Problem]:
    """The shards are of one network, and so is what it was trained on."""
    old, new = before.worker_settings, plan.worker_settings
    problems = []
    for at in (("model", "overrides"), ("model", "preset"), ("data", "seq_length"), ("data", "template")):
        was, now = ((config.get(at[0]) or {}).get(at[1]) for config in (old, new))
        if old and was != now:
            what = f"is {now!r}, but the run has trained with {was!r}"
            problems.append(
                Problem(job.where(*at), what, "leave it, or launch a new run from its checkpoint")
            )
    return problems


def _other_inputs(before: LaunchPlan, plan: LaunchPlan, overrides: Sequence[str]) -> list[Problem]:
    """Files that the run was given, and that are others now under the same name."""
    was, now = _inputs(before), _inputs(plan)
    changed = [path for path in was if path in now and was[path] != now[path]]
    chosen = {_FOLDERS.get(text.partition("=")[0].strip(), "") for text in overrides}
    problems = []
    for path in changed:
        section = path.split("/")[1] if path.count("/") > 1 else path
        if section not in chosen:
            what = "is not what the run was given: the file has changed since"
            remedy = "put it back, or choose it with --set (data.path=… and so on) if it is meant"
            problems.append(Problem(str(plan.sources.get(now[path], path)), what, remedy))
    return problems


def _inputs(plan: LaunchPlan) -> dict[str, str]:
    items = _items(plan).items()
    return {path: item.sha256 for path, item in items if not path.startswith(_MAY_DIFFER)}


def _items(plan: LaunchPlan) -> dict[str, Input]:
    """The files that any host is given, by their paths there."""
    # Of a thousand hosts nearly all have the same tuple.
    inputs = {id(manifest.inputs): manifest.inputs for manifest in plan.manifests.values()}.values()
    return {item.path: item for each in inputs for item in each}


def _changed_notes(before: LaunchPlan, plan: LaunchPlan) -> list[str]:
    """What else of the worker's configuration is another one than before, a line each."""
    old, new = before.worker_settings, plan.worker_settings
    notes = []
    for section in ("train", "parallel", "data"):
        was, now = old.get(section) or {}, new.get(section) or {}
        notes += [
            f"{section}.{key} is {value}, of the attempt before {was[key]}"
            for key, value in now.items()
            if key in was and was[key] != value and (key != "tokenizer" or value is not None)
        ]
    return notes
