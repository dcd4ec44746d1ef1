"""Rank tables of servers, made from what their own tools say about their devices."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.tools import ask_tools, read_text
from orchestrator.ascend.answers import Call, ToolAnswers
from orchestrator.ascend.hccn_conf import parse_hccn_conf
from orchestrator.discovery import (
    TOOL_TIMEOUT,
    FoundDevice,
    FoundHost,
    discover,
    find_devices,
    first_calls,
    later_calls,
)
from orchestrator.errors import ConfigError, Problem, ToolOutputError
from orchestrator.fleet import fleet_of
from orchestrator.inventory import Device, Host, Inventory, chip_named, fold
from orchestrator.rank_table import (
    Merged,
    RankTable,
    RankTableDevice,
    RankTableServer,
    Reading,
    SuperPod,
    SuperPodServer,
    errors_of,
    is_loopback,
    merge,
    problems_of,
    validate,
    warnings_of,
)
from orchestrator.yaml_words import plain

__all__ = ["Made", "make_for_hosts", "make_for_this_server", "own_address"]


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
    table = _table(found, server_id, without_ips=without_ips)
    chip = chip_named(found.chip or "")
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
    for host in hosts:
        facts = found[host.name]
        notes += [Problem(host.name, plain(text)) for text in facts.warnings]
        try:
            readings.append(Reading(host.name, _table(facts, host.address)))
        except ConfigError as error:
            problems += [Problem(host.name, problem.what, problem.remedy) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    kinds = {host.chip or chip_named(found[host.name].chip or "") for host in hosts}
    chip = kinds.pop() if len(kinds) == 1 else None
    # Only the chosen hosts: those of the inventory that were not are missing on purpose.
    some = inventory.model_copy(update={"hosts": tuple(hosts)})
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
    return ToolAnswers.from_json(calls, path, {"answers": answers, "files": files})


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


def _table(found: FoundHost, server_id: str, *, without_ips: bool = False) -> RankTable:
    without = [device for device in found.devices if not device.ip]
    if without and not without_ips:
        raise ConfigError([_no_address(without)])
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
    return Problem("", plain(f"no address of device {ids}: {devices[0].trouble}"), devices[0].remedy)


def _device(rank: int, device: FoundDevice, *, with_ip: bool, in_pod: bool) -> RankTableDevice:
    fields: dict[str, str] = {"device_id": str(device.id), "rank_id": str(rank)}
    if in_pod and device.super_device_id:
        fields["super_device_id"] = device.super_device_id
    if with_ip and device.ip:
        fields["device_ip"] = device.ip
    return RankTableDevice(**fields)
