"""The inventory: hosts and devices as the rest of the project sees them, ranges expanded, defaults applied.

And the kinds of Ascend chip, which differ in what a rank table may hold and in how devices are wired.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from orchestrator.config.container import ContainerOrOff
from orchestrator.config.host_ranges import RangeError, expand, fold, split_list
from orchestrator.config.inventory_copies import CopyNetwork
from orchestrator.config.job_fields import Flag, Positive
from orchestrator.config.schema import Check, Limits, Section, key
from orchestrator.config.yaml_messages import Invalid, nearest, show
from orchestrator.core.errors import ConfigError, Problem

__all__ = [
    "LOCAL_ADDRESS",
    "RING",
    "Chip",
    "Device",
    "Host",
    "HostName",
    "Inventory",
    "IpText",
    "Port",
    "SshOptions",
    "Transport",
    "chip_named",
    "chip_written",
]

# 910A: two rings of four devices. 910B: Atlas A2. 910_93: Atlas A3, in super pods. 310P: cards for inference.
# 950: Atlas A5, whose rank tables are of version 2.0.
Chip = Literal["910A", "910B", "910_93", "310P", "950"]

# Devices that share an HCCS ring on a 910A: 0-3 and 4-7.
RING = 4

# As `npu-smi` names them: 910A, 910ProA, 910PremiumA, 910B1 to 910B4-1, Ascend910_9391, 910C, 310P3, 950DT.
# An A3's table says just Ascend910: see FoundHost.kind.
_NAMES: tuple[tuple[str, Chip], ...] = (
    (r"910(Pro|Premium)?A", "910A"),
    (r"910B[1-4]?(-\d)?|A2", "910B"),
    (r"910_?93\d*|910C|A3", "910_93"),
    (r"310P\d*", "310P"),
    (r"950(PR|DT)?(_?\w{1,8})?|A5", "950"),
)


def chip_named(name: str) -> Chip | None:
    """The kind of a chip as a tool names it; None where the name tells nothing."""
    bare = re.sub(r"^ascend\s*", "", name.strip(), flags=re.IGNORECASE)
    return next((kind for pattern, kind in _NAMES if re.fullmatch(pattern, bare, re.IGNORECASE)), None)


def chip_written(value: Any) -> Any:
    """The kind of a chip as a person writes it. Raises Invalid."""
    # To YAML, 910_93 is the number 91093.
    kind = chip_named(str(value)) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
    if kind is None:
        raise Invalid(f"expected 910A, 910B, A3, 310P or 950; got {show(value)}", "see `npu-smi info -m`")
    return kind


LOCAL_ADDRESS = "127.0.0.1"

Transport = Literal["ssh", "local"]
Port = Annotated[int, Limits(ge=1, le=65535)]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", re.ASCII)


def check_name(name: str) -> str:
    """A name that can be part of a path and of a message. Raises Invalid for any other."""
    if name == "all":
        raise Invalid("all means every host", "choose another name")
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} is not a host name", "letters, digits and . _ - only, at most 63")
    return name


def _check_ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Invalid(f"{text!r} is not an IP address") from None


def check_address(address: str) -> str:
    """An IP address or a name to resolve. Raises Invalid for text that can be neither."""
    if re.fullmatch(r"[0-9.]+", address) or ":" in address:
        return _check_ip(address)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", address, re.ASCII):
        remedy = "the user goes under `user:`" if "@" in address else ""
        raise Invalid(f"{address!r} is neither an IP address nor a host name", remedy)
    return address


HostName = Annotated[str, Check(check_name, "a host's name")]
IpText = Annotated[str, Check(_check_ip, "IP address")]


@dataclass(frozen=True, slots=True)
class Device(Section):
    """One NPU: its physical id on the host, and its own address where it is known beforehand."""

    id: Annotated[int, Limits(ge=0)]
    ip: IpText | None = None


@dataclass(frozen=True, slots=True)
class Host(Section):
    """One server.

    `workdir` and `lock_dir` are paths on the host, `~` included; `lock_dir` None means `<workdir>/locks`.
    `key` is a path on the control node. `port` and `user` None leave the choice to the ssh config. `chip`
    None: the kind of its devices is not known. In a plan `container` is what the job makes of it.
    """

    name: HostName
    address: Annotated[str, Check(check_address)] = ""
    port: Port | None = None
    user: str | None = None
    key: str | None = None
    transport: Transport = "ssh"
    python: str = "python3"
    env_script: str | None = None
    workdir: str = "~/.orchestrate"
    lock_dir: str | None = None
    hccn_conf: str = "/etc/hccn.conf"
    devices: tuple[Device, ...] = ()
    chip: Chip | None = None
    labels: dict[str, str] = field(default_factory=dict)
    container: ContainerOrOff | None = None

    def __post_init__(self) -> None:
        if not self.address:
            local = self.transport == "local"
            object.__setattr__(self, "address", LOCAL_ADDRESS if local else self.name)


@dataclass(frozen=True, slots=True)
class SshOptions(Section):
    """How connections are made; the paths are on the control node."""

    config_file: str = key(
        "~/.ssh/config",
        "Host aliases, ProxyJump, users and keys are honoured, as is the SSH agent",
    )
    known_hosts: tuple[str, ...] = key(
        ("~/.ssh/known_hosts",),
        "files of host keys, beside the system's; new ones go into the first of them",
    )
    connect_timeout: Positive = key(10.0, "seconds for a connection to a host")
    accept_new_host_keys: Flag = key(
        False,
        "add unknown host keys, as `--accept-new-host-keys` does for one launch; changed keys "
        "are always refused",
    )


@dataclass(frozen=True, slots=True)
class Inventory:
    """All hosts of one file, in the order written; `groups` hold host names, `copies` is the key `copy`."""

    path: Path
    hosts: tuple[Host, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ssh: SshOptions = field(default_factory=SshOptions)
    copies: CopyNetwork | None = None

    def host(self, name: str) -> Host:
        """The host of this name. Raises ConfigError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise ConfigError([Problem(str(self.path), f"no host {name!r}", self._hint(name))])

    def accepting_new_host_keys(self) -> Inventory:
        """This inventory, with unknown host keys added to known_hosts instead of refused."""
        return replace(self, ssh=replace(self.ssh, accept_new_host_keys=True))

    def select(self, expr: str | list[str] | tuple[str, ...], count: int | None = None) -> tuple[Host, ...]:
        """The hosts that an expression names, each once, in the order of the inventory.

        An item is a group, `@group`, a host, a range, or one of these after `!` to leave it out; `all` is
        every host. `count` keeps the first so many. Raises ConfigError: unknown names, nothing left, fewer
        than `count`.
        """
        by_name = {host.name: host for host in self.hosts}
        chosen, problems = self._resolve([expr] if isinstance(expr, str) else list(expr), by_name)
        shown = expr if isinstance(expr, str) else ", ".join(expr)
        if not problems and not chosen:
            problems.append(Problem(str(self.path), f"no host is left of {shown!r}"))
        if not problems and count is not None and count > len(chosen):
            text = f"{count} host(s) are asked for, but {shown!r} has {len(chosen)}: {fold(chosen)}"
            problems.append(Problem(str(self.path), text, "lower host_count or add hosts to the inventory"))
        if problems:
            raise ConfigError(problems)
        return tuple(by_name[name] for name in chosen[:count])

    def _resolve(self, parts: list[str], by_name: dict[str, Host]) -> tuple[list[str], list[Problem]]:
        chosen: set[str] = set()
        left_out: set[str] = set()
        problems: list[Problem] = []
        try:
            items = [item for part in parts for item in split_list(part)]
            if items and all(item.startswith("!") for item in items):
                items.insert(0, "all")
            for item in items:
                excluded = item.startswith("!")
                names = self._members(item.removeprefix("!").strip())
                unknown = [name for name in names if name not in by_name]
                for name in unknown[:1]:
                    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
                    problems.append(
                        Problem(str(self.path), f"no host or group {show(name)}{more}", self._hint(name))
                    )
                left_out.update(names if excluded else ())
                chosen.update(() if excluded else names)
        except RangeError as error:
            problems.append(Problem(str(self.path), f"host range {error}"))
        return [name for name in by_name if name in chosen - left_out], problems

    def _members(self, item: str) -> tuple[str, ...]:
        group = item.removeprefix("@")
        if group in self.groups:
            return self.groups[group]
        if group == "all":
            return tuple(host.name for host in self.hosts)
        return (item,) if item.startswith("@") else expand(item)

    def _hint(self, name: str) -> str:
        near = nearest(
            name, [*(host.name for host in self.hosts), *(f"@{group}" for group in self.groups), "all"]
        )
        if near.startswith("did"):
            return near
        groups = "".join(f", @{group}" for group in self.groups)
        return f"hosts: {fold(host.name for host in self.hosts)}; groups: @all{groups}"
