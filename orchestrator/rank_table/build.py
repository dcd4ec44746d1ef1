"""The rank table of a launch, from where its ranks are placed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.inventory import Chip, Host
from orchestrator.placement import Placement
from orchestrator.rank_table.model import RankTable, RankTableDevice, RankTableServer

__all__ = ["build_rank_table", "chip_of_hosts"]


def build_rank_table(placements: Sequence[Placement], hosts: Iterable[Host]) -> RankTable:
    """The table of a placement, with the hosts' addresses as server ids; not yet checked."""
    addresses = {host.name: host.address for host in hosts}
    servers: dict[str, list[RankTableDevice]] = {}
    for item in placements:
        servers.setdefault(item.host, []).append(_device(item))
    return RankTable(
        version="1.0",
        server_count=str(len(servers)),
        server_list=tuple(
            RankTableServer(server_id=addresses[host], device=tuple(devices), host_nic_ip="reserve")
            for host, devices in servers.items()
        ),
        status="completed",
    )


def _device(item: Placement) -> RankTableDevice:
    fields: Mapping[str, str] = {"device_ip": item.device_ip} if item.device_ip else {}
    return RankTableDevice(device_id=str(item.device_id), rank_id=str(item.rank), **fields)


def chip_of_hosts(hosts: Iterable[Host]) -> Chip | None:
    """The kind of chip of all these hosts; None where it is not known of each, or differs."""
    kinds = {host.chip for host in hosts}
    return kinds.pop() if len(kinds) == 1 else None
