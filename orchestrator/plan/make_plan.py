"""From a job and an inventory to the plan of one launch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.agent.worker_environment import (
    SCHEDULER_HOST,
    common_environment,
    default_environment,
    worker_environment,
)
from orchestrator.checkpoint.save_interval import default_mtbf
from orchestrator.config.inventory import LOCAL_ADDRESS, Host, Inventory
from orchestrator.config.job import Job
from orchestrator.config.job_network import network_of
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.config.run_terms import Health
from orchestrator.core.codec import to_json
from orchestrator.core.ends import SCHEDULER, label_of
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.core.records import Attempt, Input, Manifest, WorkerSpec
from orchestrator.plan.containers import container_of, device_seen, require_mounted, with_container
from orchestrator.plan.copy_ring import copy_ring
from orchestrator.plan.input_files import Shipment, ship, shipped_again
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.launch_table import launch_table
from orchestrator.plan.mindformers_run import CompletedRun, complete
from orchestrator.plan.mindformers_ship import packages_of, program_of, run_environment, ship_run
from orchestrator.plan.network_notes import network_notes
from orchestrator.plan.placement import Placement, place, seated
from orchestrator.plan.restart_notes import restart_notes
from orchestrator.plan.spare_hosts import spare_notes, spares_of
from orchestrator.rank_table.table import is_ip, is_loopback
from orchestrator.sizing.estimate import estimate
from orchestrator.sizing.saving import snapshot_bytes
from orchestrator.sizing.step_workload import workload_of

__all__ = ["make_plan", "new_run_id"]


# Tasks whose program is not the bundled model.
OTHERS = ("command", MINDFORMERS)
# What the bundled model's command line calls a task.
_VERBS = {"predict": "predict", "chat": "serve-chat"}


def new_run_id(job_name: str, now: float, token: Callable[[int], str] = secrets.token_hex) -> str:
    """A name that sorts by time and that two launches in one second do not share."""
    return f"{job_name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{token(2)}"


def make_plan(
    job: Job,
    inventory: Inventory,
    *,
    now: float | None = None,
    token: Callable[[int], str] = secrets.token_hex,
    run_id: str = "",
    number: int = 1,
    load: str = "",
    mtbf: float | None = None,
    shipped: Shipment | None = None,
    run_source: str | None = None,
) -> LaunchPlan:
    """Plan one launch. Touches no host; reads the files it will ship. Raises ConfigError.

    `token` gives the hexadecimal digits of so many bytes, by which launches are told apart. Of a run that
    goes on `run_id` and `number` name the attempt, and `load` the folder whose shards its workers resume
    from, as they see it. `mtbf` are the seconds between two failures that the job's earlier runs have had:
    workers that choose when to save are told so, see `checkpoint.save_every`. `shipped` is given to the hosts
    as it is, and no file read; nor is the run YAML of MindFormers, where `run_source` is its text.
    """
    created = time.time() if now is None else now
    run_id = run_id or new_run_id(job.name, created, token)
    attempt = Attempt(number, token(8))
    placements = place(job, inventory)
    written, job = job, job.with_replicas(len(placements))
    hosts = tuple(with_container(job, host, inventory) for host in _hosts_of(placements, inventory))
    spares = spares_of(job, inventory, hosts, number=number)
    spares = tuple(with_container(job, spare, inventory) for spare in spares)
    meets = len(placements) > 1  # one rank has nobody to find: no scheduler, no table
    has_scheduler, has_table = job.networking.has_scheduler and meets, job.networking.has_table and meets
    if has_scheduler:
        _require_reachable_master(hosts, inventory)
    copies, copy_notes = copy_ring(written, inventory, hosts, number=number)
    # What is at a path in a container need not be at that path of this machine.
    is_here = all(host.transport == "local" and host.container is None for host in hosts)
    completed = None
    if job.task == MINDFORMERS:
        device, ranks = device_seen(job, hosts[0], placements[0].device_id), len(placements)
        completed = complete(job, ranks=ranks, device=device, number=number, load=load, source=run_source)
        config: dict[str, Any] = {"task": job.task, "parallel": completed.degrees}
        placements = seated(placements, completed.degrees)
        shipment = ship_run(job, completed, resumes=bool(load)) if shipped is None else shipped
    elif shipped is not None:
        shipment, config = shipped, shipped_again(job, shipped)
    else:
        shipment, config = ship(job, hosts_are_here=is_here)
    require_mounted(job, (*hosts, *spares), shipment.host_paths)
    rank_table = _static_table(job, inventory, placements, hosts) if has_table else None
    if load and isinstance(options := config.get("checkpoint"), dict):
        config["checkpoint"] = {**options, "load": load, "resume": True}
    if isinstance(options := config.get("checkpoint"), dict) and options["save_every"] == "auto":
        config["checkpoint"] = {**options, "mtbf": options["mtbf"] or mtbf or default_mtbf(len(placements))}
    worker_config = yaml.safe_dump({"run_id": run_id, **config}, sort_keys=False, allow_unicode=True)
    placed = _by_host(placements)
    shared = _Shared(
        run_id=run_id,
        created=created,
        attempt=attempt,
        hosts=hosts,
        names=tuple(host.name for host in hosts),
        ranks=len(placements),
        inputs=tuple(shipment.inputs),
        argv=_argv(job, completed, attempt.number),
        env=_job_environment(job),
        literal=_literal(job),
        scheduler_host=_scheduler_host(hosts),
        launch=_launch_facts(job, completed.prefix if completed else job.checkpoint.prefix),
    )
    manifests = {host.name: _manifest(job, host, placed[host.name], shared) for host in hosts}
    return LaunchPlan(
        run_id=run_id,
        job_name=job.name,
        task=job.task,
        created=created,
        hosts=hosts,
        ssh=inventory.ssh,
        placements=placements,
        manifests=manifests,
        worker_config=worker_config,
        rank_table=rank_table,
        sources=shipment.sources,
        packages=_packages(job),
        host_paths=tuple(shipment.host_paths),
        chooses_port=has_scheduler and job.networking.port is None,
        ascend=job.device_target == "Ascend",
        uses_rank_table=has_table,
        timeouts=job.timeouts,
        notes=(
            *_replicas(written, job),
            *(spare_notes(job, inventory) if number == 1 else ()),
            *shipment.notes,
            *copy_notes,
            *network_notes(job, meets=meets),
            *(restart_notes(written) if number == 1 else ()),
        ),
        attempt=attempt,
        health=job.health,
        job=job.source,
        restart=job.restart,
        copies=copies,
        spares=spares,
        snapshot_bytes=_snapshots(job),
        run_yaml=completed.text if completed else "",
        run_source=completed.source if completed else "",
    )


def _packages(job: Job) -> tuple[str, ...]:
    if job.task == MINDFORMERS:
        return packages_of(job)
    return () if job.task == "command" else ("mindspore", "tokenizers")


def _snapshots(job: Job) -> int:
    """Bytes of a host's memory that the copies of its ranks' shards take at most; 0 where there are none, or
    only the hosts know the network."""
    if job.train is None or not job.checkpoint.asynchronous:
        return 0
    with suppress(ConfigError):
        network, workload = network_of(job), workload_of(job)
        if not any(workload.problems(network)):
            return snapshot_bytes(estimate(network, workload), job.devices_per_host)
    return 0  # what is wrong with it, the workers say


def _replicas(written: Job, job: Job) -> tuple[str, ...]:
    count = job.parallel.data_parallel
    if count == written.parallel.data_parallel or job.task in OTHERS:
        return ()
    return (f"parallel.data_parallel is left out: it is {count}, what the other degrees leave of the ranks",)


def _static_table(
    job: Job, inventory: Inventory, placements: Sequence[Placement], hosts: Sequence[Host]
) -> str | None:
    """The rank table by the inventory alone; None where only the hosts can tell the devices' addresses."""
    on_cpus = job.device_target == "CPU"
    if not on_cpus and all(host.transport == "local" and is_loopback(host.address) for host in hosts[:2]):
        _refuse_stand_ins(job, inventory, hosts)
    if len(hosts) > 1 and any(placement.device_ip is None for placement in placements):
        if on_cpus:
            where = job.where("networking", "mode")
            what = f"{job.networking.mode} needs the devices' addresses, which hosts without NPUs cannot tell"
            remedy = f"give `device_ips:` in {inventory.path}, or use mode dynamic"
            raise ConfigError([Problem(where, what, remedy)])
        return None
    intra_roce = job.env.get("HCCL_INTRA_ROCE_ENABLE") == "1"
    source = str(inventory.path)
    return launch_table(placements, hosts, source=source, intra_roce=intra_roce, on_cpus=on_cpus)


