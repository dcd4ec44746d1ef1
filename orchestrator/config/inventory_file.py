"""The inventory file: as it is written, and read into an Inventory, with everything that clashes refused."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.config.container import ContainerOrOff, combined
from orchestrator.config.host_ranges import MAX_HOSTS, RangeError, expand, fold, numbers
from orchestrator.config.inventory import (
    LOCAL_ADDRESS,
    Chip,
    Device,
    Host,
    Inventory,
    IpText,
    Port,
    SshOptions,
    Transport,
    check_address,
    check_name,
    chip_written,
)
from orchestrator.config.inventory_bounds import MOST_DEVICES, too_many
from orchestrator.config.inventory_clashes import clashes
from orchestrator.config.inventory_copies import CopyNetwork
from orchestrator.config.inventory_kinds import read_any_inventory
from orchestrator.config.schema import Check
from orchestrator.config.yaml_messages import Invalid, nearest, show
from orchestrator.config.yaml_reader import MAX_TOLD, Loc, YamlFile, read_source
from orchestrator.config.yaml_validation import validate
from orchestrator.core.errors import AssumedWarning, ConfigError, Problem, UsageError

__all__ = [
    "HostDefaults",
    "HostEntry",
    "InventoryFile",
    "Names",
    "load_inventory",
]


def _names(value: Any) -> Any:
    """A range, or a list of ranges, as its names."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        quoted = f'put it in quotes: "{show(value)}"' if isinstance(value, (int, float)) else ""
        raise Invalid(f"expected a range such as npu[001-012], got {show(value)}", quoted)
    try:
        return tuple(name for part in parts for name in expand(part))
    except RangeError as error:
        raise Invalid(str(error)) from None


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise Invalid("is empty")
    return names


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    # A host without `address:` is reached by its name.
    return tuple(check_address(check_name(name)) for name in _some(names))


def _addresses(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(check_address(name) for name in _some(names))


def _devices(value: Any) -> Any:
    """`0-7`, `0,2`, 0, [0, 1] and [{id: 0, ip: ...}] as a list of mappings."""
    items = value if isinstance(value, list) else [value]
    result: list[Any] = []
    for item in items:
        if len(result) > MOST_DEVICES:
            break
        if isinstance(item, bool) or not isinstance(item, (int, str, dict, Device)):
            raise Invalid(f"expected device ids such as 0-7, got {show(item)}")
        try:
            ids = numbers(item.strip().strip("[]")) if isinstance(item, str) else None
        except RangeError:
            raise Invalid(f"expected device ids such as 0-7, got {show(item)}") from None
        if isinstance(item, int):
            result.append({"id": item})
        else:
            result.extend([item] if ids is None else ({"id": int(text)} for text in ids))
    if not result:
        raise Invalid("is empty", "give the device ids, such as 0-7")
    if len(result) > MOST_DEVICES:
        raise Invalid(
            f"makes more than {MOST_DEVICES} devices, which no server has", "give the ids, such as 0-7"
        )
    return tuple(result)


def _address_rows(value: Any) -> Any:
    """Each range of a list on its own; one range as a list of one."""
    return tuple(_names(part) for part in (value if isinstance(value, list) else [value]))


Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[str, ...], Check(_names, "range such as `npu[001-012]`, or a list", before=True)]
Devices = Annotated[
    tuple[Device, ...], Check(_devices, "`0-7`, `[0, 1]` or `[{id: 0, ip: 10.20.0.1}]`", before=True)
]
AnyChip = Annotated[Chip, Check(chip_written, "`910A`, `910B`, `A3`, `310P` or `950`", before=True)]
AddressRows = Annotated[
    tuple[tuple[IpText, ...], ...], Check(_address_rows, "range, or a list of them", before=True)
]


