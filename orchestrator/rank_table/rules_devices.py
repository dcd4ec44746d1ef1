"""Rules about devices: their ids, addresses and ports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from orchestrator.config.yaml_messages import show
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.table import DeviceView, TableView

__all__ = ["DEVICE_RULES", "is_port"]

# Devices of one server: HCOMM's HCCL_AISERVER_DEVICE_NUM for a 910A, GetMaxDevNum for the others.
_MOST_DEVICES = {"910A": 8, "910B": 16, "910_93": 16, "310P": 32}
_PORTS = ("device_port", "device_vnic_port", "host_port")
# What HCCL reads of a device's net_position and net_protocol.
_WORDS = {"net_position": ("device", "host"), "net_protocol": ("rdma", "tcp")}


def _id_form(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        if device.device_id is None:
            text = device.data.device_id
            yield Broken(f"{device.path}.device_id", f"{show(text)} is no device number", (text,))


def _id_range(view: TableView) -> Iterator[Broken]:
    most = _MOST_DEVICES.get(view.chip or "", 32)
    for device in view.devices:
        if device.device_id is not None and device.device_id >= most:
            text, kind = device.data.device_id, f"a {view.chip} server" if view.chip else "no server"
            what = (
                f"{text}: {kind} has devices 0-{most - 1}" if view.chip else f"{text}: {kind} has that many"
            )
            yield Broken(f"{device.path}.device_id", what, (text,))


def _id_twice(view: TableView) -> Iterator[Broken]:
    for server in view.servers:
        first: dict[int, DeviceView] = {}
        for device in server.devices:
            if device.device_id is None:
                continue
            other = first.setdefault(device.device_id, device)
            if other is not device:
                what = (
                    f"{device.data.device_id} is the id of device[{other.index}] of the same server already"
                )
                yield Broken(f"{device.path}.device_id", what, (device.data.device_id,))


def _ip_missing(view: TableView) -> Iterator[Broken]:
    """Needed between servers, but not within one super pod, nor where HCCL may go over the hosts' network."""
    reason = _why_ips(view)
    for server in view.servers if reason else ():
        missing = [device.data.device_id for device in server.devices if not device.ips]
        if not missing:
            continue
        what = f"device {', '.join(missing)} of server {server.data.server_id} has no device_ip, {reason}"
        by_host = bool(server.data.host_ip) and view.chip != "910B" and not view.intra_roce
        if by_host:
            what += f": HCCL goes over host_ip {server.data.host_ip}"
        severity = Severity.WARNING if by_host else None
        yield Broken(f"{server.path}.device", what, tuple(missing), severity)


def _why_ips(view: TableView) -> str:
    """Why devices need addresses; "" where they do not."""
    if view.intra_roce:
        return "which HCCL_INTRA_ROCE_ENABLE=1 needs"
    if view.chip == "910_93":
        return "which HCCL needs between super pods" if len(view.table.super_pod_list) > 1 else ""
    return "which HCCL needs between servers" if len(view.servers) > 1 else ""


