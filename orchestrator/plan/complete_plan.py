"""The completion of a plan by what the hosts say: free devices, addresses, rank table, meeting place.

Planning touches no host, so it knows only what the inventory says. Before anything is put on the hosts, the
launch asks them, and their answer is what counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

from orchestrator.agent.worker_environment import SCHEDULER_HOST
from orchestrator.ascend.found_devices import FoundHost
from orchestrator.config.inventory import Device, Host
from orchestrator.config.run_yaml import RunYaml
from orchestrator.core.errors import ConfigError, HostsFailed, OrchestrateError, PreflightError
from orchestrator.core.record_class import replace
from orchestrator.core.records import Manifest, WorkerSpec
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.launch_table import launch_table
from orchestrator.plan.placement import Placement, choose_devices

__all__ = [
    "complete_plan",
    "on_free_devices",
]


# The variables that tell a worker where all of them meet.
_MEETING = ("MS_SCHED_HOST", "MASTER_ADDR")


def complete_plan(
    plan: LaunchPlan,
    found: Mapping[str, FoundHost],
    *,
    port: int | None = None,
    scheduler_host: str | None = None,
) -> LaunchPlan:
    """The plan with the rank table of the devices that were found, and with the scheduler's place.

    `port` and `scheduler_host` (an IP address) count where the plan leaves them open. On CPUs no device is
    found: their table has the inventory's addresses. Raises PreflightError, of several hosts HostsFailed:
    HCCL would refuse the table.
    """
    if plan.chooses_port and port is not None:
        plan = _with_manifests(plan, lambda manifest: replace(manifest, port=port))
    if scheduler_host is not None:
        plan = _with_manifests(plan, lambda manifest: _meeting_at(scheduler_host, manifest))
    return _with_table(plan, found) if plan.uses_rank_table else plan


def _with_manifests(plan: LaunchPlan, change: Callable[[Manifest], Manifest]) -> LaunchPlan:
    manifests = {name: change(manifest) for name, manifest in plan.manifests.items()}
    return dataclasses.replace(plan, manifests=manifests)


def _meeting_at(address: str, manifest: Manifest) -> Manifest:
    def told(worker: WorkerSpec) -> WorkerSpec:
        named = [name for name in _MEETING if worker.env.get(name) == SCHEDULER_HOST]
        return replace(worker, env={**worker.env, **dict.fromkeys(named, address)}) if named else worker

    return replace(
        manifest,
        workers=tuple(map(told, manifest.workers)),
        scheduler=told(manifest.scheduler) if manifest.scheduler else None,
    )


def _with_table(plan: LaunchPlan, found: Mapping[str, FoundHost]) -> LaunchPlan:
    placements = plan.placements
    if plan.ascend:
        placements = tuple(_at(item, found[item.host].device(item.device_id).ip) for item in placements)
    hosts = tuple(_with_chip(host, found.get(host.name)) for host in plan.hosts)
    on_cpus = not plan.ascend
    try:
        table = launch_table(placements, hosts, found=found, intra_roce=plan.intra_roce, on_cpus=on_cpus)
    except ConfigError as error:
        raise _unfit(error) from None
    return dataclasses.replace(plan, placements=placements, hosts=hosts, rank_table=table)


def _at(item: Placement, ip: str | None) -> Placement:
    # Of thousands few are elsewhere than was planned.
    return item if item.device_ip == ip else dataclasses.replace(item, device_ip=ip)


def _with_chip(host: Host, found: FoundHost | None) -> Host:
    chip = host.chip or (found.kind if found else None)
    return host if chip == host.chip else dataclasses.replace(host, chip=chip)


def _unfit(error: ConfigError) -> OrchestrateError:
    """What is wrong with the table is wrong on the hosts, not in a file."""
    by_host: dict[str, list[str]] = {}
    remedies: dict[str, str] = {}
    for problem in error.problems:
        by_host.setdefault(problem.where, []).append(problem.what)
        remedies.setdefault(problem.where, problem.remedy)
    errors: dict[str, OrchestrateError] = {
        where: PreflightError("; ".join(found), where=where, remedy=remedies[where])
        for where, found in by_host.items()
    }
    return HostsFailed.of(errors)


def on_free_devices(plan: LaunchPlan, busy: Mapping[str, Collection[int]]) -> LaunchPlan:
    """The plan with other devices on each host where some of those it meant are `busy` (ids by host).

    Two runs on a host get disjoint devices so. Where too few are free, or on a 910A none that share a ring,
    the host stays as planned: that its devices are busy is then for the checks to tell. Pure.
    """
    chosen: dict[str, tuple[Device, ...]] = {}
    for host in plan.hosts:
        meant = plan.manifests[host.name].devices
        if not set(meant) & set(busy.get(host.name, ())):
            continue
        devices = choose_devices(host, len(meant), busy[host.name])
        if devices is not None:
            chosen[host.name] = devices
    if not chosen:
        return plan
    return dataclasses.replace(
        plan,
        placements=tuple(_placement(item, chosen.get(item.host)) for item in plan.placements),
        run_yaml=_run_yaml(plan, chosen),
        manifests={
            name: _manifest(manifest, chosen[name]) if name in chosen else manifest
            for name, manifest in plan.manifests.items()
        },
    )


def _run_yaml(plan: LaunchPlan, chosen: Mapping[str, tuple[Device, ...]]) -> str:
    """With the device of a rank alone; of several, MindFormers takes each rank's own."""
    if not plan.run_yaml or len(plan.placements) > 1:
        return plan.run_yaml
    (rank,) = plan.placements
    container = plan.manifests[rank.host].container
    if container is not None and container.ascend and not container.is_privileged:
        return plan.run_yaml  # it is number 0 there, whichever it is
    run = RunYaml("mindformers.yaml", plan.run_yaml)
    run.set(("context", "device_id"), chosen[rank.host][rank.local_rank].id)
    return run.text


def _placement(item: Placement, devices: tuple[Device, ...] | None) -> Placement:
    if devices is None:
        return item
    device = devices[item.local_rank]
    return dataclasses.replace(item, device_id=device.id, device_ip=device.ip)


def _manifest(manifest: Manifest, devices: tuple[Device, ...]) -> Manifest:
    workers = tuple(_worker(worker, devices[worker.local_rank]) for worker in manifest.workers)
    return dataclasses.replace(manifest, workers=workers, devices=tuple(device.id for device in devices))


def _worker(worker: WorkerSpec, device: Device) -> WorkerSpec:
    env = {**worker.env, "DEVICE_ID": str(device.id)} if "DEVICE_ID" in worker.env else worker.env
    return dataclasses.replace(worker, device_id=device.id, env=env)
