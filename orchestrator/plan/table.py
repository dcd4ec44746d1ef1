"""The rank table of a launch, checked by the rules that HCCL will check it by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.discovery import FoundHost
from orchestrator.errors import ConfigError, Problem
from orchestrator.inventory import Host
from orchestrator.placement import Placement
from orchestrator.rank_table import (
    Finding,
    build_rank_table,
    chip_of_hosts,
    errors_of,
    is_loopback,
    validate,
)
from orchestrator.yaml_words import plain

__all__ = ["launch_table"]

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
    table = build_rank_table(placements, hosts, super_pods=super_pods, super_devices=super_devices)
    findings = validate(table, chip=chip_of_hosts(hosts), intra_roce=intra_roce)
    errors = errors_of(findings)
    if on_cpus and all(is_loopback(host.address) for host in hosts):
        errors = [error for error in errors if error.code != "loopback-server-id"]
    if errors:
        raise ConfigError(list(_at_their_hosts(errors, hosts, source)))
    return table.to_json()


def _at_their_hosts(findings: Sequence[Finding], hosts: Sequence[Host], source: str) -> Iterator[Problem]:
    for finding in findings:
        match = _SERVER.match(finding.path)
        where = hosts[int(match[1])].name if match else "rank table"
        what = re.sub(r"\s*\(server_list\S+\)", "", finding.what)
        remedy = _REMEDIES.get(finding.code, finding.remedy)
        yield Problem(plain(f"{source}: {where}" if source else where), plain(what), remedy)
