"""A plan moved to devices that no other run holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from orchestrator.inventory import Device
from orchestrator.launch_plan import LaunchPlan
from orchestrator.placement import Placement, choose_devices
from orchestrator.records import Manifest, WorkerSpec

__all__ = ["on_free_devices"]


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
        manifests={
            name: _manifest(manifest, chosen[name]) if name in chosen else manifest
            for name, manifest in plan.manifests.items()
        },
    )


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
