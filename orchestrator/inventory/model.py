"""The servers, as the inventory file describes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.inventory.hostrange import expand

__all__ = ["Device", "Host", "Inventory", "SshOptions"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Device(_Frozen):
    """One NPU of a host; `ip` is its RoCE address where the inventory fixes it."""

    id: Annotated[int, Field(ge=0)]
    ip: str | None = None


class Host(_Frozen):
    """One server: how to reach it, with which Python, where to work, which devices."""

    name: Annotated[str, Field(min_length=1)]
    address: str
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    user: str | None = None
    key: str | None = None
    transport: Literal["ssh", "local"] = "ssh"
    python: str | None = None
    env_script: str | None = None
    workdir: str = "~/.orchestrate"
    lock_dir: str | None = None
    devices: tuple[Device, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)

    @property
    def interpreter(self) -> str:
        """The Python of agent and workers; on a local host by default the one that runs us."""
        if self.python is not None:
            return self.python
        return sys.executable if self.transport == "local" else "python3"


class SshOptions(_Frozen):
    """How SSH connections are made; hosts may override user, port and key."""

    config_file: str = "~/.ssh/config"
    known_hosts: tuple[str, ...] = ("~/.ssh/known_hosts",)
    connect_timeout: Annotated[float, Field(gt=0)] = 10.0
    accept_new_host_keys: bool = False


class Inventory(_Frozen):
    """All servers of one file, in its order, and the groups it names."""

    path: Path
    hosts: tuple[Host, ...]
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    ssh: SshOptions = SshOptions()

    def host(self, name: str) -> Host:
        """The host of this name; raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def select(self, wanted: str | Sequence[str], count: int | None = None) -> tuple[Host, ...]:
        """The hosts of groups, ranges and names, each once, in the inventory's order; the first `count` of them.

        Raises ValueError for what is neither, and where there are fewer than `count`.
        """
        names: set[str] = set()
        for item in [wanted] if isinstance(wanted, str) else wanted:
            names.update(self._names_of(item))
        chosen = tuple(host for host in self.hosts if host.name in names)
        if count is not None and len(chosen) < count:
            raise ValueError(f"{count} hosts wanted, but `{wanted}` has {len(chosen)}")
        return chosen[:count]

    def _names_of(self, item: str) -> list[str]:
        item = item.removeprefix("@")
        if item in self.groups:
            return list(self.groups[item])
        if item == "all":
            return [host.name for host in self.hosts]
        known = {host.name for host in self.hosts}
        names = expand(item)
        unknown = [name for name in names if name not in known]
        if unknown:
            groups = ", ".join(["all", *self.groups])
            raise ValueError(f"no host or group `{unknown[0]}` in {self.path} (groups: {groups})")
        return names