def _refuse_stand_ins(job: Job, inventory: Inventory, hosts: Sequence[Host]) -> None:
    """Processes of one machine as several Ascend servers: no rank table can say that."""
    if len(hosts) > 1:
        here = f"{len(hosts)} hosts of {inventory.path} are this machine"
        what = f"{job.networking.mode} is for Ascend servers, and {here}"
        remedy = "to try the job here: --set device_target=CPU, or --set networking.mode=none"
        raise ConfigError([Problem(job.where("networking", "mode"), what, remedy)])


def _hosts_of(placements: Sequence[Placement], inventory: Inventory) -> tuple[Host, ...]:
    known = {host.name: host for host in inventory.hosts}
    return tuple(known[name] for name in dict.fromkeys(placement.host for placement in placements))


def _require_reachable_master(hosts: Sequence[Host], inventory: Inventory) -> None:
    """The workers of all hosts connect to the first: its address must mean the same on each of them."""
    if is_loopback(hosts[0].address) and not all(is_loopback(host.address) for host in hosts):
        what = f"{hosts[0].address} of {hosts[0].name} is a loopback address, of no use to the other hosts"
        remedy = "give the address at which they reach it"
        raise ConfigError([Problem(f"{inventory.path}: {hosts[0].name}", what, remedy)])