class Frozen(BaseModel):
    """Base of what people write: unknown keys refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class HostDefaults(Frozen):
    """What holds for every host that does not say otherwise. `{name}` in a path is the host's name."""

    port: Port | None = Field(default=None, description="of its SSH server; without it as ~/.ssh/config says")
    user: Text | None = Field(default=None, description="whom to log in as; without it as ~/.ssh/config says")
    key: Text | None = Field(
        default=None, description="a private key on the control node; relative paths start at the inventory"
    )
    transport: Transport | None = Field(
        default=None, description="how the host is reached; `local`: processes of this machine"
    )
    python: Text | None = Field(
        default=None,
        description="the interpreter of the workers; on local hosts the one that runs orchestrate",
    )
    env_script: Text | None = Field(
        default=None,
        description="a file that is sourced before every worker (20 s at most), such as CANN's "
        "`set_env.sh`; what it exports has the last word over the job's `env` (`check` tells where they "
        "differ). PYTHONPATH is the worker's own, then the script's, then the account's",
    )
    workdir: Text | None = Field(default=None, description="where runs, code and files are kept")
    lock_dir: Text | None = Field(
        default=None,
        description="where devices are locked, one for all users of a server; without it `<workdir>/locks`",
    )
    hccn_conf: Text | None = Field(
        default=None, description="where the host keeps its devices' network settings"
    )
    devices: Devices | None = Field(
        default=None, description="the ids of its NPUs; on a host without, of the places for ranks"
    )
    chip: AnyChip | None = Field(
        default=None,
        description="which rules a rank table must keep; on a 910A, jobs of 1, 2 and 4 devices stay in one "
        "HCCS ring; without it the kind is not known",
    )
    labels: dict[str, str] | None = Field(default=None, description="for your own use")
    container: ContainerOrOff | None = Field(
        default=None,
        description="the image in which each worker runs, as in a job, whose keys go before these one by one",
    )


class HostEntry(HostDefaults):
    """One host or one range of hosts; what `defaults` has may stand here, too."""

    name: Annotated[Names, Check(_host_names)] = Field(description="how the host is called here")
    address: Annotated[Names, Check(_addresses)] | None = Field(
        default=None, description="IP addresses or names to reach it by; without it the name"
    )
    device_ips: AddressRows | None = Field(
        default=None,
        description="the devices' RoCE addresses, for the rank table: one range per device over the hosts, "
        "or one over hosts × devices, host by host; without it `hccn_tool` is asked",
    )


class InventoryFile(Frozen):
    """The top of the file."""

    transport: Transport | None = Field(default=None, description="as in `defaults`")
    ssh: SshOptions = SshOptions()
    defaults: HostDefaults = HostDefaults()
    hosts: tuple[HostEntry, ...]
    groups: dict[str, Annotated[Names, Check(_some)]] = Field(
        default_factory=dict, description="hosts and other groups by a name; `all` is always there"
    )
    copies: CopyNetwork | None = Field(
        default=None, alias="copy", description="where `checkpoint.copies` of jobs go from host to host"
    )


# Where an inventory is looked for that nobody names.
_DEFAULTS = (Path("inventory.yaml"), Path("inventory/default.yaml"))


def _default_inventory() -> Path:
    if named := os.environ.get("ORCHESTRATE_INVENTORY"):
        return Path(named)
    for candidate in _DEFAULTS:
        if candidate.exists():
            return candidate
    raise UsageError(
        "no inventory given", remedy="use `-i inventory/local.yaml`, or set ORCHESTRATE_INVENTORY"
    )


def load_inventory(path: Path | None) -> Inventory:
    """Read and check an inventory, or take a rank table, a hostfile or an inventory of Ansible's for one.

    None: the file of $ORCHESTRATE_INVENTORY, ./inventory.yaml or ./inventory/default.yaml.
    What is assumed of a file of another kind is an AssumedWarning.
    Raises ConfigError with every problem of the file, each with its line; UsageError where there is none.
    """
    path = _default_inventory() if path is None else path
    file, notes = read_any_inventory(str(path), read_source(path))
    if findings := list(too_many(file)):
        raise file.refusal(findings)
    entries = file.get(("hosts",))
    count = len(entries) if isinstance(entries, list) else 0
    file.as_text(("defaults", "labels"), *(("hosts", index, "labels") for index in range(count)))
    loaded = _Loader(file, path).load(validate(file, InventoryFile))
    for note in notes:
        warnings.warn(AssumedWarning(note), stacklevel=2)
    return loaded


