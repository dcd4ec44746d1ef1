"""The plan of a simulated run: a job on the hosts of an inventory, or on more that are made after them.

With a number of hosts, each is as the first of the job's hosts, has a name and addresses of its own
(`node0001`, …), and the job's replicas become as many as its other degrees leave of the ranks.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.config.host_ranges import MAX_HOSTS, fold
from orchestrator.config.inventory import Chip, Device, Host, Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.config.tasks import TRAINING
from orchestrator.core.errors import UsageError
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.placement import hosts_of
from orchestrator.rank_table.table import is_loopback
from orchestrator.simulation.cluster import synthetic_inventory
from orchestrator.simulation.timeline import EPOCH
from orchestrator.simulation.workload import Workload

__all__ = ["ScaledPlan", "scaled_plan"]

_MADE_UP = Path("(no inventory)")


@dataclass(frozen=True, slots=True)
class ScaledPlan:
    """The job and its plan, the ranks of each host, and what was changed of what was written, a line each."""

    job: Job
    plan: LaunchPlan
    ranks: dict[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    def workload(self, step: float) -> Workload:
        """What the workers do, as far as a simulation goes: steps of so many seconds, and saves."""
        trains = self.job.task in TRAINING
        return Workload(
            step=step,
            steps=self.job.train.steps if trains and self.job.train is not None else None,
            save_every=self.job.checkpoint.save_steps if trains else None,
            reports=trains,
        )


def scaled_plan(
    job_path: Path, inventory_path: Path | None, hosts: int | None, *, seed: int = 0
) -> ScaledPlan:
    """The plan of this job on its own hosts, made up without an inventory, or on so many.

    It is made when the simulation begins; what tells launches apart is drawn from the seed. Raises
    ConfigError and UsageError.
    """
    job, notes = load_job(job_path), []
    if job.checkpoint.copies:
        job = load_job(job_path, ("checkpoint.copies=0",))  # so that no later attempt has any either
        notes.append("checkpoint.copies: what copies cost is not simulated")
    written = None if hosts is not None else _written(inventory_path)
    if written is not None:
        inventory = _apart(written)
    else:
        if hosts is None:
            hosts = job.host_count or max(1, job.parallel.world_size // job.devices_per_host)
        if not 0 < hosts <= MAX_HOSTS:
            raise UsageError(f"{hosts:,} hosts cannot be simulated", remedy=f"1 to {MAX_HOSTS:,} can")
        like = _like(job, inventory_path)
        inventory = _with_spares(
            job, synthetic_inventory(like, hosts, job.devices_per_host), _written(inventory_path)
        )
        first = like.hosts[0]
        after = "made up" if like.path == _MADE_UP else f"each as {first.name} of {like.path}"
        notes.append(f"{fold(host.name for host in inventory.hosts)}: {after}")
        job, changed = _on_all(job, hosts)
        notes += changed
    drawn = random.Random(seed)
    plan = make_plan(job, inventory, now=EPOCH, token=lambda size: drawn.randbytes(size).hex())
    ranks: dict[str, tuple[int, ...]] = {}
    for placement in plan.placements:
        ranks[placement.host] = (*ranks.get(placement.host, ()), placement.rank)
    return ScaledPlan(job, plan, ranks, tuple(notes))


def _with_spares(job: Job, made: Inventory, written: Inventory | None) -> Inventory:
    """As many spares behind the hosts as the job's group has; one where that is not known."""
    group = (job.restart.spares or "").removeprefix("@")
    if not group:
        return made
    count = max(1, len(written.groups.get(group, ())) if written is not None else 1)
    all_hosts = synthetic_inventory(made, len(made.hosts) + count, job.devices_per_host).hosts
    names = tuple(host.name for host in all_hosts[len(made.hosts) :])
    return replace(made, hosts=all_hosts, groups={group: names})


def _written(path: Path | None) -> Inventory | None:
    """The inventory of this path, or of the places where one may lie; None where none is named or there."""
    try:
        return load_inventory(path)
    except UsageError:
        if path is not None:
            raise
        return None


def _apart(inventory: Inventory) -> Inventory:
    """Hosts that are folders of this machine, or its loopback addresses, as servers of their own."""
    hosts = []
    for index, host in enumerate(inventory.hosts):
        if host.transport == "local" or is_loopback(host.address):
            address = f"10.{200 + index // 62500}.{index // 250 % 250}.{index % 250 + 1}"
            host = replace(host, transport="ssh", address=address, env_script=None)
        hosts.append(host)
    return replace(inventory, hosts=tuple(hosts))


def _like(job: Job, path: Path | None) -> Inventory:
    """An inventory of which the job's first host is the first; a made-up host where none is written."""
    found = _written(path)
    if found is None:
        devices = tuple(Device(id=number) for number in range(job.devices_per_host))
        chip: Chip | None = "910B" if job.device_target == "Ascend" else None
        made_up = Host(name="host", address="127.0.0.1", devices=devices, chip=chip)
        return Inventory(path=_MADE_UP, hosts=(made_up,))
    first = hosts_of(job.model_copy(update={"host_count": None}), found)[0]
    return replace(found, hosts=(first,))


def _on_all(job: Job, hosts: int) -> tuple[Job, list[str]]:
    """The job on every host there is; its replicas fill them."""
    job = job.model_copy(update={"hosts": ("all",), "host_count": None})
    written, others = job.parallel, job.parallel.model_parallel * job.parallel.pipeline_stage
    ranks = hosts * job.devices_per_host
    is_free = (job.task == "command" and written.world_size == 1) or job.task == "chat"
    if is_free or ranks % others or written.world_size == ranks:
        return job, []
    scaled = dataclasses.replace(written, data_parallel=ranks // others)
    note = f"parallel.data_parallel is {scaled.data_parallel} on {ranks:,} ranks, not {written.data_parallel}"
    return job.model_copy(update={"parallel": scaled}), [note]
