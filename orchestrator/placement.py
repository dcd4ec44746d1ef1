"""Which rank runs on which device of which host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.errors import ConfigError, Problem
from orchestrator.inventory import Host, Inventory, fold
from orchestrator.job import Job

__all__ = ["Placement", "place"]


@dataclass(frozen=True, slots=True)
class Placement:
    """One rank: its device, and its place (`dp`, `mp`, `pp`) in the parallel layout."""

    rank: int
    host: str
    local_rank: int
    device_id: int
    device_ip: str | None
    dp: int
    mp: int
    pp: int


def place(job: Job, inventory: Inventory) -> tuple[Placement, ...]:
    """All ranks in order: hosts as the job names them, on each the first `devices_per_host` devices.

    rank = stage*(dp*mp) + dp_index*mp + mp_index. So model-parallel neighbours share a host wherever
    `model_parallel` divides `devices_per_host`, and pipeline stages, which talk least, go across hosts.
    Raises ConfigError: unknown hosts, too few hosts or devices, a product that is not the world size.
    """
    hosts = _hosts(job, inventory)
    problems = [*_too_few_devices(job, hosts), *_wrong_product(job, len(hosts))]
    if problems:
        raise ConfigError(problems)
    return tuple(_placements(job, hosts))


def _hosts(job: Job, inventory: Inventory) -> tuple[Host, ...]:
    try:
        return inventory.select(job.hosts, job.host_count)
    except ConfigError as error:
        where = job.where("hosts")
        shown = str(inventory.path)
        found = [Problem(where, f"{problem.what} in {shown}", problem.remedy) for problem in error.problems]
        raise ConfigError(found) from None


def _too_few_devices(job: Job, hosts: tuple[Host, ...]) -> Iterator[Problem]:
    wanted = job.devices_per_host
    short: dict[int, list[str]] = {}
    for host in hosts:
        if len(host.devices) < wanted:
            short.setdefault(len(host.devices), []).append(host.name)
    for count, names in short.items():
        text = f"{wanted} ranks wanted on {fold(names)}, which has {count} devices"
        yield Problem(job.where("devices_per_host"), text, "lower it, or choose other hosts")


def _degrees(job: Job, world_size: int) -> tuple[int, int, int]:
    parallel = job.parallel
    if job.task == "command" and parallel.product == 1:
        return world_size, 1, 1  # a script of any kind: its ranks are replicas unless the job says otherwise
    return parallel.data_parallel, parallel.model_parallel, parallel.pipeline_stage


def _wrong_product(job: Job, host_count: int) -> Iterator[Problem]:
    world_size = host_count * job.devices_per_host
    dp, mp, pp = _degrees(job, world_size)
    if dp * mp * pp != world_size:
        text = (
            f"data_parallel {dp} × model_parallel {mp} × pipeline_stage {pp} = {dp * mp * pp}, but "
            f"{host_count} hosts × {job.devices_per_host} devices_per_host = {world_size}"
        )
        yield Problem(job.where("parallel"), text, "both sides must be equal")
    if world_size > 1 and job.networking.mode == "none" and job.task != "command":
        text = f"mode none cannot join {world_size} ranks"
        yield Problem(job.where("networking", "mode"), text, "use dynamic or rank_table")


def _placements(job: Job, hosts: tuple[Host, ...]) -> Iterator[Placement]:
    dp, mp, _ = _degrees(job, len(hosts) * job.devices_per_host)
    for host_index, host in enumerate(hosts):
        for local_rank, device in enumerate(host.devices[: job.devices_per_host]):
            rank = host_index * job.devices_per_host + local_rank
            yield Placement(
                rank=rank,
                host=host.name,
                local_rank=local_rank,
                device_id=device.id,
                device_ip=device.ip,
                dp=rank // mp % dp,
                mp=rank % mp,
                pp=rank // (dp * mp),
            )
