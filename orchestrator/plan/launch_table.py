"""The rank table of a launch, made of its placement and checked by the rules that HCCL will check it by."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.ascend.found_devices import FoundHost
from orchestrator.config.inventory import Chip, Host
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.plan.placement import Placement
from orchestrator.rank_table.findings import Finding, errors_of
from orchestrator.rank_table.rules import validate
from orchestrator.rank_table.table import (
    RankTable,
    RankTableDevice,
    RankTableServer,
    SuperPod,
    SuperPodServer,
    is_loopback,
)

__all__ = [
    "build_rank_table",
    "chip_of_hosts",
    "launch_table",
]


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


# What a rule's remedy is where the table comes from an inventory.
_REMEDIES = {
    "duplicate-server-id": "correct `address:`",
    "loopback-server-id": "give its real `address:`",
    "server-id-form": "give a shorter name or an IP as `address:`",
    "missing-device-ip": "add `device_ips:`",
    "duplicate-device-ip": "correct `device_ips:`",
    "mixed-ip-families": "use one family for all `device_ips:`",
    "subnets-910a": "correct `device_ips:`, or `chip:`",
}
_SERVER = re.compile(r"server_list\[(\d+)\]")


def launch_table(
    placements: Sequence[Placement],
    hosts: Sequence[Host],
    *,
    source: str = "",
    found: Mapping[str, FoundHost] | None = None,
    intra_roce: bool = False,
    on_cpus: bool = False,
) -> str:
    """The table as it will be on every host. Raises ConfigError with everything HCCL would refuse in it.

    `source` is the inventory's path, for messages; `found` is what the hosts' tools say, which is needed for
    the super pods of A3; `intra_roce` as for `validate`. On CPUs there is no HCCL to read the table, so that
    hosts which are all addresses of one machine may stand in it.
    """
    super_pods = {name: host.super_pod_id for name, host in (found or {}).items() if host.super_pod_id}
    super_devices = {
        (name, device.id): device.super_device_id
        for name, host in (found or {}).items()
        for device in host.devices
        if device.super_device_id
    }
    # Of an attempt on the hosts of the one before it is the same; for thousands of devices that is a second.
    said = tuple((host.name, host.address, host.chip) for host in hosts)
    made_of = (tuple(placements), said, super_pods, super_devices, intra_roce, on_cpus)
    for known, text in _made:
        if known == made_of:
            return text
    table = build_rank_table(placements, hosts, super_pods=super_pods, super_devices=super_devices)
    findings = validate(table, chip=chip_of_hosts(hosts), intra_roce=intra_roce)
    errors = errors_of(findings)
    if on_cpus and all(is_loopback(host.address) for host in hosts):
        errors = [error for error in errors if error.code != "loopback-server-id"]
    if errors:
        raise ConfigError(list(_at_their_hosts(errors, hosts, source)))
    text = table.to_json()
    _made.append((made_of, text))
    return text


# The last tables that nothing was wrong with, each with all that it was made of.
_made: deque[tuple[tuple[object, ...], str]] = deque(maxlen=4)


def _at_their_hosts(findings: Sequence[Finding], hosts: Sequence[Host], source: str) -> Iterator[Problem]:
    for finding in findings:
        match = _SERVER.match(finding.path)
        where = hosts[int(match[1])].name if match else "rank table"
        what = re.sub(r"\s*\(server_list\S+\)", "", finding.what)
        remedy = _REMEDIES.get(finding.code, finding.remedy)
        yield Problem(plain(f"{source}: {where}" if source else where), plain(what), remedy)
