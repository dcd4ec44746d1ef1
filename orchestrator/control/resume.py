"""What a run goes on as: its job with what is changed of it, on the hosts there are, in a layout that fits.


Nothing here touches a host. Which step it goes on from is `transfer.plan_resume`'s matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job, JobSource
from orchestrator.config.job_file import load_job, load_job_again
from orchestrator.config.job_network import network_of
from orchestrator.config.worker_config import TRAINING
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import ConfigError, UsageError
from orchestrator.core.states import RunState
from orchestrator.families.network_config import NetworkConfig
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.placement import hosts_of
from orchestrator.sizing.device_memory import HBM
from orchestrator.sizing.estimate import estimate, size_of, workload_of
from orchestrator.sizing.suggest import suggest

__all__ = ["Changes", "NextJob", "next_job", "require_ended"]

_NO_LIMIT = 1 << 62


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
    hosts = hosts_of(job, inventory)
    world = len(hosts) * job.devices_per_host
    fitted, notes = _fitted(source, job, before, changes, hosts)
    job = _on_hosts(fitted, changes, inventory).with_replicas(world)
    return NextJob(job, inventory, tuple(notes))


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
    shown = Path(f"the hosts of {before.run_id}")
    copies = before.copies.over if before.copies is not None else None
    return Inventory(path=shown, hosts=before.hosts, ssh=before.ssh, copies=copies)


def _on_hosts(job: Job, changes: Changes, inventory: Inventory) -> Job:
    """The job on the hosts that are named, or on those it had: groups of their inventory mean nothing now."""
    if changes.hosts:
        return job.model_copy(update={"hosts": (changes.hosts,), "host_count": None})
    if changes.inventory is None and not {"hosts", "host_count"} & changes.keys:
        return job.model_copy(update={"hosts": ("all",), "host_count": None})
    return job


def _fitted(
    source: JobSource, job: Job, before: LaunchPlan, changes: Changes, hosts: Sequence[Host]
) -> tuple[Job, list[str]]:
    """The job in a layout of as many ranks, with the global batch that the run has had."""
    config = before.worker_settings
    world = len(hosts) * job.devices_per_host
    batch = _global_batch(config)
    job = job.with_replicas(world)
    if job.task not in TRAINING or job.train is None or batch is None:
        return job, []
    if job.parallel.world_size == world and job.train.batch_size * job.parallel.data_parallel == batch:
        return job, []
    given = {"train", "train.batch_size"} & changes.keys
    wanted = f"train.batch_size={job.train.batch_size}"
    is_fixed = any(key.startswith("parallel") for key in changes.keys)
    if job.parallel.world_size != world and is_fixed:
        return job, []  # which placing refuses, with what does not fit
    for words in _layouts(job, world, batch, hosts, fixed=is_fixed):
        if given and wanted not in words:
            continue
        try:
            found = load_job_again(source, (*changes.overrides, *words))
        except ConfigError:
            continue  # a batch that the micro batches do not divide, and the like
        if _fits(found.with_replicas(world), hosts):
            return found, [f"the layout of {world} ranks: {', '.join(words)}"]
    raise UsageError(
        f"no layout of {world} ranks keeps the global batch of {batch} records",
        remedy="take other hosts, or set the layout by hand: --set parallel.data_parallel=… "
        f"--set train.batch_size=…, whose product is {batch}",
    )


def _global_batch(config: Mapping[str, Any]) -> int | None:
    train, parallel = config.get("train") or {}, config.get("parallel") or {}
    if not train.get("batch_size") or not parallel.get("data_parallel"):
        return None
    return int(train["batch_size"]) * int(parallel["data_parallel"])


def _layouts(
    job: Job, world: int, batch: int, hosts: Sequence[Host], *, fixed: bool
) -> Iterator[tuple[str, ...]]:
    """Assignments that may make the job fit: with the model cut as it is, then what `suggest` ranks best."""
    parallel, train = job.parallel, job.train
    assert train is not None
    dp, rest = divmod(world, parallel.model_parallel * parallel.pipeline_stage)
    if not rest and dp and batch % dp == 0:
        size = batch // dp
        words = (f"parallel.data_parallel={dp}", f"train.batch_size={size}")
        # What a rank computes at a time stays as it was, so that its memory suffices as before.
        times = size // train.batch_size if size % train.batch_size == 0 else 1
        if times > 1:
            yield (*words, f"train.gradient_accumulation={train.gradient_accumulation * times}")
        yield words
        yield (*words, "train.gradient_accumulation=1")
    if not fixed:
        yield from _suggested(job, world, batch, hosts)


def _suggested(job: Job, world: int, batch: int, hosts: Sequence[Host]) -> Iterator[tuple[str, ...]]:
    try:
        network, workload = network_of(job), workload_of(job, _chips(hosts))
    except ConfigError:
        return  # a network that only the hosts know
    # All of the batch on one replica: how it is shared out is what is asked for.
    whole = replace(workload, cut=NetworkCut(network.family, 1, world, 1), batch_size=batch)
    limit = size_of(job.max_device_memory) if job.max_device_memory else _NO_LIMIT
    for found in suggest(network, whole, limit, hbm=_device_memory(hosts)):
        cut = found.workload.cut
        yield (
            f"parallel.data_parallel={cut.data_parallel}",
            f"parallel.model_parallel={cut.model_parallel}",
            f"parallel.pipeline_stage={cut.pipeline_stage}",
            f"parallel.micro_batch_num={found.workload.micro_batch_num}",
            f"parallel.optimizer_shard={str(cut.optimizer_shard).lower()}",
            f"train.batch_size={found.workload.batch_size}",
            "train.gradient_accumulation=1",
            f"train.recompute={str(found.workload.recompute).lower()}",
        )


def _fits(job: Job, hosts: Sequence[Host]) -> bool:
    """Whether a device has room for it, as far as anything says how much that is."""
    try:
        network, workload = network_of(job), workload_of(job, _chips(hosts))
    except ConfigError:
        return True  # a network that only the hosts know
    limit = size_of(job.max_device_memory) if job.max_device_memory else None
    return not list(workload.problems(network)) and _has_room(network, workload, limit, hosts)


def _has_room(network: NetworkConfig, workload: Any, limit: int | None, hosts: Sequence[Host]) -> bool:
    hbm = _device_memory(hosts)
    return (limit is None and hbm is None) or estimate(network, workload).fits(limit, hbm)


def _chips(hosts: Sequence[Host]) -> Collection[Any]:
    return {host.chip for host in hosts if host.chip is not None}


def _device_memory(hosts: Sequence[Host]) -> int | None:
    return min((HBM[host.chip] for host in hosts if host.chip in HBM), default=None)
