"""What differs between two rank tables, server by server and device by device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from orchestrator.rank_table.table import RankTable, RankTableDevice, RankTableServer, TablePart

__all__ = ["Difference", "differences"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same; None where one of the tables does not have it."""

    where: str
    key: str
    first: str | None
    second: str | None

    def __str__(self) -> str:
        if self.first is None or self.second is None:
            there = "second" if self.first is None else "first"
            shown = self.second if self.first is None else self.first
            value = f" {self.key} {shown}" if self.key else ""
            return f"{self.where}:{value} only in the {there}"
        return f"{self.where}: {self.key} {self.first} -> {self.second}"

    def to_json(self) -> dict[str, str | None]:
        return asdict(self)


def differences(first: RankTable, second: RankTable) -> list[Difference]:
    """Everything in which the tables differ; their layout as text, and the order of keys, do not count."""
    return [
        *_fields("table", first, second, leave_out={"server_list", "super_pod_list"}),
        *_servers(first, second),
        *_order(first, second),
        *_pods(first, second),
    ]


def _fields(where: str, first: TablePart, second: TablePart, leave_out: set[str]) -> Iterator[Difference]:
    one, other = (part.model_dump(exclude_unset=True, exclude=leave_out) for part in (first, second))
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key) or (key in one) != (key in other):
            values = [str(values[key]) if key in values else None for values in (one, other)]
            yield Difference(where, key, *values)


def _servers(first: RankTable, second: RankTable) -> Iterator[Difference]:
    ones, others = _by_id(first), _by_id(second)
    for name in dict.fromkeys([*ones, *others]):
        where = f"server {name}"
        one, other = ones.get(name), others.get(name)
        if one is None or other is None:
            counts = [f"{len(server.device)} device(s)" if server else None for server in (one, other)]
            yield Difference(where, "with", *counts)
            continue
        yield from _fields(where, one, other, leave_out={"device", "server_id"})
        yield from _devices(where, one, other)


def _by_id(table: RankTable) -> dict[str, RankTableServer]:
    return {server.server_id: server for server in table.server_list}


def _devices(where: str, first: RankTableServer, second: RankTableServer) -> Iterator[Difference]:
    ones, others = _by_device_id(first), _by_device_id(second)
    for name in dict.fromkeys([*ones, *others]):
        here = f"{where} device {name}"
        one, other = ones.get(name), others.get(name)
        if one is None or other is None:
            ranks = [device.rank_id if device else None for device in (one, other)]
            yield Difference(here, "rank_id", *ranks)
        else:
            yield from _fields(here, one, other, leave_out={"device_id"})


def _by_device_id(server: RankTableServer) -> Mapping[str, RankTableDevice]:
    return {device.device_id: device for device in server.device}


def _order(first: RankTable, second: RankTable) -> Iterator[Difference]:
    one, other = list(_by_id(first)), list(_by_id(second))
    if one != other and sorted(one) == sorted(other):
        yield Difference("table", "order of servers", ", ".join(one), ", ".join(other))


def _pods(first: RankTable, second: RankTable) -> Iterator[Difference]:
    ones, others = (
        {pod.super_pod_id: [server.server_id for server in pod.server_list] for pod in table.super_pod_list}
        for table in (first, second)
    )
    for name in dict.fromkeys([*ones, *others]):
        if ones.get(name) != others.get(name):
            servers = [", ".join(pods[name]) if name in pods else None for pods in (ones, others)]
            yield Difference(f"super pod {name}", "servers", *servers)
