"""Rules about devices: their ids, addresses and ports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from orchestrator.config.yaml_messages import show
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.table import DeviceView, TableView, packed_ip

__all__ = ["DEVICE_RULES"]

# Devices of one server: a 910A has 8; no server of the other kinds has more than 16.
_MOST_DEVICES = {"910A": 8, "910B": 16, "910_93": 16}
_PORTS = ("device_port", "backup_device_port", "host_port")


def _id_form(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        if device.device_id is None:
            text = device.data.device_id
            yield Broken(f"{device.path}.device_id", f"{show(text)} is no device number", (text,))


def _id_range(view: TableView) -> Iterator[Broken]:
    most = _MOST_DEVICES.get(view.chip or "", 64)
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
    if len(view.servers) > 1:
        reason = "which HCCL needs between servers"
    elif view.intra_roce:
        reason = "which HCCL_INTRA_ROCE_ENABLE=1 needs"
    else:
        return
    for server in view.servers:
        missing = [device.data.device_id for device in server.devices if not device.ips]
        if missing:
            what = f"device {', '.join(missing)} of server {server.data.server_id} has no device_ip, {reason}"
            yield Broken(f"{server.path}.device", what, tuple(missing))


def _ip_form(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        if None in device.ips:
            text = device.data.device_ip
            yield Broken(f"{device.path}.device_ip", f"{show(text)} is no IP address", (text,))


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
    counts = Counter(len(device.ips) for device in view.devices if device.ips)
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    for device in view.devices:
        if device.ips and len(device.ips) != usual:
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
                yield Broken(f"{device.path}.device_ip", what, (device.data.device_ip, first.data.device_ip))
                break


def _backup_ip(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        text = device.data.backup_device_ip
        if text and packed_ip(text) is None:
            yield Broken(f"{device.path}.backup_device_ip", f"{show(text)} is no IP address", (text,))


def _ports(view: TableView) -> Iterator[Broken]:
    for device in view.devices:
        given = device.data.model_fields_set
        for key in _PORTS:
            if key in given:
                text = getattr(device.data, key)
                if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535):
                    yield Broken(f"{device.path}.{key}", f"{show(text)} is no port from 1 to 65535", (text,))


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

DEVICE_RULES = (
    Rule("device-id-form", Severity.ERROR, _id_form, "give the physical number, such as 0"),
    Rule("device-id-range", Severity.ERROR, _id_range, "give the physical number, as npu-smi shows it"),
    Rule("duplicate-device-id", Severity.ERROR, _id_twice, "list each device of a server once"),
    Rule("missing-device-ip", Severity.ERROR, _ip_missing, _LOOK),
    Rule("device-ip-form", Severity.ERROR, _ip_form, _LOOK),
    Rule("duplicate-device-ip", Severity.ERROR, _ip_twice, f"each device has its own address: {_LOOK}"),
    Rule("device-ip-count", Severity.ERROR, _ip_count, "give every device as many addresses"),
    Rule("mixed-ip-families", Severity.ERROR, _ip_family, "use one family for all devices"),
    Rule("backup-ip-form", Severity.ERROR, _backup_ip, "give an address, or leave the key out"),
    Rule("port-range", Severity.ERROR, _ports, "give a free port, or leave the key out for 16666"),
    Rule("duplicate-host-port", Severity.WARNING, _host_port, "give each device of a server its own"),
)
