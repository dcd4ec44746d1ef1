"""Inventories of Ansible (INI, YAML, and what `ansible-inventory --list` prints) as inventories of ours.

Hosts with `ansible_host`, `ansible_user`, `ansible_port`, `ansible_ssh_private_key_file`,
`ansible_python_interpreter` and `ansible_connection=local`, of the host or of its groups, and the groups.
A variable `devices` (`0-7`) or `slots` (8) says what a host has. Format: Ansible, "How to build your
inventory".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.host_ranges import MAX_HOSTS, MAX_NAMES, RangeError, expand
from orchestrator.config.inventory_hostfile import MOST_SLOTS, WrittenHost, written
from orchestrator.config.yaml_messages import plain, show
from orchestrator.config.yaml_reader import YamlFile
from orchestrator.core.errors import ConfigError, Problem

__all__ = ["is_ansible", "is_ansible_ini", "read_ansible", "read_ansible_ini"]

_KEYS = {
    "ansible_user": "user",
    "ansible_ssh_user": "user",
    "ansible_port": "port",
    "ansible_ssh_port": "port",
    "ansible_private_key_file": "key",
    "ansible_ssh_private_key_file": "key",
    "ansible_python_interpreter": "python",
    "devices": "devices",
}
_ADDRESS = ("ansible_host", "ansible_ssh_host")
_READ = (*_KEYS, *_ADDRESS, "ansible_connection", "slots")
_SECTION = re.compile(r"\[\s*([^\[\]:\s]+)\s*(?::\s*(vars|children|hosts)\s*)?\]")
_RANGE = re.compile(r"\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\]", re.ASCII)
# Of a group: its own, and no host's or variable's.
_PARTS = {"hosts", "children", "vars"}
# Groups within groups: no inventory is deeper.
_DEEPEST = 32


@dataclass
class _Group:
    """A group: its hosts, the groups in it, and what holds for all of them."""

    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Parsed:
    """An inventory of Ansible, with the line at which each host first stands."""

    name: str
    groups: dict[str, _Group] = field(default_factory=dict)
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    made: int = 0

    def group(self, name: str) -> _Group:
        return self.groups.setdefault(name, _Group())

    def refuse(self, line: int, what: str, remedy: str = "") -> ConfigError:
        return ConfigError([Problem(plain(f"{self.name}:{line}"), plain(what), plain(remedy))])

    def add(self, group: str, pattern: str, variables: Mapping[str, Any], line: int) -> None:
        """The hosts of a pattern such as `npu[02:04]`."""
        names = self._names(pattern, line)
        self.made += len(names)
        for host in names:
            self.group(group).hosts[host] = None
            self.hosts.setdefault(host, {}).update(variables)
            self.lines.setdefault(host, line)
        # A host may be in several groups.
        if len(self.hosts) > MAX_HOSTS or self.made > 16 * MAX_HOSTS:
            raise self.refuse(line, f"there are more than {MAX_HOSTS} hosts")

    def _names(self, pattern: str, line: int) -> tuple[str, ...]:
        try:
            return expand(_RANGE.sub(_ours, pattern))
        except (RangeError, ValueError) as error:
            raise self.refuse(line, f"{show(pattern)} names no hosts: {error}") from None


def _ours(match: re.Match[str]) -> str:
    """Ansible's `[02:10:2]` and `[a:c]` as a range of ours."""
    first, last, step = match[1], match[2], int(match[3] or 1)
    if first.isdigit() and last.isdigit():
        if len(first) > 18 or len(last) > 18 or not step or (int(last) - int(first)) // step >= MAX_NAMES:
            raise ValueError(f"{match[0]} is too long")
        # Both ends need one width: Ansible takes that of the first.
        width = len(first) if first.startswith("0") and len(first) > 1 else 0
        numbers = (str(number).zfill(width) for number in range(int(first), int(last) + 1, step))
        return f"[{','.join(numbers)}]"
    letters = [chr(code) for code in range(ord(first[0]), ord(last[0]) + 1, max(step, 1))]
    if len(letters) != 1:
        raise ValueError(f"{match[0]}: ranges of letters are not read; write the names")
    return letters[0]


