"""Rank tables of real servers: made from what their tools say, and compared with it and with an inventory."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.agent.ascend_tools import ask_tools, read_text
from orchestrator.ascend.discovery import TOOL_TIMEOUT, discover, find_devices, first_calls, later_calls
from orchestrator.ascend.found_devices import FoundDevice, FoundHost
from orchestrator.ascend.hccn import parse_hccn_conf
from orchestrator.ascend.tool_answers import Call, ToolAnswers
from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Chip, Device, Host, Inventory
from orchestrator.config.yaml_messages import plain
from orchestrator.core.codec import from_json
from orchestrator.core.errors import ConfigError, OrchestrateError, Problem, ToolOutputError
from orchestrator.core.host_answers import ToolTexts
from orchestrator.hosts.fleet import fleet_of
from orchestrator.rank_table.findings import Finding, Severity, errors_of, problems_of, warnings_of
from orchestrator.rank_table.merge import Merged, merge
from orchestrator.rank_table.read_table import Reading
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
    "Compared",
    "Made",
    "compare_with_hosts",
    "compare_with_inventory",
    "hosts_of",
    "make_for_hosts",
    "make_for_this_server",
    "own_address",
]


@dataclass(frozen=True, slots=True)
class Made:
    """A table, and what a person should know about how it came about."""

    table: RankTable
    warnings: tuple[Problem, ...]


def make_for_this_server(
    devices: Sequence[int], server_id: str, hccn_conf: Path | None = None, *, without_ips: bool = False
) -> Made:
    """The table of this server's devices (all that there are, if none are given).

    Addresses come from hccn_tool, then from /etc/hccn.conf; with `hccn_conf` from that file alone. Raises
    ConfigError: no devices, a device without an address, a table that HCCL would refuse.
    """
    found = _in_file(devices, hccn_conf) if hccn_conf else _here(devices)
    notes = [Problem("", plain(text)) for text in found.warnings]
    needs_ips = not without_ips and found.super_pod_id is None
    table = _table(found, server_id, without_ips=without_ips, needs_ips=needs_ips)
    chip = found.kind
    findings = validate(table, chip=chip)
    if errors := errors_of(findings):
        raise ConfigError(list(problems_of("this server", errors)))
    return Made(table, (*notes, *problems_of("this server", warnings_of(findings))))


def make_for_hosts(inventory: Inventory, hosts: Sequence[Host]) -> Made:
    """The merged table of these hosts, in the order of the inventory, with all devices that it lists.

    Raises ConfigError for what is wrong with any of them, and the errors of hosts that cannot be asked.
    """
    with fleet_of(hosts, inventory.ssh) as fleet:
        found = discover(fleet).raise_on_error()
    readings, problems, notes = [], [], []
    needs_ips = _need_ips([found[host.name] for host in hosts])
    for host in hosts:
        facts = found[host.name]
        notes += [Problem(host.name, plain(text)) for text in facts.warnings]
        try:
            readings.append(Reading(host.name, _table(facts, host.address, needs_ips=needs_ips)))
        except ConfigError as error:
            problems += [Problem(host.name, problem.what, problem.remedy) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    kinds = {host.chip or found[host.name].kind for host in hosts}
    chip = kinds.pop() if len(kinds) == 1 else None
    # Only the chosen hosts: those of the inventory that were not are missing on purpose.
    some = replace(inventory, hosts=tuple(hosts))
    merged: Merged = merge(readings, inventory=some, chip=chip)
    return Made(merged.table, (*notes, *merged.warnings))


def own_address() -> str:
    """The address at which other servers are likely to reach this one. Raises ConfigError.

    What the host name resolves to, unless that is a loopback address, as on Debian; else the address from
    which this machine would talk to others. No packet is sent.
    """
    with contextlib.suppress(OSError):
        named = socket.gethostbyname(socket.gethostname())
        if not is_loopback(named):
            return named
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        source = str(probe.getsockname()[0])
        if not is_loopback(source):
            return source
    what = "this server has no address but loopback ones"
    raise ConfigError([Problem("", what, "give the one at which the others reach it as --server-ip")])


def _here(devices: Sequence[int]) -> FoundHost:
    listed = tuple(Device(id=number) for number in devices)
    host = Host(name="localhost", address="localhost", transport="local", devices=listed)
    answers = _ask(first_calls(devices), host.hccn_conf)
    if later := later_calls(devices, answers):
        answers |= _ask(later, "")
    found = find_devices(host, devices, answers)
    if not found.devices:
        what = f"no devices: neither npu-smi nor {host.hccn_conf} names any"
        raise ConfigError([Problem("this server", what, "give --devices, or a file as --hccn-conf")])
    return found


def _ask(calls: Sequence[Call], path: str) -> ToolAnswers:
    answers = ask_tools(calls, timeout=TOOL_TIMEOUT)
    files = [read_text(path)] if path else []
    return ToolAnswers.of(calls, path, from_json(ToolTexts, {"answers": answers, "files": files}))


def _in_file(devices: Sequence[int], path: Path) -> FoundHost:
    try:
        answer = read_text(str(path))
        if answer["failure"]:
            failure = "no such file" if answer["failure"] == "missing" else answer["failure"]
            raise ToolOutputError(f"cannot be read: {failure}", remedy="give the path of an hccn.conf")
        addresses = parse_hccn_conf(answer["text"]).addresses()
        if not addresses:
            raise ToolOutputError("holds no `address_N=IP` line", remedy="give the path of an hccn.conf")
    except ToolOutputError as error:
        raise ConfigError([Problem(plain(str(path)), plain(error.what), error.remedy)]) from None
    trouble = f"{path} has none"
    remedy = f"it has those of {fold(map(str, addresses)).strip('[]')}"
    return FoundHost(
        "localhost",
        tuple(
            FoundDevice(
                number,
                addresses.get(number),
                str(path),
                trouble="" if number in addresses else trouble,
                remedy="" if number in addresses else remedy,
            )
            for number in devices or sorted(addresses)
        ),
    )


def _need_ips(hosts: Sequence[FoundHost]) -> bool:
    """Whether their devices need addresses of their own: not on one host, nor within one super pod."""
    pods = {host.super_pod_id for host in hosts}
    return len(hosts) > 1 and (len(pods) > 1 or None in pods)


def _table(
    found: FoundHost, server_id: str, *, without_ips: bool = False, needs_ips: bool = True
) -> RankTable:
    without = [device for device in found.devices if not device.ip]
    if without and needs_ips:
        raise ConfigError([_no_address(without)])
    # HCCL wants equally many of every device.
    without_ips = without_ips or bool(without)
    pod = found.super_pod_id if all(device.super_device_id for device in found.devices) else None
    server = RankTableServer(
        server_id=server_id,
        device=tuple(
            _device(rank, device, with_ip=not without_ips, in_pod=pod is not None)
            for rank, device in enumerate(found.devices)
        ),
        host_nic_ip="reserve",
    )
    if pod is None:
        return RankTable(version="1.0", server_count="1", server_list=(server,), status="completed")
    pods = (SuperPod(super_pod_id=pod, server_list=(SuperPodServer(server_id=server_id),)),)
    return RankTable(
        version="1.2", server_count="1", server_list=(server,), super_pod_list=pods, status="completed"
    )


def _no_address(devices: Sequence[FoundDevice]) -> Problem:
    ids = ", ".join(str(device.id) for device in devices)
    remedy = devices[0].remedy
    if remedy.startswith("`hccn_tool"):
        remedy += ", or --without-ips for jobs on this server alone"
    return Problem("", plain(f"no address of device {ids}: {devices[0].trouble}"), remedy)


def _device(rank: int, device: FoundDevice, *, with_ip: bool, in_pod: bool) -> RankTableDevice:
    fields: dict[str, str] = {"device_id": str(device.id), "rank_id": str(rank)}
    if in_pod and device.super_device_id:
        fields["super_device_id"] = device.super_device_id
    if with_ip and device.ip:
        fields["device_ip"] = device.ip
    return RankTableDevice(**fields)


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
    kinds = {found.kind for found in answers.values.values()}
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
