"""The HCCL rank table, version 1.0: which rank is which device of which server.

Format: HCCL user guide, "rank table configuration"; HCCL refuses scalars that are not JSON strings. Key
order is that of MindFormers' generator, so that files compare equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from pydantic import BaseModel, ConfigDict

from orchestrator.errors import ConfigError, Problem
from orchestrator.inventory import Inventory
from orchestrator.placement import Placement

__all__ = ["RankTable", "RankTableDevice", "RankTableServer", "build_rank_table", "is_loopback"]

# HCCL user guide: server_id.
_LONGEST_ID = 64


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RankTableDevice(_Table):
    """One device; all fields are strings, as HCCL wants them."""

    device_id: str
    device_ip: str | None = None
    rank_id: str


class RankTableServer(_Table):
    """One server and its devices."""

    server_id: str
    device: tuple[RankTableDevice, ...]
    host_nic_ip: str = "reserve"


class RankTable(_Table):
    """The merged table of all servers."""

    version: str = "1.0"
    server_count: str
    server_list: tuple[RankTableServer, ...]
    status: str = "completed"

    def to_json(self) -> str:
        """As HCCL and MindFormers read it; the same table always gives the same bytes."""
        return json.dumps(self.model_dump(exclude_none=True), indent=4)


def build_rank_table(placements: Sequence[Placement], inventory: Inventory) -> RankTable:
    """The table of a placement. Raises ConfigError with everything HCCL would refuse in it."""
    servers: dict[str, list[Placement]] = {}
    for placement in placements:
        servers.setdefault(placement.host, []).append(placement)
    problems = [
        Problem(f"{inventory.path}: {host}", what, remedy)
        for host, what, remedy in _faults(servers, inventory)
    ]
    if problems:
        raise ConfigError(problems)
    return RankTable(
        server_count=str(len(servers)),
        server_list=tuple(
            RankTableServer(
                server_id=inventory.host(host).address,
                device=tuple(
                    RankTableDevice(
                        device_id=str(item.device_id), device_ip=item.device_ip, rank_id=str(item.rank)
                    )
                    for item in items
                ),
            )
            for host, items in servers.items()
        ),
    )


def _faults(servers: dict[str, list[Placement]], inventory: Inventory) -> Iterator[tuple[str, str, str]]:
    addresses = Counter(inventory.host(host).address for host in servers)
    for host, items in servers.items():
        address = inventory.host(host).address
        if len(servers) > 1 and is_loopback(address):
            yield host, f"server_id {address} is a loopback address", "give its real `address:`"
        if addresses[address] > 1:
            yield host, f"server_id {address} is used by {addresses[address]} hosts", "correct `address:`"
        if len(address) > _LONGEST_ID:
            what = f"server_id {address[:20]}... is longer than {_LONGEST_ID} characters"
            yield host, what, "give a shorter name or an IP as `address:`"
        missing = [str(item.device_id) for item in items if item.device_ip is None]
        if missing and len(servers) > 1:
            yield host, f"device {', '.join(missing)} has no device IP", "add `device_ips:`"
    yield from _device_ip_faults([(host, item) for host, items in servers.items() for item in items])


def _device_ip_faults(devices: Sequence[tuple[str, Placement]]) -> Iterator[tuple[str, str, str]]:
    ips = [ip_address(item.device_ip) if item.device_ip else None for _, item in devices]
    counts = Counter(ips)
    first = next((ip for ip in ips if ip), None)
    for (host, item), ip in zip(devices, ips, strict=True):
        if ip is None or first is None:
            continue
        if counts[ip] > 1:
            what = f"device IP {ip} of device {item.device_id} is used {counts[ip]} times"
            yield host, what, "correct `device_ips:`"
        if ip.version != first.version:
            what = f"device IP {ip} is IPv{ip.version}, but {first} is IPv{first.version}"
            yield host, what, "use one kind for all devices"


def is_loopback(address: str) -> bool:
    """Whether this address means another host on every host."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
