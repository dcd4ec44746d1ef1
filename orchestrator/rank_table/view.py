"""A rank table prepared for its rules: every number and address parsed once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from orchestrator.inventory import Chip
from orchestrator.rank_table.model import RankTable, RankTableDevice, RankTableServer

__all__ = ["DeviceView", "ServerView", "TableView", "packed_ip"]


def packed_ip(text: str) -> bytes | None:
    """An address as its 4 or 16 bytes; None for what is no address. Far quicker than `ipaddress`."""
    try:
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        return socket.inet_pton(family, text)
    except (OSError, ValueError):
        return None


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

    `chip` None: nothing is known of the devices. `intra_roce`: HCCL_INTRA_ROCE_ENABLE is 1 for the job.
    """

    def __init__(self, table: RankTable, *, chip: Chip | None = None, intra_roce: bool = False) -> None:
        self.table = table
        self.chip: Chip | None = "910_93" if chip is None and table.version == "1.2" else chip
        self.intra_roce = intra_roce
        self.servers = tuple(_servers(table))
        self.devices = tuple(device for server in self.servers for device in server.devices)

    @cached_property
    def by_rank(self) -> list[DeviceView]:
        """The devices that have a rank, in the order of ranks."""
        ranked = [device for device in self.devices if device.rank is not None]
        return sorted(ranked, key=lambda device: device.rank or 0)


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
                tuple(packed_ip(text) for text in device.device_ip.split(",")) if device.device_ip else (),
            )
            for position, device in enumerate(data.device)
        )
        yield server
