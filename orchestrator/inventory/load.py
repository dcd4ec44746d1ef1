"""From an inventory file to its model: ranges expanded, defaults filled in, every problem reported at its line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import ConfigError, Problem
from orchestrator.inventory.hostrange import expand
from orchestrator.inventory.model import Device, Host, Inventory, SshOptions
from orchestrator.yaml_file import KeyPath, YamlFile, read_yaml

__all__ = ["load_inventory"]


class _HostEntry(BaseModel):
    """What may stand under `defaults`; an entry of `hosts` has a name and an address besides."""

    model_config = ConfigDict(extra="forbid")

    port: int | None = Field(None, ge=1, le=65535)
    user: str | None = None
    key: str | None = None
    transport: Literal["ssh", "local"] = "ssh"
    python: str | None = None
    env_script: str | None = None
    workdir: str | None = None
    lock_dir: str | None = None
    devices: str | list[int | Device] = Field(default_factory=list)
    device_ips: str | list[str] | None = None
    labels: dict[str, str | int | float] = Field(default_factory=dict)


class _NamedEntry(_HostEntry):
    name: str
    address: str | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    transport: Literal["ssh", "local"] = "ssh"
    ssh: SshOptions = SshOptions()
    defaults: _HostEntry = Field(default_factory=lambda: _HostEntry.model_validate({}))
    hosts: list[dict[str, Any]]
    groups: dict[str, str | list[str]] = Field(default_factory=dict)


def load_inventory(path: Path) -> Inventory:
    """Read an inventory. Raises ConfigError with every problem in it."""
    file = read_yaml(path)
    loaded = file.validate(_File)
    return _Reader(file, loaded).read()


class _Reader:
    def __init__(self, file: YamlFile, loaded: _File) -> None:
        self._file = file
        self._loaded = loaded
        self._problems: list[Problem] = []
        self._places: dict[str, KeyPath] = {}

    def read(self) -> Inventory:
        hosts = [host for index in range(len(self._loaded.hosts)) for host in self._hosts(index)]
        if not self._loaded.hosts:
            self._report(("hosts",), "no hosts", "add at least one")
        self._check_distinct(hosts)
        groups = {name: self._members(name, hosts) for name in self._loaded.groups}
        if self._problems:
            raise ConfigError(self._problems)
        return Inventory(path=self._file.path, hosts=tuple(hosts), groups=groups, ssh=self._ssh())

    def _report(self, key: KeyPath, what: str, remedy: str = "") -> None:
        self._problems.append(self._file.problem(key, what, remedy))

    def _ssh(self) -> SshOptions:
        known = tuple(self._local_path(item) for item in self._loaded.ssh.known_hosts)
        config = self._local_path(self._loaded.ssh.config_file)
        return self._loaded.ssh.model_copy(update={"known_hosts": known, "config_file": config})

    def _local_path(self, text: str) -> str:
        """A path on the control node: `~` expanded, else relative to the inventory file."""
        return str((self._file.path.parent / os.path.expanduser(text)).absolute())

    def _hosts(self, index: int) -> Iterator[Host]:
        at: KeyPath = ("hosts", index)
        defaults = self._file.data.get("defaults") or {}
        raw = {"transport": self._loaded.transport, **defaults, **self._loaded.hosts[index]}
        try:
            entry = _NamedEntry.model_validate(raw)
        except ValidationError as error:
            self._problems += self._file.problems(error, _NamedEntry, at)
            return
        names = self._expand(entry.name, (*at, "name"))
        addresses = self._addresses(entry, names, at)
        devices = self._devices(entry, at)
        for name, address in zip(names, addresses, strict=False):
            self._places.setdefault(name, (*at, "name"))
            yield self._host(entry, name, address, devices)

    def _host(self, entry: _NamedEntry, name: str, address: str, devices: tuple[Device, ...]) -> Host:
        workdir = entry.workdir or (
            "~/.orchestrate" if entry.transport == "ssh" else f"~/.orchestrate/{name}"
        )
        workdir = workdir.replace("{name}", name)
        if entry.transport == "local":
            workdir = str(Path(os.path.expanduser(workdir)).absolute())
        return Host(
            name=name,
            address=address,
            port=entry.port,
            user=entry.user,
            key=self._local_path(entry.key) if entry.key else None,
            transport=entry.transport,
            python=entry.python,
            env_script=entry.env_script,
            workdir=workdir,
            lock_dir=entry.lock_dir,
            devices=devices,
            labels={key: str(value) for key, value in entry.labels.items()},
        )

    def _expand(self, text: str, key: KeyPath) -> list[str]:
        try:
            return expand(text)
        except ValueError as error:
            self._report(key, str(error))
            return []

    def _addresses(self, entry: _NamedEntry, names: list[str], at: KeyPath) -> list[str]:
        if entry.address is None:
            return names if entry.transport == "ssh" else ["127.0.0.1"] * len(names)
        addresses = self._expand(entry.address, (*at, "address"))
        if entry.transport == "local" and len(addresses) == 1:
            return addresses * len(names)
        if names and addresses and len(addresses) != len(names):
            what = f"{len(addresses)} addresses for {len(names)} names"
            self._report((*at, "address"), what, "make both ranges of one length")
        return addresses

    def _devices(self, entry: _NamedEntry, at: KeyPath) -> tuple[Device, ...]:
        devices = self._device_list(entry, at)
        ids = [device.id for device in devices]
        if len(set(ids)) != len(ids):
            twice = next(number for number in ids if ids.count(number) > 1)
            self._report((*at, "devices"), f"device {twice} is given twice", "remove one of them")
        if entry.device_ips is None:
            return devices
        given = entry.device_ips
        texts = [given] if isinstance(given, str) else given
        ips = [ip for text in texts for ip in self._expand(text, (*at, "device_ips"))]
        if len(ips) != len(devices):
            what = f"{len(ips)} device_ips for {len(devices)} devices"
            self._report((*at, "device_ips"), what, "give one for each device")
            return devices
        return tuple(Device(id=device.id, ip=ip) for device, ip in zip(devices, ips, strict=True))

    def _device_list(self, entry: _NamedEntry, at: KeyPath) -> tuple[Device, ...]:
        if isinstance(entry.devices, str):
            numbers = self._expand(f"[{entry.devices.strip('[]')}]", (*at, "devices"))
            return tuple(Device(id=int(number)) for number in numbers)
        return tuple(item if isinstance(item, Device) else Device(id=item) for item in entry.devices)

    def _check_distinct(self, hosts: list[Host]) -> None:
        names: set[str] = set()
        reached: dict[tuple[str, int | None], str] = {}
        folders: dict[str, str] = {}
        for host in hosts:
            key = self._places[host.name]
            if host.name in names:
                self._report(key, f"host `{host.name}` is given twice", "remove one of them")
                continue
            names.add(host.name)
            if host.transport == "ssh":
                other = reached.setdefault((host.address, host.port), host.name)
                if other != host.name:
                    self._report(key, f"`{host.name}` and `{other}` are both {host.address}", "remove one")
            else:
                other = folders.setdefault(host.workdir, host.name)
                if other != host.name:
                    what = f"local hosts `{host.name}` and `{other}` share the workdir {host.workdir}"
                    self._report(key, what, "put `{name}` into `workdir:`")

    def _members(self, group: str, hosts: list[Host]) -> tuple[str, ...]:
        known = {host.name for host in hosts}
        given = self._loaded.groups[group]
        members: list[str] = []
        for item in [given] if isinstance(given, str) else given:
            for name in self._expand(item, ("groups", group)):
                if name not in known:
                    self._report(("groups", group), f"no host `{name}`", "name hosts of this file")
                members.append(name)
        return tuple(dict.fromkeys(members))