@dataclass(frozen=True, slots=True)
class _Shared:
    """What is the same on all hosts of an attempt, made once for their thousands of ranks."""

    run_id: str
    created: float
    attempt: Attempt
    hosts: tuple[Host, ...]
    names: tuple[str, ...]
    ranks: int
    inputs: tuple[Input, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    literal: tuple[str, ...]
    scheduler_host: str
    launch: dict[str, Any]


def _manifest(job: Job, host: Host, mine: Sequence[Placement], shared: _Shared) -> Manifest:
    has_scheduler = host is shared.hosts[0] and job.networking.has_scheduler and shared.ranks > 1
    return Manifest(
        run_id=shared.run_id,
        job=job.name,
        host=host.name,
        created=shared.created,
        workers=tuple(_worker(job, placement, shared) for placement in mine),
        scheduler=_scheduler(job, shared) if has_scheduler else None,
        inputs=shared.inputs,
        devices=tuple(placement.device_id for placement in mine),
        port=job.networking.port if shared.ranks > 1 else None,
        address=host.address,
        lock_dir=host.lock_dir,
        env_script=host.env_script,
        grace=job.timeouts.grace,
        failure_grace=job.timeouts.failure_grace,
        lease=job.timeouts.prepare,
        world_size=shared.ranks,
        hosts=shared.names,
        launch=shared.launch,
        attempt=shared.attempt,
        monitor_lease=job.restart.lease if job.restart.max else None,
        holds=job.restart.lease if job.restart.max else None,
        container=container_of(job, host),
    )


def _by_host(placements: Sequence[Placement]) -> dict[str, list[Placement]]:
    found: dict[str, list[Placement]] = {}
    for placement in placements:
        found.setdefault(placement.host, []).append(placement)
    return found


def _launch_facts(job: Job, prefix: str) -> dict[str, Any]:
    """What a control node that never saw this launch needs to watch and collect the run."""
    facts = {"task": job.task, "timeouts": to_json(job.timeouts), "prefix": prefix}
    return facts if job.health == Health() else {**facts, "health": to_json(job.health)}


def _scheduler_host(hosts: Sequence[Host]) -> str:
    """Where all workers find the scheduler, as far as the inventory tells.

    On one host that is loopback: the address by which it is reached from here need not be its own (NAT).
    MindSpore takes no names (`Parse ip failed`): what one means on several hosts is asked at launch.
    """
    if len(hosts) == 1:
        return LOCAL_ADDRESS
    return hosts[0].address if is_ip(hosts[0].address) else SCHEDULER_HOST


def _worker(job: Job, placement: Placement, shared: _Shared) -> WorkerSpec:
    env = worker_environment(
        job.networking.mode if shared.ranks > 1 else "none",
        rank=placement.rank,
        world_size=shared.ranks,
        device_id=placement.device_id,
        scheduler_host=shared.scheduler_host,
        scheduler_port="{port}",
        attempt=shared.attempt.number,
    )
    common = _common(job, placement.rank, placement.local_rank, shared)
    label = label_of(placement.rank)
    return WorkerSpec(
        label=label,
        rank=placement.rank,
        local_rank=placement.local_rank,
        device_id=placement.device_id,
        argv=shared.argv,
        env={**common, **shared.env, **env},
        default_env=default_environment(label, ascend=job.device_target == "Ascend"),
        literal=shared.literal,
    )


def _scheduler(job: Job, shared: _Shared) -> WorkerSpec:
    # As msrun does: the scheduler is the job's own program in another role.
    env = worker_environment(
        job.networking.mode,
        rank=0,
        world_size=shared.ranks,
        device_id=0,
        scheduler_host=shared.scheduler_host,
        scheduler_port="{port}",
        attempt=shared.attempt.number,
        is_scheduler=True,
    )
    label = label_of(SCHEDULER)
    return WorkerSpec(
        label=label,
        rank=SCHEDULER,
        local_rank=-1,
        device_id=-1,
        argv=shared.argv,
        env={**_common(job, 0, 0, shared), **shared.env, **env},
        default_env=default_environment(label, ascend=job.device_target == "Ascend"),
        literal=shared.literal,
    )


def _common(job: Job, rank: int, local_rank: int, shared: _Shared) -> dict[str, str]:
    if job.task not in OTHERS:
        return {}
    meets_at_scheduler = job.networking.has_scheduler and shared.ranks > 1
    is_first = len(shared.hosts) > 1 and not meets_at_scheduler
    master = shared.hosts[0].address if is_first else shared.scheduler_host
    number = shared.attempt.number
    folders = run_environment(number, job.devices_per_host) if job.task == MINDFORMERS else {}
    return folders | common_environment(
        rank=rank,
        world_size=shared.ranks,
        local_rank=local_rank,
        local_world_size=job.devices_per_host,
        master=master,
    )


def _literal(job: Job) -> tuple[str, ...]:
    """The job's variables, which reach its workers as written; the code goes before a PYTHONPATH."""
    return tuple(name for name in job.env if job.task in OTHERS or name != "PYTHONPATH")


def _job_environment(job: Job) -> dict[str, str]:
    if job.task in OTHERS:
        return dict(job.env)
    path = ":".join(["{run_dir}/code", *filter(None, [job.env.get("PYTHONPATH")])])
    return {**job.env, "PYTHONPATH": path}


def _argv(job: Job, completed: CompletedRun | None, number: int) -> tuple[str, ...]:
    if completed is not None:
        return program_of(job, completed, number)
    if job.task == "command":
        return job.command or ()
    return ("{python}", "-m", "model", _VERBS.get(job.task, "train"), "--config", "worker.yaml")
