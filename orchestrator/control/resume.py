"""What a run goes on as: its job with what is changed of it, on the hosts there are, in a layout that fits.

Nothing here touches a host. Which step it goes on from is `transfer.plan_resume`'s matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job, load_job_again
from orchestrator.config.run_terms import JobSource
from orchestrator.config.tasks import TRAINING
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import UsageError
from orchestrator.core.states import RunState
from orchestrator.plan.fewer_hosts import (
    Layout,
    fitting_counts,
    fitting_layouts,
    global_batch,
    job_on,
    on_names,
)
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.placement import hosts_of
from orchestrator.plan.spare_hosts import kept_inventory

__all__ = ["Changes", "NextJob", "counts_that_fit", "job_for_hosts", "next_job", "require_ended"]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a person changes for the next attempt; `job` is a file for a run that has kept none."""

    inventory: Path | None = None
    hosts: str = ""
    overrides: tuple[str, ...] = ()
    job: Path | None = None
    step: int | None = None
    accept_new_host_keys: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the job that are set."""
        return frozenset(text.partition("=")[0].strip() for text in self.overrides)


@dataclass(frozen=True, slots=True)
class NextJob:
    """The job of the next attempt, the hosts to choose from, and what was changed of it unasked."""

    job: Job
    inventory: Inventory
    notes: tuple[str, ...] = ()


def require_ended(record: RunRecord, before: LaunchPlan, wanted: NextJob, step: int | None = None) -> None:
    """Raise UsageError for a run that goes on already, never began, or has nothing left to do.

    Who names a `step` means it: from there there is something to do.
    """
    run_id = record.run_id
    if not record.state.is_terminal:
        remedy = f"watch it with `orchestrate attach {run_id}`, or end it first: `orchestrate stop {run_id}`"
        raise UsageError(f"{run_id} has not ended: it is {record.state}", remedy=remedy)
    if not record.has_started and record.attempts[-1].number == 1:
        raise UsageError(
            f"{run_id} has never started: there is nothing to go on with", remedy="launch its job again"
        )
    if record.state is RunState.SUCCEEDED and step is None and not _has_more(before, wanted.job):
        train = before.worker_settings.get("train") or {}
        done = f"all its {train['steps']} steps" if train.get("steps") else "all that it was to do"
        remedy = f"to train on: `orchestrate resume {run_id} --set train.steps=N`, with N above that"
        if wanted.job.task not in TRAINING:
            remedy = "launch its job again"
        raise UsageError(f"{run_id} has succeeded: it has done {done}", remedy=remedy)


def _has_more(before: LaunchPlan, job: Job) -> bool:
    old = before.worker_settings.get("train") or {}
    if job.train is None or job.task not in TRAINING:
        return False
    for key in ("steps", "epochs"):
        was, now = old.get(key), getattr(job.train, key)
        if was is not None and now is not None:
            return bool(now > was)
    return True  # steps for epochs: the workers find out


def next_job(before: LaunchPlan, changes: Changes) -> NextJob:
    """The job that the run goes on with, its global batch as it was. Raises ConfigError, UsageError.

    Where the hosts have another number of ranks than the layout, another is taken: the same cut of the model
    with other replicas where that fits, else the first that `plan --suggest` proposes.
    """
    source = _source(before, changes)
    inventory = _inventory(before, changes)
    job = _on_hosts(load_job_again(source, changes.overrides), changes, inventory)
    if job.task != before.task:
        what = f"{before.run_id} is a run of task {before.task}, and goes on as one, not as {job.task}"
        raise UsageError(what, remedy="leave the task, or launch a job of its own")
    hosts = hosts_of(job, inventory)
    world = len(hosts) * job.devices_per_host
    fitted, notes = _fitted(job, before, changes, hosts)
    return NextJob(fitted.with_replicas(world), inventory, tuple(notes))


def job_for_hosts(before: LaunchPlan, hosts: Sequence[Host]) -> NextJob:
    """The job of an attempt that begins by itself, on these hosts in this order, with the same global batch.

    It runs what was launched: the files that it names may be others now, or be gone.
    Raises ConfigError where no layout fits them, UsageError where the job was not kept.
    """
    job = load_job_again(_source(before, Changes()), needs_files=False)
    own = job.with_replicas(len(hosts) * job.devices_per_host)
    found = job_on(job, hosts, global_batch(before.worker_settings))
    found = found.with_replicas(len(hosts) * job.devices_per_host)
    notes: tuple[str, ...] = ()
    if own.train is not None and found.train is not None:
        now, was = Layout(found.parallel, found.train), Layout(own.parallel, own.train)
        notes = (_layout_note(found.parallel.world_size, now, was),) if now.words(was) else ()
    return NextJob(found, kept_inventory(before, hosts), notes)


def counts_that_fit(before: LaunchPlan, wanted: Sequence[Host]) -> tuple[int, ...]:
    """On how many of the `wanted` hosts of a run it can go on, from `restart.min_hosts` to all of them.

    Raises UsageError where its job was not kept.
    """
    job = on_names(load_job_again(_source(before, Changes()), needs_files=False), wanted)
    return fitting_counts(job, kept_inventory(before, wanted))


def _source(before: LaunchPlan, changes: Changes) -> JobSource:
    if changes.job is not None:
        source = load_job(changes.job).source
        assert source is not None  # it was read from a file just now
        return source
    if before.job is None:
        what = f"{before.run_id} was launched by an earlier version, or found again: its job was not kept"
        raise UsageError(what, remedy="name its file with --job")
    return before.job


def _inventory(before: LaunchPlan, changes: Changes) -> Inventory:
    """The given one; else the hosts of the attempt before."""
    if changes.inventory is not None:
        inventory = load_inventory(changes.inventory)
        return inventory.accepting_new_host_keys() if changes.accept_new_host_keys else inventory
    return kept_inventory(before)


def _on_hosts(job: Job, changes: Changes, inventory: Inventory) -> Job:
    """The job on the hosts that are named, or on those it had: groups of their inventory mean nothing now."""
    if changes.hosts:
        return job.model_copy(update={"hosts": (changes.hosts,), "host_count": None})
    if changes.inventory is None and not {"hosts", "host_count"} & changes.keys:
        return job.model_copy(update={"hosts": ("all",), "host_count": None})
    return job


def _fitted(job: Job, before: LaunchPlan, changes: Changes, hosts: Sequence[Host]) -> tuple[Job, list[str]]:
    """The job in a layout of as many ranks, with the global batch that the run has had."""
    world = len(hosts) * job.devices_per_host
    batch = global_batch(before.worker_settings)
    job = job.with_replicas(world)
    if job.task not in TRAINING or job.train is None or batch is None:
        return job, []
    if job.parallel.world_size == world and job.train.batch_size * job.parallel.data_parallel == batch:
        return job, []
    own = Layout(job.parallel, job.train)
    is_batch_given = bool({"train", "train.batch_size"} & changes.keys)
    is_fixed = any(key.startswith("parallel") for key in changes.keys)
    if job.parallel.world_size != world and is_fixed:
        return job, []  # which placing refuses, with what does not fit
    for layout in fitting_layouts(job, hosts, batch, fixed=is_fixed):
        if is_batch_given and layout.train.batch_size != job.train.batch_size:
            continue
        found = job.model_copy(update={"parallel": layout.parallel, "train": layout.train})
        return found, [_layout_note(world, layout, own)]
    raise UsageError(
        f"no layout of {world} ranks keeps the global batch of {batch} records",
        remedy="take other hosts, or set the layout by hand: --set parallel.data_parallel=… "
        f"--set train.batch_size=…, whose product is {batch}",
    )


def _layout_note(ranks: int, layout: Layout, before: Layout) -> str:
    count = "1 rank" if ranks == 1 else f"{ranks} ranks"
    return f"the layout of {count}: {', '.join(layout.words(before))}"
