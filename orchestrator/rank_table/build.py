"""The rank table of a launch, from where its ranks are placed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.inventory import Chip, Host
from orchestrator.placement import Placement
from orchestrator.rank_table.model import (
    RankTable,
    RankTableDevice,
    RankTableServer,
    SuperPod,
    SuperPodServer,
)

__all__ = ["build_rank_table", "chip_of_hosts"]


def build_rank_table(
    placements: Sequence[Placement],
    hosts: Iterable[Host],
    *,
    super_pods: Mapping[str, str] | None = None,
    super_devices: Mapping[tuple[str, int], str] | None = None,
) -> RankTable:
    """The table of a placement, with the hosts' addresses as server ids; not yet checked.

    `super_pods` are the pod ids of A3 hosts, `super_devices` the ids of their devices in it; with them the
    table is of version 1.2.
    """
    pods, ids = super_pods or {}, super_devices or {}
    addresses = {host.name: host.address for host in hosts}
    servers: dict[str, list[RankTableDevice]] = {}
    for item in placements:
        servers.setdefault(item.host, []).append(_device(item, ids.get((item.host, item.device_id))))
    return RankTable(
        version="1.2" if pods else "1.0",
        server_count=str(len(servers)),
        server_list=tuple(
            RankTableServer(server_id=addresses[host], device=tuple(devices), host_nic_ip="reserve")
            for host, devices in servers.items()
        ),
        status="completed",
        **({"super_pod_list": _super_pods(servers, addresses, pods)} if pods else {}),
    )


def _super_pods(
    servers: Iterable[str], addresses: Mapping[str, str], pods: Mapping[str, str]
) -> tuple[SuperPod, ...]:
    members: dict[str, list[SuperPodServer]] = {}
    for host in servers:
        if host in pods:
            members.setdefault(pods[host], []).append(SuperPodServer(server_id=addresses[host]))
    return tuple(SuperPod(super_pod_id=pod, server_list=tuple(listed)) for pod, listed in members.items())


def _device(item: Placement, super_device_id: str | None) -> RankTableDevice:
    given = {"super_device_id": super_device_id, "device_ip": item.device_ip}
    fields: Mapping[str, str] = {name: value for name, value in given.items() if value}
    return RankTableDevice(device_id=str(item.device_id), rank_id=str(item.rank), **fields)


def chip_of_hosts(hosts: Iterable[Host]) -> Chip | None:
    """The kind of chip of all these hosts; None where it is not known of each, or differs."""
    kinds = {host.chip for host in hosts}
    return kinds.pop() if len(kinds) == 1 else None
