"""The HCCL rank table as data (which rank is which device of which server), and as its rules see it.

Formats: HCCL user guide, "rank table configuration": version 1.0 (910, A2) and 1.2 (A3 super pods). HCCL
refuses scalars that are not JSON strings. The order of the keys is that of MindFormers' `hccl_tools.py`, so
that files compare equal. `TableView` is a table with every number and address parsed once.
"""

from __future__ import annotations

import functools
import gc
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.config.inventory import Chip

__all__ = [
    "DeviceView",
    "RankTable",
    "RankTableDevice",
    "RankTableServer",
    "ServerView",
    "SuperPod",
    "SuperPodServer",
    "TableView",
    "device_ips",
    "in_bulk",
    "is_loopback",
    "packed_ip",
]


@contextmanager
def in_bulk() -> Iterator[None]:
    """Without the cycle collector, which would walk over all parts of a table again and again.

    It costs more than the rules themselves from about a thousand servers on.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class TablePart(BaseModel):
    """Base of the table's parts. Keys that are not in our format are kept: they may be another tool's.

    A key that is absent reads as an empty text or list and is not written.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, defer_build=True)


class RankTableDevice(TablePart):
    """One device; all fields are strings, as HCCL wants them."""

    device_id: str
    super_device_id: str = ""
    device_ip: str = ""
    device_port: str = ""
    backup_device_ip: str = ""
    backup_device_port: str = ""
    host_port: str = ""
    device_vnic_port: str = ""
    net_position: str = ""
    net_protocol: str = ""
    rank_id: str


class RankTableServer(TablePart):
    """One server and its devices."""

    server_id: str
    host_ip: str = ""
    device: Annotated[tuple[RankTableDevice, ...], Field(strict=False)]
    host_nic_ip: str = ""


class SuperPodServer(TablePart):
    """A server of a super pod, by its id."""

    server_id: str


class SuperPod(TablePart):
    """Servers whose devices share one HCCS network (A3)."""

    super_pod_id: str
    server_list: Annotated[tuple[SuperPodServer, ...], Field(strict=False)]


class RankTable(TablePart):
    """A table of one server, or the merged one of all servers."""

    version: str
    server_count: str = ""
    server_list: Annotated[tuple[RankTableServer, ...], Field(strict=False)]
    super_pod_list: Annotated[tuple[SuperPod, ...], Field(strict=False)] = ()
    status: str

    def devices(self) -> Iterator[tuple[RankTableServer, RankTableDevice]]:
        """Every device with its server, in the order of the file."""
        return ((server, device) for server in self.server_list for device in server.device)

    @property
    def device_count(self) -> int:
        return sum(len(server.device) for server in self.server_list)

    def to_json(self) -> str:
        """As HCCL and MindFormers read it; the same table always gives the same bytes."""
        return json.dumps(self.model_dump(exclude_unset=True), indent=4)


@functools.lru_cache(maxsize=1024)
def is_ip(address: str) -> bool:
    """Whether this is an address and no name."""
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether this address means another host on every host."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def packed_ip(text: str) -> bytes | None:
    """An address as its 4 or 16 bytes; None for what is no address. Far quicker than `ipaddress`."""
    try:
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        return socket.inet_pton(family, text)
    except (OSError, ValueError):
        return None


def device_ips(text: str) -> tuple[bytes | None, ...]:
    """The addresses of a `device_ip` or `backup_device_ip`; None for what HCCL takes for none.

    Separated by commas, of which one at the end is passed over; a zone (`fe80::1%eth0`) is allowed. Source:
    HCOMM, TopoinfoRanktableConcise::SplitString and HcclIpAddress::SetReadableAddress.
    """
    parts = text.split(",") if text else []
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    return tuple(_packed(part) for part in parts)


def _packed(text: str) -> bytes | None:
    bare, sign, zone = text.partition("%")
    return packed_ip(bare) if bool(sign) == bool(zone) else None


def _number(text: str) -> int | None:
    """A decimal number as HCCL reads it; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


@dataclass(slots=True)
class DeviceView:
    """One device; `device_id`, `rank` and an address are None where the text is no such thing."""

    server: ServerView
    index: int
    data: RankTableDevice
    device_id: int | None
    rank: int | None
    ips: tuple[bytes | None, ...]

    @property
    def path(self) -> str:
        return f"server_list[{self.server.index}].device[{self.index}]"

    @property
    def name(self) -> str:
        return f"device {self.data.device_id or '?'} of server {self.server.data.server_id or '?'}"


@dataclass(slots=True)
class ServerView:
    """One server with its devices."""

    index: int
    data: RankTableServer
    devices: tuple[DeviceView, ...] = ()

    @property
    def path(self) -> str:
        return f"server_list[{self.index}]"


class TableView:
    """A table, and what is known of where it is to be used.

    `chip` None: nothing is known of the devices; a table with super pods is for an A3. `intra_roce`:
    HCCL_INTRA_ROCE_ENABLE is 1 for the job.
    """

    def __init__(self, table: RankTable, *, chip: Chip | None = None, intra_roce: bool = False) -> None:
        self.table = table
        self.chip: Chip | None = "910_93" if chip is None and _names_super_pods(table) else chip
        self.intra_roce = intra_roce
        self.servers = tuple(_servers(table))
        self.devices = tuple(device for server in self.servers for device in server.devices)

    @cached_property
    def by_rank(self) -> list[DeviceView]:
        """The devices that have a rank, in the order of ranks."""
        ranked = [device for device in self.devices if device.rank is not None]
        return sorted(ranked, key=lambda device: device.rank or 0)


def _names_super_pods(table: RankTable) -> bool:
    return table.version == "1.2" and bool(table.super_pod_list)


def _servers(table: RankTable) -> Iterator[ServerView]:
    for index, data in enumerate(table.server_list):
        server = ServerView(index, data)
        server.devices = tuple(
            DeviceView(
                server,
                position,
                device,
                _number(device.device_id),
                _number(device.rank_id),
                device_ips(device.device_ip),
            )
            for position, device in enumerate(data.device)
        )
        yield server
