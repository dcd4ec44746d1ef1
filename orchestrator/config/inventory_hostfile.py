"""Hostfiles of other launchers as inventories: a host in a line, with as many devices as it has slots.

Forms: DeepSpeed and Open MPI (`npu01 slots=8`), MPICH, Intel MPI, Horovod (`npu01:8`, `npu01:8,npu02:8`),
LSF (`npu01 8`), PBS (a line for each slot), lines of /etc/hosts (`10.0.0.1 npu01`), plain lists, and node
sets of clush, nodeset and Slurm (`npu[01-12]`, `npu[0-10/2]`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from orchestrator.config.host_ranges import MAX_HOSTS, MAX_NAMES, RangeError, expand, fold, split_list
from orchestrator.config.inventory import check_address
from orchestrator.config.yaml_messages import Invalid, plain, show
from orchestrator.config.yaml_reader import Loc, YamlFile
from orchestrator.core.errors import ConfigError, Problem

__all__ = [
    "DEVICES",
    "MOST_SLOTS",
    "NotAHost",
    "WrittenHost",
    "as_lines",
    "host_line",
    "is_hostfile",
    "nodeset",
    "read_hostfile",
    "written",
]

# Where nothing says how many devices a host has: the servers of all kinds but an A3 have eight.
DEVICES = "0-7"
MOST_SLOTS = 64
# Slurm and Horovod write all hosts into one line.
_LONGEST_LINE = 65_536
# Bad lines that are told of one file.
_MOST_PROBLEMS = 20
_SLOTS = re.compile(r"(.+):([0-9]{1,6})", re.ASCII)
_STEP = re.compile(r"\[([^\[\]]*)\]")
_STEPPED = re.compile(r"([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,9})", re.ASCII)
# What Open MPI has beside `slots`, which says nothing about devices.
_PASSED_OVER = ("max_slots", "max-slots", "ifname", "port", "cpu", "sockets", "cores")


@dataclass
class WrittenHost:
    """One host as a foreign file has it; `slots` None where it does not say how many devices there are."""

    name: str
    slots: int | None = None
    address: str | None = None
    keys: dict[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """As an entry of an inventory file."""
        name = self.name.replace(":", "-") if ":" in self.name else self.name
        address = self.address or (self.name if name != self.name else None)
        devices = DEVICES if self.slots is None else f"0-{self.slots - 1}"
        known = {"name": [name], "devices": devices, **self.keys}
        return {**known, "address": [address]} if address else known


class NotAHost(ValueError):
    """A text that names no host; the words say why."""


def nodeset(text: str) -> tuple[str, ...]:
    """The names of a node set; also with steps, as ClusterShell writes them. Raises RangeError."""
    return expand(_STEP.sub(lambda match: f"[{','.join(map(_stepped, match[1].split(',')))}]", text))


def _stepped(item: str) -> str:
    match = _STEPPED.fullmatch(item.strip())
    if match is None:
        return item
    first, last, step = int(match[1]), int(match[2]), int(match[3])
    if not step or (last - first) // step >= MAX_NAMES:
        raise RangeError(f"{item.strip()}: steps to no end")
    width = len(match[1]) if match[1].startswith("0") and len(match[1]) > 1 else 0
    return ",".join(str(number).zfill(width) for number in range(first, last + 1, step))


def host_line(line: str) -> list[WrittenHost]:
    """The hosts of one line without comments. Raises NotAHost: it is none."""
    if len(line) > _LONGEST_LINE:
        raise NotAHost(f"the line has more than {_LONGEST_LINE} letters")
    try:
        items = split_list(line.split()[0])
    except RangeError as error:
        raise NotAHost(str(error)) from None
    slots, alias = _rest(line.split()[1:], items)
    found = []
    for item in items:
        user, _, name = item.rpartition("@")
        name, own = _with_slots(name)
        for host in _named(name):
            written = WrittenHost(host, own if own is not None else slots)
            if alias is not None:
                written.name, written.address = alias, host
            if user:
                written.keys["user"] = user
            found.append(written)
    return found


def _with_slots(name: str) -> tuple[str, int | None]:
    """`npu01:8` as name and slots; an IPv6 address has colons of its own."""
    match = _SLOTS.fullmatch(name)
    if match is None or _is_ip(name):
        return name, None
    return match[1], _count(match[2])


def _count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
    if not 0 < count <= MOST_SLOTS:
        raise NotAHost(f"{show(text)} is no number of devices from 1 to {MOST_SLOTS}")
    return count


def _named(text: str) -> Iterator[str]:
    try:
        names = nodeset(text)
        for name in names:
            yield check_address(name)
    except (RangeError, Invalid) as error:
        raise NotAHost(str(error)) from None


def _rest(words: list[str], items: list[str]) -> tuple[int | None, str | None]:
    """Slots, and the name where the first word is an address, as in /etc/hosts."""
    slots: int | None = None
    alias: str | None = None
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key == "slots":
            slots = _count(value)
        elif sign and key in _PASSED_OVER:
            continue
        elif not sign and word.isdigit() and slots is None:
            slots = _count(word)
        elif not sign and len(items) == 1 and _is_ip(items[0]) and not _is_ip(word):
            alias = alias or next(_named(word))
        else:
            raise NotAHost(f"{show(word)} behind a host's name")
    return slots, alias


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with something in them, without comments."""
    for number, line in enumerate(text.split("\n"), 1):
        bare = re.sub(r"(?:^|\s)#.*", "", line).strip()
        if bare:
            yield number, bare