def is_ansible_ini(text: str) -> bool:
    """Whether any line is a section, as in `[npu]`, and the ones before it are hosts or comments."""
    for line in text.split("\n"):
        bare = line.strip()
        if bare and not bare.startswith(("#", ";")):
            if _SECTION.fullmatch(_without_comment(bare)):
                return True
            if not re.match(r"[\w.\[\]:@-]+(\s+\w+=|\s*$)", bare):
                return False
    return False


def _without_comment(line: str) -> str:
    return re.sub(r"\s[#;].*", "", line).strip()


def read_ansible_ini(name: str, text: str) -> tuple[YamlFile, list[str], dict[str, list[str]]]:
    """The INI form as the data of an inventory file, what is assumed, and its groups. Raises ConfigError."""
    parsed = _Parsed(name)
    section, kind = "ungrouped", "hosts"
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if match := _SECTION.fullmatch(_without_comment(line)):
            section, kind = match[1], match[2] or "hosts"
            parsed.group(section)
        elif kind == "children":
            parsed.group(section).children[_without_comment(line)] = None
            parsed.group(_without_comment(line))
        elif kind == "vars":
            key, _, value = _without_comment(line).partition("=")
            parsed.group(section).vars[key.strip()] = value.strip().strip("'\"")
        else:
            pattern, variables = _host_words(parsed, number, line)
            parsed.add(section, pattern, variables, number)
    return _finished(parsed)


