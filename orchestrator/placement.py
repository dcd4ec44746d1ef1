"""Placement: which rank runs on which device of which host. Pure.

Ranks go through the hosts in the inventory's order, so that neighbouring ranks are neighbours in hardware:
rank = stage * (dp * mp) + dp_index * mp + mp_index keeps model-parallel groups inside a host and lets
pipeline stages, which talk least, go across hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError, Problem
from orchestrator.inventory import Host, Inventory
from orchestrator.job import Job, Parallel

__all__ = ["Placement", "place"]


@dataclass(frozen=True, slots=True)
class Placement:
    """One rank's device, and its coordinates in the data, model and pipeline groups."""

    rank: int
    host: str
    local_rank: int
    device_id: int
    device_ip: str | None
    dp: int
    mp: int
    pp: int


def place(job: Job, inventory: Inventory) -> tuple[Placement, ...]:
    """Place every rank. Raises ConfigError: no such hosts, too few devices, a product that does not fit."""
    hosts = _hosts(job, inventory)
    parallel = job.parallel or Parallel(data_parallel=len(hosts) * job.devices_per_host)
    problems = [*_too_few_devices(job, hosts), *_wrong_product(job, parallel, hosts)]
    if problems:
        raise ConfigError(problems)
    placements = []
    for index, host in enumerate(hosts):
        for local_rank, device in enumerate(host.devices[: job.devices_per_host]):
            rank = index * job.devices_per_host + local_rank
            in_stage = rank % (parallel.data_parallel * parallel.model_parallel)
            placements.append(
                Placement(
                    rank=rank,
                    host=host.name,
                    local_rank=local_rank,
                    device_id=device.id,
                    device_ip=device.ip,
                    dp=in_stage // parallel.model_parallel,
                    mp=in_stage % parallel.model_parallel,
                    pp=rank // (parallel.data_parallel * parallel.model_parallel),
                )
            )
    return tuple(placements)


def _hosts(job: Job, inventory: Inventory) -> tuple[Host, ...]:
    try:
        hosts = inventory.select(job.hosts, job.host_count)
    except ValueError as error:
        raise ConfigError([Problem(f"{job.path}: hosts", str(error))]) from None
    if not hosts:
        raise ConfigError([Problem(f"{job.path}: hosts", f"`{job.hosts}` names no host of {inventory.path}")])
    return hosts


def _too_few_devices(job: Job, hosts: Sequence[Host]) -> list[Problem]:
    return [
        Problem(
            f"{job.path}: devices_per_host",
            f"{job.devices_per_host} ranks wanted on {host.name}, which has {len(host.devices)} devices",
            "lower it, or give the host more `devices:` in the inventory",
        )
        for host in hosts
        if len(host.devices) < job.devices_per_host
    ]


def _wrong_product(job: Job, parallel: Parallel, hosts: Sequence[Host]) -> list[Problem]:
    world_size = len(hosts) * job.devices_per_host
    if parallel.product == world_size:
        return []
    left = (
        f"data_parallel {parallel.data_parallel} × model_parallel {parallel.model_parallel}"
        f" × pipeline_stage {parallel.pipeline_stage} = {parallel.product}"
    )
    right = f"{len(hosts)} hosts × {job.devices_per_host} devices_per_host = {world_size}"
    return [Problem(f"{job.path}: parallel", f"{left}, but {right}", "make both sides equal")]
