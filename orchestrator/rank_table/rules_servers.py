"""Rules about the table as a whole and its servers."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from orchestrator.config.host_ranges import numeric_key
from orchestrator.config.yaml_messages import nearest, show
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.table import RankTable, TablePart, TableView, is_loopback

__all__ = ["SERVER_RULES"]

# HCCL user guide: server_id.
_LONGEST_ID = 64
# Written by other tools, ignored by HCCL.
_FOREIGN_KEYS = frozenset(
    ["container_ip", "hardware_type", "server_ip", "pod_ip", "dpu_ip", "numa_id", "device_logical_id"]
)


def _version(view: TableView) -> Iterator[Broken]:
    version = view.table.version
    if version not in ("1.0", "1.2"):
        yield Broken("version", f"{show(version)} is no version that HCCL knows", (version,))


def _status(view: TableView) -> Iterator[Broken]:
    status = view.table.status
    if status != "completed":
        waits = ": HCCL waits half an hour for it to be completed" if status == "initializing" else ""
        yield Broken("status", f"is {show(status)}{waits}", (status,))


def _server_count(view: TableView) -> Iterator[Broken]:
    told, count = view.table.server_count, len(view.servers)
    if "server_count" in view.table.model_fields_set and told != str(count):
        what = f"is {show(told)}, but server_list has {count} server(s)"
        yield Broken("server_count", what, (told, str(count)), remedy=f'write "{count}"')


def _no_servers(view: TableView) -> Iterator[Broken]:
    if not view.servers:
        yield Broken("server_list", "is empty")


def _no_devices(view: TableView) -> Iterator[Broken]:
    for server in view.servers:
        if not server.devices:
            name = server.data.server_id
            yield Broken(f"{server.path}.device", f"server {name} has no device", (name,))


def _id_form(view: TableView) -> Iterator[Broken]:
    for server in view.servers:
        name = server.data.server_id
        if not name or len(name) > _LONGEST_ID:
            what = "the server_id is empty"
            if name:
                what = f"the server_id has {len(name)} characters; HCCL takes at most {_LONGEST_ID}"
            yield Broken(f"{server.path}.server_id", what, (name,))


def _id_twice(view: TableView) -> Iterator[Broken]:
    first: dict[str, str] = {}
    for server in view.servers:
        name = server.data.server_id
        if name and name in first:
            what = f"{name} is the id of another server already ({first[name]})"
            yield Broken(f"{server.path}.server_id", what, (name,))
        first.setdefault(name, server.path)


def _id_loopback(view: TableView) -> Iterator[Broken]:
    alone = len(view.servers) == 1
    for server in view.servers:
        name = server.data.server_id
        if is_loopback(name):
            what = f"{name} is a loopback address, which every server has"
            severity = Severity.WARNING if alone else Severity.ERROR
            yield Broken(f"{server.path}.server_id", what, (name,), severity)


def _host_ip(view: TableView) -> Iterator[Broken]:
    first: dict[str, str] = {}
    for server in view.servers:
        address, path = server.data.host_ip, f"{server.path}.host_ip"
        if not address:
            continue
        if address in first:
            yield Broken(path, f"{address} is the host_ip of server {first[address]} already", (address,))
        first.setdefault(address, server.data.server_id)


def _server_order(view: TableView) -> Iterator[Broken]:
    """MindSpore asks for ranks in the dictionary order of the ids; by number is what people mean by it."""
    ids = list(dict.fromkeys(device.server.data.server_id for device in view.by_rank))
    if ids not in (sorted(ids), sorted(ids, key=numeric_key)):
        place = next(i for i in range(1, len(ids)) if numeric_key(ids[i]) < numeric_key(ids[i - 1]))
        what = f"server {ids[place]} has higher ranks than server {ids[place - 1]}"
        yield Broken("server_list", f"{what}: ranks do not follow the order of the ids", tuple(ids[:64]))


def _unequal(view: TableView) -> Iterator[Broken]:
    counts: dict[int, list[str]] = {}
    for server in view.servers:
        counts.setdefault(len(server.devices), []).append(server.data.server_id)
    if len(counts) < 2:
        return
    usual = max(counts, key=lambda count: len(counts[count]))
    severity = Severity.ERROR if view.chip == "910A" else Severity.WARNING
    for server in view.servers:
        count = len(server.devices)
        if count != usual:
            what = f"server {server.data.server_id} has {count} device(s), the others have {usual}"
            yield Broken(f"{server.path}.device", what, (str(count), str(usual)), severity)


def _unknown_keys(view: TableView) -> Iterator[Broken]:
    for path, part in _parts(view.table):
        for key in part.model_extra or ():
            if key not in _FOREIGN_KEYS:
                near = nearest(key, type(part).model_fields)
                remedy = near if near.startswith("did") else None
                yield Broken(
                    f"{path}.{key}".removeprefix("."), "is no key that HCCL knows", (key,), None, remedy
                )


def _parts(table: RankTable) -> Iterator[tuple[str, BaseModel]]:
    """The parts of the table that hold keys of which the format knows nothing, with their paths."""
    if table.model_extra:
        yield "", table
    for i, server in enumerate(table.server_list):
        if server.model_extra:
            yield f"server_list[{i}]", server
        for j, device in enumerate(server.device):
            if device.model_extra:
                yield f"server_list[{i}].device[{j}]", device
    for i, pod in enumerate(table.super_pod_list):
        parts: list[tuple[str, TablePart]] = [("", pod)]
        parts += [(f".server_list[{j}]", server) for j, server in enumerate(pod.server_list)]
        for path, part in parts:
            if part.model_extra:
                yield f"super_pod_list[{i}]{path}", part


_REAL_ADDRESS = "give each server its own address: `orchestrate rank-table generate --server-ip ADDRESS`"

SERVER_RULES = (
    Rule("unknown-version", Severity.ERROR, _version, 'write "1.0", or "1.2" for a super pod'),
    Rule("status-not-completed", Severity.ERROR, _status, 'write "completed" once the table is'),
    Rule("no-servers", Severity.ERROR, _no_servers, "generate a table on every server and merge them"),
    Rule("server-count", Severity.ERROR, _server_count, ""),
    Rule("server-id-form", Severity.ERROR, _id_form, "use the server's address"),
    Rule("duplicate-server-id", Severity.ERROR, _id_twice, _REAL_ADDRESS),
    Rule("loopback-server-id", Severity.ERROR, _id_loopback, _REAL_ADDRESS),
    Rule("duplicate-host-ip", Severity.ERROR, _host_ip, "give each server its own address"),
    Rule("no-devices", Severity.ERROR, _no_devices, "leave the server out, or generate its table again"),
    Rule("server-order", Severity.WARNING, _server_order, "merge the servers' tables again"),
    Rule("unequal-servers", Severity.WARNING, _unequal, "use as many devices on each server"),
    Rule("unknown-key", Severity.WARNING, _unknown_keys, "HCCL ignores it"),
)
