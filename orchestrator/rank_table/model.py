"""The HCCL rank table as data: which rank is which device of which server.

Formats: HCCL user guide, "rank table configuration": version 1.0 (910, A2) and 1.2 (A3 super pods). HCCL
refuses scalars that are not JSON strings. The order of the keys is that of MindFormers' `hccl_tools.py`, so
that files compare equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "RankTable",
    "RankTableDevice",
    "RankTableServer",
    "SuperPod",
    "SuperPodServer",
    "is_loopback",
]


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