def _host_words(parsed: _Parsed, number: int, line: str) -> tuple[str, dict[str, str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise parsed.refuse(number, f"is no host of an Ansible inventory: {error}") from None
    pairs = [word.partition("=") for word in words[1:]]
    if not words or not all(sign and key for key, sign, _ in pairs):
        raise parsed.refuse(
            number, "is no host of an Ansible inventory", "write `npu01 ansible_host=10.0.0.1`"
        )
    return words[0], {key: value for key, _, value in pairs}


def is_ansible(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is an inventory of Ansible: groups, each with hosts, children or variables."""
    groups = {key: value for key, value in data.items() if key != "_meta"}
    if not groups or isinstance(data.get("hosts"), (list, str)):
        return False
    return all(_is_group(value) for value in groups.values()) and any(groups.values())


def _is_group(value: Any) -> bool:
    if value is None or value == {}:
        return True
    return (
        isinstance(value, dict)
        and set(value) <= _PARTS
        and all(part is None or isinstance(part, (dict, list)) for part in value.values())
    )


def read_ansible(file: YamlFile) -> tuple[YamlFile, list[str], dict[str, list[str]]]:
    """The YAML form, or the JSON of `ansible-inventory --list`. Raises ConfigError."""
    parsed = _Parsed(file.name)
    meta = file.data.get("_meta")
    known = meta.get("hostvars") if isinstance(meta, dict) else None
    waiting: list[tuple[str, Any, tuple[Any, ...]]] = [
        (str(key), value, (key,)) for key, value in reversed(file.data.items()) if key != "_meta"
    ]
    while waiting:
        name, value, loc = waiting.pop()
        group = parsed.group(name)
        parts = value if isinstance(value, dict) else {}
        for key in ("vars", "hosts", "children"):
            part = parts.get(key)
            if part and not isinstance(part, dict) and (key == "vars" or not isinstance(part, list)):
                raise parsed.refuse(file.line((*loc, key)), f"expected {key} of a group, got {show(part)}")
        group.vars.update(parts.get("vars") or {})
        hosts = parts.get("hosts") or {}
        for host in hosts:
            variables = hosts[host] if isinstance(hosts, dict) else None
            if variables is not None and not isinstance(variables, dict):
                raise parsed.refuse(
                    file.line((*loc, "hosts", host)), f"expected variables, got {show(variables)}"
                )
            parsed.add(name, str(host), variables or {}, file.line((*loc, "hosts", host)))
        children = parts.get("children") or {}
        for child in children:
            group.children[str(child)] = None
            inner = children[child] if isinstance(children, dict) else None
            waiting.append((str(child), inner, (*loc, "children", child)))
    for host, variables in (known or {}).items():
        if host in parsed.hosts and isinstance(variables, dict):
            parsed.hosts[host].update(variables)
    return _finished(parsed)


def _finished(parsed: _Parsed) -> tuple[YamlFile, list[str], dict[str, list[str]]]:
    inherited = dict(_inherited(parsed))
    unused: dict[str, None] = {}
    hosts = []
    for host, own in parsed.hosts.items():
        variables = {**inherited.get(host, {}), **own}
        unused |= {str(key): None for key in variables if key not in _READ}
        hosts.append(_host(parsed, host, variables))
    if not hosts:
        raise parsed.refuse(1, "is an Ansible inventory without hosts")
    notes = (f"what is not read of it: {', '.join(list(unused)[:8])}",) if unused else ()
    lines = [parsed.lines[host] for host in parsed.hosts]
    file, told = written(parsed.name, hosts, lines, "an Ansible inventory", notes)
    return file, told, _groups(parsed)


def _host(parsed: _Parsed, host: str, variables: Mapping[str, Any]) -> WrittenHost:
    line = parsed.lines[host]
    for key in _READ:
        if "{{" in str(variables.get(key, "")):
            remedy = "`ansible-inventory --list` prints it filled in: use its output as the inventory"
            raise parsed.refuse(line, f"{key} of {host} is a template of Ansible's", remedy)
    found = WrittenHost(
        host, address=next((str(variables[key]) for key in _ADDRESS if key in variables), None)
    )
    for key, ours in _KEYS.items():
        value = variables.get(key)
        if value is None or (key == "ansible_python_interpreter" and str(value).startswith("auto")):
            continue
        text = str(value)
        is_number = ours == "port" and text.isascii() and text.isdigit() and len(text) < 7
        found.keys[ours] = int(text) if is_number else value
    if variables.get("ansible_connection") == "local":
        found.keys["transport"] = "local"
    if "slots" in variables:
        text = str(variables["slots"])
        if not (text.isascii() and text.isdigit() and len(text) < 7 and 0 < int(text) <= MOST_SLOTS):
            raise parsed.refuse(line, f"slots of {host} is {show(variables['slots'])}", f"1 to {MOST_SLOTS}")
        found.slots = int(text)
    return found


def _inherited(parsed: _Parsed) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each host has from its groups: `all` first, then the groups from outside to inside, by name."""
    depths = _depths(parsed)
    found: dict[str, dict[str, Any]] = {host: {} for host in parsed.hosts}
    members = _members(parsed, depths)
    for name in sorted(parsed.groups, key=lambda name: (depths.get(name, 0), name)):
        variables = parsed.groups[name].vars
        for host in (parsed.hosts if name == "all" else members[name]) if variables else ():
            found[host].update(variables)
    yield from found.items()


def _depths(parsed: _Parsed) -> dict[str, int]:
    """How deep each group lies in others. Raises ConfigError where they lie too deep, or in a circle."""
    depths = dict.fromkeys(parsed.groups, 1) | {"all": 0}
    for _ in range(_DEEPEST):
        deeper = {
            child: depths[name] + 1
            for name, group in parsed.groups.items()
            for child in group.children
            if child != "all" and depths.get(child, 0) <= depths[name]
        }
        if not deeper:
            return depths
        depths |= deeper
    raise parsed.refuse(1, f"groups lie more than {_DEEPEST} deep in each other, or in a circle")


# Hosts in all groups together, each counted in every group that it is in.
_MOST_MEMBERS = 262_144


def _members(parsed: _Parsed, depths: Mapping[str, int]) -> dict[str, dict[str, None]]:
    """The hosts of every group, and of all groups in it. Raises ConfigError for too many."""
    found: dict[str, dict[str, None]] = {}
    total = 0
    for name in sorted(depths, key=lambda name: -depths[name]):
        group = parsed.groups.get(name, _Group())
        mine = dict(group.hosts)
        for child in group.children:
            mine |= found.get(child, {})
            total += len(found.get(child, {}))
        total += len(mine)
        if total > _MOST_MEMBERS:
            raise parsed.refuse(1, "its groups are too many and too large")
        found[name] = mine
    return found


def _groups(parsed: _Parsed) -> dict[str, list[str]]:
    """The groups that can be groups of ours, with the hosts in them."""
    found = {}
    for name, members in _members(parsed, _depths(parsed)).items():
        is_ours = (
            name not in ("all", "ungrouped") and name not in parsed.hosts and re.fullmatch(r"[\w.-]+", name)
        )
        if is_ours and members:
            found[name] = [host.replace(":", "-") for host in members]
    return found
