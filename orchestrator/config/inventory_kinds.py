"""The kinds of file that are taken for an inventory: told apart, and read into an inventory file's data."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from orchestrator.config.file_kinds import refuse_other
from orchestrator.config.host_ranges import MAX_HOSTS, RangeError, fold
from orchestrator.config.inventory import Host
from orchestrator.config.inventory_ansible import (
    is_ansible,
    is_ansible_ini,
    read_ansible,
    read_ansible_ini,
)
from orchestrator.config.inventory_hostfile import (
    DEVICES,
    NotAHost,
    as_lines,
    host_line,
    is_hostfile,
    nodeset,
    read_hostfile,
    written,
)
from orchestrator.config.inventory_rank_table import is_rank_table, rewrite
from orchestrator.config.yaml_messages import plain
from orchestrator.config.yaml_reader import YamlFile, parse_yaml
from orchestrator.core.errors import ConfigError

__all__ = ["read_any_inventory"]

# The keys at the top of an inventory file of ours.
_OURS = {"transport", "ssh", "defaults", "hosts", "groups"}


def read_any_inventory(name: str, raw: bytes) -> tuple[YamlFile, list[str]]:
    """The data of an inventory file, of whatever kind the bytes are, and what was assumed on the way.

    Raises ConfigError: neither an inventory nor anything that is known to stand for one.
    """
    text = raw.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    if is_ansible_ini(text):
        return _foreign(*_with_groups(*read_ansible_ini(name, text)))
    try:
        file = parse_yaml(name, raw)
    except ConfigError:
        if not is_hostfile(as_lines(text)):
            raise
        return _foreign(*read_hostfile(name, as_lines(text)))
    if is_rank_table(file):
        return _foreign(rewrite(file), [])
    refuse_other(name, file.data, "inventory")
    if set(file.data) & _OURS:
        return file, _plain_hosts(file)
    if is_ansible(file.data):
        return _foreign(*_with_groups(*read_ansible(file)))
    groups = _node_groups(file)
    return (file, []) if groups is None else _foreign(*groups)


_DEFAULTS = {item.name: item.default for item in fields(Host)}
# How workers are run, of which no other kind of file says all; what is then taken of a host over SSH.
_HOW = ("python", "workdir", "env_script")


def _foreign(file: YamlFile, notes: list[str]) -> tuple[YamlFile, list[str]]:
    """With a note on what is taken where a file that was written for something else does not say it."""
    hosts = file.data["hosts"]
    silent = {key: [host for host in hosts if key not in host] for key in _HOW}
    taken = [_taken(key, some, len(hosts)) for key, some in silent.items() if some]
    if not taken:
        return file, notes
    return file, [*notes, plain(f"taken, since {file.name} does not say: {', '.join(taken)}")]


def _taken(key: str, hosts: list[dict[str, Any]], of_all: int) -> str:
    is_here = all(host.get("transport") == "local" for host in hosts)
    values = {
        "python": "python of this command" if is_here else f"python {_DEFAULTS['python']}",
        "workdir": f"workdir {_DEFAULTS['workdir']}{'/{name}' if is_here else ''}",
        "env_script": "no env_script" if is_here else "no env_script (such as CANN's set_env.sh)",
    }
    names = [name for host in hosts for name in host["name"]]
    return values[key] if len(hosts) == of_all else f"{values[key]} on {fold(names)}"


def _with_groups(
    file: YamlFile, notes: list[str], groups: dict[str, list[str]]
) -> tuple[YamlFile, list[str]]:
    file.data["groups"] = groups
    return file, notes


def _plain_hosts(file: YamlFile) -> list[str]:
    """Hosts that are written as texts, in place; what was assumed of their devices."""
    hosts = file.data.get("hosts")
    if not isinstance(hosts, list):
        return []
    defaults = file.data.get("defaults")
    has_devices = isinstance(defaults, dict) and defaults.get("devices") is not None
    assumed: list[str] = []
    entries: list[Any] = []
    for item in hosts:
        entry = _plain_host(item, has_devices, assumed) if isinstance(item, str) else item
        entries.append(entry)
    file.data["hosts"] = entries
    if not assumed:
        return []
    note = f"devices {DEVICES} are assumed of {', '.join(assumed[:8])} in {file.name}; `devices:` says which"
    return [plain(note)]


def _plain_host(text: str, has_devices: bool, assumed: list[str]) -> Any:
    try:
        found = host_line(text) if text.strip() else []
    except NotAHost:
        return text
    if not found:
        return text
    data = [host.data() for host in found]
    entry = {**data[0], "name": [name for each in data for name in each["name"]]}
    if any("address" in each for each in data):
        entry["address"] = [address for each in data for address in each.get("address", each["name"])]
    if found[0].slots is None:
        if has_devices:
            del entry["devices"]
        else:
            assumed.append(text)
    return entry


def _node_groups(file: YamlFile) -> tuple[YamlFile, list[str]] | None:
    """Groups as ClusterShell writes them (`compute: npu[01-12]`), or names with their slots (`npu01: 8`)."""
    items = {key: value for key, value in file.data.items() if value is not None}
    if not items:
        return None
    if all(isinstance(value, int) and not isinstance(value, bool) for value in items.values()):
        return read_hostfile(file.name, "\n".join(f"{key}:{value}" for key, value in items.items()))
    flat = {
        str(key): value
        for outer, inner in items.items()
        for key, value in (inner.items() if isinstance(inner, dict) else ((outer, inner),))
    }
    if not all(isinstance(value, str) for value in flat.values()):
        return None
    try:
        groups = _expanded({name: text for name, text in flat.items() if not text.startswith("@")})
        names = dict.fromkeys(name for members in groups.values() for name in members)
        hosts = [found for name in names for found in host_line(name)]
    except (RangeError, NotAHost):
        return None
    lines = {name: file.line((group,)) for group, names in groups.items() for name in names}
    data, notes = written(file.name, hosts, [lines[host.name] for host in hosts], "a file of node groups")
    named = {name for name in groups if name != "all" and name not in lines}
    return _with_groups(data, notes, {name: list(groups[name]) for name in named})


def _expanded(groups: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Each group's names. Raises RangeError, also for more than anybody has."""
    found: dict[str, tuple[str, ...]] = {}
    made = 0
    for name, text in groups.items():
        found[name] = nodeset(text)
        made += len(found[name])
        if made > 4 * MAX_HOSTS:
            raise RangeError("makes too many names")
    return found
