"""A rank table against an inventory, and against what the servers' own tools say now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.discovery import FoundHost, discover
from orchestrator.errors import OrchestrateError
from orchestrator.fleet import fleet_of
from orchestrator.inventory import Chip, Host, Inventory, chip_named
from orchestrator.rank_table import Finding, RankTable, RankTableServer, Severity

__all__ = ["Compared", "compare_with_hosts", "compare_with_inventory", "hosts_of"]

_INVENTORY = "the inventory"


@dataclass(frozen=True, slots=True)
class Compared:
    """What does not agree; the hosts that could not be asked; the chip, where all hosts name one kind."""

    findings: tuple[Finding, ...]
    errors: Mapping[str, OrchestrateError]
    chip: Chip | None


def hosts_of(table: RankTable, inventory: Inventory) -> list[Host | None]:
    """The host of every server of the table, by its address or its name; None where there is none."""
    known = {host.name: host for host in inventory.hosts}
    known |= {host.address: host for host in inventory.hosts}
    return [known.get(server.server_id) for server in table.server_list]


def compare_with_inventory(table: RankTable, inventory: Inventory) -> list[Finding]:
    """Every server that is no host, device that is not listed, and address that is another. Pure."""
    hosts = hosts_of(table, inventory)
    findings: list[Finding] = []
    for index, (server, host) in enumerate(zip(table.server_list, hosts, strict=True)):
        if host is None:
            what = f"{server.server_id} is the address of no host in {inventory.path}"
            path, remedy = f"server_list[{index}].server_id", "add the host, or correct its `address:`"
            unknown = (server.server_id,)
            findings.append(Finding("not-in-inventory", Severity.ERROR, path, what, remedy, unknown))
        else:
            findings += _against_entry(index, server, host)
    order = [inventory.hosts.index(host) for host in hosts if host is not None]
    if order != sorted(order):
        names = tuple(host.name for host in hosts if host is not None)
        what = f"servers are not in the order of the inventory: {', '.join(names[:8])}"
        remedy = "`orchestrate rank-table merge --inventory` orders them so"
        findings.append(Finding("inventory-order", Severity.WARNING, "server_list", what, remedy, names))
    return findings


def _against_entry(index: int, server: RankTableServer, host: Host) -> Iterator[Finding]:
    static = {str(device.id): device.ip for device in host.devices}
    for position, device in enumerate(server.device):
        path = f"server_list[{index}].device[{position}]"
        if device.device_id not in static:
            what = f"{device.device_id} is no device of {host.name} in the inventory"
            given = (device.device_id,)
            yield Finding(
                "not-in-inventory", Severity.ERROR, f"{path}.device_id", what, "see `devices:`", given
            )
            continue
        ip = static[device.device_id]
        if ip and device.device_ip and ip != device.device_ip:
            what = f"is {device.device_ip}, but {ip} in the inventory"
            values = (device.device_ip, ip)
            yield Finding(
                "other-device-ip", Severity.ERROR, f"{path}.device_ip", what, "correct one of them", values
            )


def compare_with_hosts(table: RankTable, inventory: Inventory) -> Compared:
    """Ask the tools of all the table's servers at once and compare. Raises nothing but ConfigError."""
    hosts = hosts_of(table, inventory)
    findings = [
        finding
        for finding in compare_with_inventory(table, inventory)
        # What the tools say decides about addresses.
        if finding.code != "other-device-ip"
    ]
    asked = {host.name: host for host in hosts if host is not None}
    wanted = {
        host.name: [
            number for device in server.device if (number := _device_number(device.device_id)) is not None
        ]
        for server, host in zip(table.server_list, hosts, strict=True)
        if host is not None
    }
    with fleet_of(asked.values(), inventory.ssh) as fleet:
        answers = discover(fleet, wanted)
    owners = {
        device.ip: f"device {device.id} of {name}"
        for name, found in answers.values.items()
        for device in found.devices
        if device.ip
    }
    for index, (server, host) in enumerate(zip(table.server_list, hosts, strict=True)):
        if host is not None and host.name in answers.values:
            findings += _against_tools(index, server, answers.values[host.name], owners)
    kinds = {chip_named(found.chip or "") for found in answers.values.values()}
    chip = kinds.pop() if len(kinds) == 1 else None
    return Compared(tuple(findings), answers.errors, chip)


def _device_number(text: str) -> int | None:
    """A number that a tool can be asked about; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None


def _against_tools(
    index: int, server: RankTableServer, found: FoundHost, owners: Mapping[str, str]
) -> Iterator[Finding]:
    remedy = "generate the tables again, or correct the device"
    for position, device in enumerate(server.device):
        path = f"server_list[{index}].device[{position}]"
        number = _device_number(device.device_id)
        if number is None:
            continue  # the rules have told that it is none
        here = found.device(number)
        name = f"device {device.device_id} of {found.host}"
        said, values = here.ip or "none", (device.device_ip, here.ip or "")
        if not here.ip or here.source == _INVENTORY:
            if not device.device_ip:
                continue
            what = f"the tools of {found.host} name no address of {name}: {here.trouble or here.source}"
            yield Finding("live-no-ip", Severity.ERROR, f"{path}.device_ip", what, here.remedy, values)
        elif device.device_ip and said not in device.device_ip.split(","):
            owner = owners.get(device.device_ip)
            more = f"; {device.device_ip} is that of {owner}" if owner else ""
            what = f"is {device.device_ip}, but {name} has {said} now{more}"
            yield Finding("live-device-ip", Severity.ERROR, f"{path}.device_ip", what, remedy, values)
        sdid = here.super_device_id
        if device.super_device_id and sdid and sdid != device.super_device_id:
            what = f"is {device.super_device_id}, but {name} has {sdid} now"
            pair = (device.super_device_id, sdid)
            yield Finding(
                "live-super-device-id", Severity.ERROR, f"{path}.super_device_id", what, remedy, pair
            )