def as_lines(text: str) -> str:
    """A list of names, in YAML (`- npu01`) or in JSON (`["npu01"]`), as the lines of a hostfile."""
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]") and '"' in bare:
        return "\n".join(item.strip().strip("\"'") for item in bare[1:-1].split(","))
    lines = text.split("\n")
    if all(line.startswith("- ") for line in lines if line.strip() and not line.lstrip().startswith("#")):
        return "\n".join(line.removeprefix("- ").strip().strip("\"'") for line in lines)
    return text


def is_hostfile(text: str) -> bool:
    """Whether a text that is no YAML mapping begins as a hostfile does."""
    first = next(_lines(text), None)
    try:
        return first is not None and bool(host_line(first[1]))
    except NotAHost:
        return False


def read_hostfile(name: str, text: str) -> tuple[YamlFile, list[str]]:
    """The hostfile as the data of an inventory, and what was assumed. Raises ConfigError: all bad lines."""
    hosts: dict[str, WrittenHost] = {}
    lines: dict[str, int] = {}
    repeated: Counter[str] = Counter()
    problems: list[Problem] = []
    for number, line in _lines(text):
        if len(problems) >= _MOST_PROBLEMS:
            break
        try:
            found = host_line(line)
        except NotAHost as error:
            remedy = "a hostfile has lines such as `npu01 slots=8`, `npu01:8` or `npu01`"
            problems.append(Problem(plain(f"{name}:{number}"), plain(f"is no host: {error}"), remedy))
            continue
        repeated.update(host.name for host in found)
        for host in found:
            lines.setdefault(host.name, number)
            _add(hosts, host)
        # The same name may stand there once for each slot.
        if len(hosts) > MAX_HOSTS or repeated.total() > MAX_HOSTS * MOST_SLOTS // 4:
            raise ConfigError([Problem(plain(f"{name}:{number}"), f"there are more than {MAX_HOSTS} hosts")])
    problems += _counted(name, hosts, lines, repeated)
    if problems:
        raise ConfigError(problems)
    return written(name, list(hosts.values()), [lines[each] for each in hosts], "a hostfile")


def _add(hosts: dict[str, WrittenHost], host: WrittenHost) -> None:
    """Open MPI adds up the slots of a host that stands there twice."""
    known = hosts.setdefault(host.name, host)
    if known is not host and host.slots is not None:
        known.slots = min((known.slots or 0) + host.slots, MOST_SLOTS + 1)


def _counted(
    name: str, hosts: dict[str, WrittenHost], lines: dict[str, int], repeated: Counter[str]
) -> Iterator[Problem]:
    """PBS has a line for each slot. Yields the hosts that have too many."""
    for host in hosts.values():
        if host.slots is None and repeated[host.name] > 1:
            host.slots = repeated[host.name]
        if host.slots is not None and host.slots > MOST_SLOTS:
            what = f"{host.name} has more than {MOST_SLOTS} slots"
            yield Problem(plain(f"{name}:{lines[host.name]}"), plain(what), "is it there twice?")


def written(
    name: str, hosts: list[WrittenHost], lines: list[int], kind: str, notes: tuple[str, ...] = ()
) -> tuple[YamlFile, list[str]]:
    """Hosts as the data of an inventory file, each at its line, and what a person should know about it."""
    file = YamlFile(name, {"hosts": [host.data() for host in hosts]}, lines={(): 1, ("hosts",): 1})
    for index, line in enumerate(lines):
        loc: Loc = ("hosts", index)
        file.lines[loc] = line
    told = [f"{name} is {kind}: taken as the inventory of {fold(host.name for host in hosts)}", *notes]
    bare = [host.name for host in hosts if host.slots is None and "devices" not in host.keys]
    if bare:
        told.append(f"devices {DEVICES} are assumed of {fold(bare)}; `devices:` of an inventory says which")
    return file, [plain(note) for note in told]
