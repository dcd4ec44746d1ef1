"""The clashes of an inventory: what two hosts claim and only one can have."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.config.inventory import Host
from orchestrator.config.yaml_reader import Loc, YamlFile
from orchestrator.core.errors import Problem

__all__ = ["clashes"]


def clashes(file: YamlFile, placed: list[tuple[Loc, Host]]) -> Iterator[Problem]:
    """What two hosts claim and only one can have; a clash of two entries is told once, not for each host."""
    owners: dict[tuple[object, ...], tuple[Loc, str]] = {}
    told: set[tuple[object, ...]] = set()
    for loc, host in placed:
        for key, claim, text in _claims(host):
            first = owners.get((key, *claim))
            if first is None:
                owners[key, *claim] = (loc, host.name)
            elif (key, loc, first[0]) not in told:
                told.add((key, loc, first[0]))
                where = f"host {first[1]} on line {file.line(first[0])}"
                yield file.problem((*loc, key), text.replace("{where}", where))
            if first is not None and key == "name":
                break  # one host written twice: all else is the same, too


def _claims(host: Host) -> Iterator[tuple[str, tuple[object, ...], str]]:
    """The key, the claimed value, and the words for a clash."""
    yield "name", (host.name,), "the name is already that of {where}"
    if host.transport == "ssh":
        port = f" port {host.port}" if host.port else ""
        text = f"{host.address}{port} is already the address of {{where}}"
        yield "address", (host.address, host.port or 22), text
    else:
        text = f"{host.name} would share the directory {host.workdir} with {{where}}"
        yield "workdir", (host.workdir,), text
    for device in host.devices:
        if device.ip:
            text = f"{device.ip} of {host.name} device {device.id} is already a device address of {{where}}"
            yield "device_ips", (device.ip,), text