def _ip_form(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        text = device.data.device_ip
        if None in device.ips:
            yield Broken(f"{device.path}.device_ip", f"{show(text)} is no IP address", (text,))
        elif any(ip is not None and _is_nobodys(ip) for ip in device.ips):
            yield Broken(f"{device.path}.device_ip", f"{show(text)} is no device's address", (text,))


def _is_nobodys(ip: bytes) -> bool:
    """Unspecified (which HCCL takes for none), loopback, multicast or broadcast: no device has it."""
    if len(ip) == 4:
        return ip[0] in (0, 127) or ip[0] >= 224
    return ip[0] == 255 or ip[:15] == bytes(15)


def _ip_twice(view: TableView) -> Iterator[Broken]:
    first: dict[bytes, DeviceView] = {}
    for device in view.devices:
        for text, ip in zip(device.data.device_ip.split(","), device.ips, strict=False):
            if ip is None:
                continue
            if other := first.get(ip):
                what = f"{text} is the address of {other.name} already ({other.path})"
                yield Broken(f"{device.path}.device_ip", what, (text,))
            else:
                first[ip] = device


def _ip_count(view: TableView) -> Iterator[Broken]:
    # HCCL counts a device without an address as one with one that is none.
    counts = Counter(len(device.ips) or 1 for device in view.devices)
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    for device in view.devices:
        if (len(device.ips) or 1) != usual:
            what = f"{device.name} has {len(device.ips)} address(es), the others have {usual}"
            yield Broken(f"{device.path}.device_ip", what, (device.data.device_ip,))


def _ip_family(view: TableView) -> Iterator[Broken]:
    first: DeviceView | None = None
    length = 0
    for device in view.devices:
        for ip in device.ips:
            if ip is None:
                continue
            if first is None:
                first, length = device, len(ip)
            elif len(ip) != length:
                mine, theirs = ("IPv6", "IPv4") if len(ip) == 16 else ("IPv4", "IPv6")
                what = f"{device.data.device_ip} is {mine}, but that of {first.name} is {theirs}"
                # HCCL compares them as soon as there are two servers.
                severity = Severity.WARNING if len(view.servers) < 2 else None
                values = (device.data.device_ip, first.data.device_ip)
                yield Broken(f"{device.path}.device_ip", what, values, severity)
                break


def _ports(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        given = device.data.model_fields_set
        for key in _PORTS:
            text = getattr(device.data, key)
            # The port in the super pod's network is read only where the other one is given.
            is_read = key in given and (key != "device_vnic_port" or "device_port" in given)
            if is_read and not is_port(text):
                yield Broken(f"{device.path}.{key}", f"{show(text)} is no port from 1 to 65535", (text,))


def is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535


def _words(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        for key, known in _WORDS.items():
            text = getattr(device.data, key)
            if key in device.data.model_fields_set and text not in known:
                what = f"{show(text)} is neither {known[0]} nor {known[1]}: HCCL passes it over"
                yield Broken(f"{device.path}.{key}", what, (text,))


def _host_port(view: TableView) -> Iterator[Broken]:
    for server in view.servers:
        first: dict[str, DeviceView] = {}
        for device in server.devices:
            port = device.data.host_port
            other = first.setdefault(port, device)
            if port and other is not device:
                what = f"{port} is the host_port of {other.name} already"
                yield Broken(f"{device.path}.host_port", what, (port,))


_LOOK = "see `hccn_tool -i N -ip -g` on the server"

_READER = "HCOMM topoinfo_ranktableConcise.cc"
_UNIQUE = "HCOMM topoinfo_ranktableParser.cc CheckUniqueAndInsertPool (EI0014)"

DEVICE_RULES = (
    Rule(
        "device-id-form",
        Severity.ERROR,
        _id_form,
        "give the physical number, such as 0",
        f"{_READER} GetSingleDevice",
    ),
    Rule(
        "device-id-range",
        Severity.ERROR,
        _id_range,
        "give the physical number, as npu-smi shows it",
        f"{_READER} GetSingleDevice",
    ),
    Rule(
        "duplicate-device-id",
        Severity.ERROR,
        _id_twice,
        "list each device of a server once",
        "HCOMM config.cc CheckDeviceId (EI0014)",
    ),
    Rule(
        "missing-device-ip",
        Severity.ERROR,
        _ip_missing,
        _LOOK,
        f"{_READER} GetSingleDeviceIp (EI0014); between super pods the user guide",
    ),
    Rule(
        "device-ip-form",
        Severity.ERROR,
        _ip_form,
        _LOOK,
        "HCOMM topoinfo_ranktableParser.cc CheckUniquePara (EI0014)",
    ),
    Rule(
        "duplicate-device-ip", Severity.ERROR, _ip_twice, f"each device has its own address: {_LOOK}", _UNIQUE
    ),
    Rule(
        "device-ip-count",
        Severity.ERROR,
        _ip_count,
        "give every device as many addresses",
        f"{_READER} GetDeviceList",
    ),
    Rule(
        "mixed-ip-families",
        Severity.ERROR,
        _ip_family,
        "use one family for all devices",
        "HCOMM config.cc CheckRankIpFamily",
    ),
    Rule(
        "port-range",
        Severity.ERROR,
        _ports,
        "give a free port, or leave the key out for HCCL's own",
        f"{_READER} GetSingleDevicePort, GetSingleDeviceHostPort",
    ),
    Rule(
        "duplicate-host-port",
        Severity.WARNING,
        _host_port,
        "give each device of a server its own",
        "HCCL user guide: host_port",
    ),
    Rule(
        "net-words",
        Severity.WARNING,
        _words,
        "correct it, or leave it out",
        f"{_READER} GetSingleNicInfo",
    ),
)
