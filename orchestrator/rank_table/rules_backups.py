"""Rules about backup addresses and ports: to which die of an A3 HCCL turns when a device's own port fails.

HCCL reads them on an A3 alone, and there only where a failed operation is tried again between super pods
(HCCL_OP_RETRY_ENABLE) and AI CPUs unfold operations.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.config.yaml_messages import show
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.rules_devices import is_port
from orchestrator.rank_table.table import DeviceView, TableView, device_ips

__all__ = ["BACKUP_RULES"]


def _severity(view: TableView) -> Severity:
    """Where nothing reads it, a mistake does no harm yet."""
    return Severity.ERROR if view.chip == "910_93" else Severity.WARNING


def _backups(view: TableView) -> Iterator[tuple[DeviceView, tuple[bytes | None, ...]]]:
    return (
        (each, device_ips(each.data.backup_device_ip)) for each in view.devices if each.data.backup_device_ip
    )


def _form(view: TableView) -> Iterator[Broken]:
    for device, ips in _backups(view):
        if None in ips:
            text = device.data.backup_device_ip
            path = f"{device.path}.backup_device_ip"
            yield Broken(path, f"{show(text)} is no IP address", (text,), _severity(view))


def _twice(view: TableView) -> Iterator[Broken]:
    first: dict[bytes, DeviceView] = {}
    for device, ips in _backups(view):
        for ip in ips:
            if ip is not None and first.setdefault(ip, device) is not device:
                text = device.data.backup_device_ip
                what = f"{text} is the backup of {first[ip].name} already"
                yield Broken(f"{device.path}.backup_device_ip", what, (text,), _severity(view))


def _pair(view: TableView) -> Iterator[Broken]:
    """It is the address of the other die of the same NPU, to which a link of its own leads."""
    owners = {ip: device for device in view.devices for ip in device.ips if ip is not None}
    for device, ips in _backups(view):
        for ip in ips:
            owner = owners.get(ip) if ip is not None else None
            if owner is None or _are_dies_of_one(device, owner):
                continue
            text = device.data.backup_device_ip
            what = (
                f"{text} is the device's own address"
                if owner is device
                else f"{text} is that of {owner.name}"
            )
            what += ", not of the other die of its NPU"
            yield Broken(f"{device.path}.backup_device_ip", what, (text,), _severity(view))


def _are_dies_of_one(device: DeviceView, owner: DeviceView) -> bool:
    if device.device_id is None or owner.device_id is None:
        return True  # what is no number was told
    return owner.server is device.server and owner.device_id == device.device_id ^ 1


def _port(view: TableView) -> Iterator[Broken]:
    owners = {ip: device for device in view.devices for ip in device.ips if ip is not None}
    for device, ips in _backups(view):
        text = device.data.backup_device_port
        path = f"{device.path}.backup_device_port"
        if "backup_device_port" not in device.data.model_fields_set:
            continue
        if not is_port(text):
            yield Broken(path, f"{show(text)} is no port from 1 to 65535", (text,), _severity(view))
            continue
        for ip in ips:
            owner = owners.get(ip) if ip is not None else None
            if (
                owner is not None
                and is_port(owner.data.device_port)
                and int(owner.data.device_port) == int(text)
            ):
                what = f"{text} is the device_port of {owner.name}, whose address it stands for"
                yield Broken(path, what, (text,), _severity(view))


_READER = "HCOMM topoinfo_ranktableConcise.cc"
_OTHER_DIE = "give the device_ip of the other die of the NPU: 0 and 1, 2 and 3, and so on"

BACKUP_RULES = (
    Rule(
        "backup-ip-form",
        Severity.ERROR,
        _form,
        "give an address, or leave the key out",
        f"{_READER} GetSingleBackupDeviceIp (EI0014)",
    ),
    Rule(
        "duplicate-backup-ip",
        Severity.ERROR,
        _twice,
        _OTHER_DIE,
        "HCOMM topoinfo_ranktableParser.cc CheckUniqueAndInsertPool (EI0014)",
    ),
    Rule("backup-ip-pair", Severity.ERROR, _pair, _OTHER_DIE, f"{_READER} VerifyBackupDeviceIpAndPort"),
    Rule(
        "backup-port",
        Severity.ERROR,
        _port,
        "give a free port, or leave the key out for 16667",
        f"{_READER} GetSingleBackupDevicePort, VerifyBackupDeviceIpAndPort",
    ),
)