class _Loader:
    """One file being turned into hosts; problems are collected on the way."""

    def __init__(self, file: YamlFile, path: Path) -> None:
        self.file = file
        self.path = path
        self.problems: list[Problem] = []

    def load(self, written: InventoryFile) -> Inventory:
        defaults = written.defaults
        if written.transport and not defaults.transport:
            defaults = defaults.model_copy(update={"transport": written.transport})
        if defaults.key and "{name}" not in defaults.key and not self._here(defaults.key).is_file():
            self._refuse(("defaults", "key"), f"no key file {self._here(defaults.key)}")
        if not written.hosts:
            self._refuse(("hosts",), "is empty", "write one `- name:` for each host or range of hosts")
        placed: list[tuple[Loc, Host]] = []
        for index, entry in enumerate(written.hosts):
            loc: Loc = ("hosts", index)
            placed.extend((loc, host) for host in self._hosts(loc, entry, defaults))
        self.problems.extend(clashes(self.file, placed))
        hosts = tuple(host for _, host in placed)
        groups = self._groups(written.groups, hosts)
        if self.problems:
            raise ConfigError(self.problems)
        ssh = self._ssh(written.ssh)
        return Inventory(path=self.path, hosts=hosts, groups=groups, ssh=ssh, copies=written.copies)

    def _refuse(self, loc: Loc, what: str, remedy: str = "") -> None:
        self.problems.append(self.file.problem(loc, what, remedy))
        if len(self.problems) > MAX_TOLD:
            raise self.file.too_many(self.problems[:MAX_TOLD])

    def _here(self, text: str) -> Path:
        """A path on this machine; relative ones start at the inventory file."""
        return (self.path.absolute().parent / os.path.expanduser(text)).resolve()

    def _ssh(self, ssh: SshOptions) -> SshOptions:
        return replace(
            ssh,
            config_file=str(self._here(ssh.config_file)),
            known_hosts=tuple(str(self._here(text)) for text in ssh.known_hosts),
        )

    def _hosts(self, loc: Loc, entry: HostEntry, defaults: HostDefaults) -> list[Host]:
        settings = _merge(defaults, entry)
        local = settings.transport == "local"
        addresses = entry.address or ((LOCAL_ADDRESS,) * len(entry.name) if local else entry.name)
        if len(addresses) != len(entry.name):
            text = f"has {len(addresses)} address(es) for {len(entry.name)} name(s)"
            self._refuse((*loc, "address"), text, "give both ranges the same length")
            return []
        for key in dict.fromkeys(
            (entry.key or "").replace("{name}", name) for name in entry.name[:MAX_HOSTS]
        ):
            if key and not self._here(key).is_file():
                self._refuse((*loc, "key"), f"no key file {self._here(key)}")
                break
        rows = self._devices(loc, entry, settings)
        return [
            self._host(name, address, devices, settings)
            for name, address, devices in zip(entry.name, addresses, rows, strict=True)
        ]

    def _host(self, name: str, address: str, devices: tuple[Device, ...], settings: HostDefaults) -> Host:
        said = ((key, getattr(settings, key)) for key in HostDefaults.model_fields)
        given: dict[str, Any] = {
            key: value for key, value in said if value is not None and key not in ("devices", "key")
        }
        for key in ("workdir", "lock_dir", "hccn_conf", "env_script", "python"):
            if key in given:
                given[key] = given[key].replace("{name}", name)
        if settings.transport == "local":
            # The interpreter that runs this is the one that has the packages; two hosts of one machine
            # must not share a directory.
            given.setdefault("python", sys.executable)
            given.setdefault("workdir", f"~/.orchestrate/{name}")
            given["workdir"] = os.path.abspath(os.path.expanduser(given["workdir"]))
        if settings.key:
            given["key"] = str(self._here(settings.key.replace("{name}", name)))
        return Host(name=name, address=address, devices=devices, **given)

    def _devices(self, loc: Loc, entry: HostEntry, settings: HostDefaults) -> list[tuple[Device, ...]]:
        """The devices of each host of an entry, with their addresses where they are given."""
        hosts, devices, rows = len(entry.name), settings.devices or (), entry.device_ips
        if not devices:
            self._refuse((*loc, "devices"), "is missing", "write `devices: 0-7` here or under defaults")
        ids = Counter(device.id for device in devices)
        for number in sorted(number for number, count in ids.items() if count > 1):
            place = (*loc, "devices") if entry.devices else ("defaults", "devices")
            self._refuse(place, f"device {number} is given twice")
        if rows is None or not devices:
            return [devices] * hosts
        flat = [ip for row in rows for ip in row]
        if len(rows) == len(devices) and all(len(row) == hosts for row in rows):
            flat = [row[index] for index in range(hosts) for row in rows]
        if len(flat) != hosts * len(devices):
            text = f"has {len(flat)} address(es) for {hosts} host(s) × {len(devices)} device(s)"
            self._refuse((*loc, "device_ips"), text, "give one range over the hosts for each device")
            return [devices] * hosts
        ips = iter(flat)
        return [tuple(replace(device, ip=next(ips)) for device in devices) for _ in range(hosts)]

    def _groups(
        self, written: Mapping[str, tuple[str, ...]], hosts: tuple[Host, ...]
    ) -> dict[str, tuple[str, ...]]:
        """Every group as host names; a group may hold other groups."""
        names = {host.name for host in hosts}
        self._known_hosts = f"hosts: {fold(names) or 'none that can be read'}"
        resolved: dict[str, tuple[str, ...]] = {}
        for group in written:
            if group == "all" or group in names or group.startswith(("!", "@")) or set(group) & set(",[] "):
                taken = "is always all hosts" if group == "all" else "is a host's name too"
                what = taken if group == "all" or group in names else "cannot be a group's name"
                self._refuse(("groups", group), what, "choose another name")
            else:
                resolved[group] = tuple(self._members(group, written, names))
        return resolved

    def _members(
        self, group: str, written: Mapping[str, tuple[str, ...]], names: set[str]
    ) -> dict[str, None]:
        members: dict[str, None] = {}
        # Each group is looked into once: groups of groups of groups cannot multiply.
        entered = {group}
        waiting = list(reversed(written[group]))
        while waiting:
            item = waiting.pop()
            inner = item.removeprefix("@")
            if inner == group:
                self._refuse(("groups", group), "contains itself")
                break
            if inner in written and inner not in entered:
                entered.add(inner)
                waiting.extend(reversed(written[inner]))
            elif item in names:
                members[item] = None
            elif inner not in written and item in written[group]:
                near = nearest(inner, [*names, *(other for other in written if other != group)])
                remedy = near if near.startswith("did") else self._known_hosts
                self._refuse(("groups", group), f"no host or group {show(item)}", remedy)
        return members


def _merge(defaults: HostDefaults, entry: HostEntry) -> HostDefaults:
    merged = {name: getattr(defaults, name) for name in HostDefaults.model_fields}
    for name in HostDefaults.model_fields:
        if getattr(entry, name) is not None:
            merged[name] = getattr(entry, name)
    merged["labels"] = {**(defaults.labels or {}), **(entry.labels or {})}
    merged["container"] = combined(entry.container, defaults.container)
    return HostDefaults.model_construct(**merged)
