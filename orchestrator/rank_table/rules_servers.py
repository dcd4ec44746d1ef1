"""Rules about the table as a whole and its servers."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from orchestrator.config.host_ranges import numeric_key
from orchestrator.config.yaml_messages import nearest, show
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.table import RankTable, TablePart, TableView, device_ips, is_loopback

__all__ = ["SERVER_RULES"]

# HCCL user guide: server_id; HCOMM counts bytes.
_LONGEST_ID = 64
# Written by other tools, ignored by HCCL: MindCluster's, and those of MindSpore for jobs across clusters.
_FOREIGN_KEYS = frozenset(
    (
        *("container_ip", "hardware_type", "device_logical_id", "pod_name", "server_index"),
        *("server_ip", "pod_ip", "dpu_ip", "numa_id", "cluster_list"),
    )
)


def _version(view: TableView) -> Iterator[Broken]:
    version = view.table.version
    if version == "1.1":
        what = "is 1.1, HCCL's form for clusters of which some ranks run on CPUs, which is not looked at here"
        yield Broken("version", what, (version,))
    elif version not in ("1.0", "1.2"):
        yield Broken("version", f"{show(version)} is no version that HCCL knows", (version,))


def _version_of_950(view: TableView) -> Iterator[Broken]:
    if view.chip == "950":
        what = f"is {show(view.table.version)}: the HCCL of a 950 reads version 2.0 alone"
        yield Broken("version", what, (view.table.version,))


def _status(view: TableView) -> Iterator[Broken]:
    status = view.table.status
    if status != "completed":
        waits = ": HCCL waits half an hour for it to be completed" if status == "initializing" else ""
        yield Broken("status", f"is {show(status)}{waits}", (status,))


def _server_count(view: TableView) -> Iterator[Broken]:
    told, count = view.table.server_count, len(view.servers)
    is_told = "server_count" in view.table.model_fields_set
    # HCCL reads a number: "02" is 2.
    if is_told and not (told.isascii() and told.isdigit() and told.lstrip("0") == str(count)):
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
        length = len(name.encode(errors="surrogatepass"))
        if not name or length > _LONGEST_ID:
            what = "the server_id is empty"
            if name:
                unit = "characters" if name.isascii() else "bytes"
                what = f"the server_id has {length} {unit}; HCCL takes at most {_LONGEST_ID}"
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


def _host_ip_form(view: TableView) -> Iterator[Broken]:
    for server in view.servers:
        text, ips = server.data.host_ip, device_ips(server.data.host_ip)
        if "host_ip" in server.data.model_fields_set and (len(ips) != 1 or ips[0] is None):
            yield Broken(f"{server.path}.host_ip", f"{show(text)} is no IP address", (text,))


def _host_ip_family(view: TableView) -> Iterator[Broken]:
    """HCCL compares them as soon as there are two servers."""
    lengths: dict[int, str] = {}
    for server in view.servers:
        ips = device_ips(server.data.host_ip)
        if len(ips) == 1 and ips[0] is not None:
            first = lengths.setdefault(len(ips[0]), server.data.host_ip)
            if len(lengths) > 1 and first is server.data.host_ip:
                other = next(iter(lengths.values()))
                what = f"{first} and {other} are of two families"
                yield Broken(f"{server.path}.host_ip", what, (first, other))


def _host_nic(view: TableView) -> Iterator[Broken]:
    """Where one rank goes over the host's network, every server needs an address there."""
    position = next((device for device in view.devices if device.data.net_position == "host"), None)
    first = view.by_rank[0] if view.by_rank else None
    over_hosts = first is not None and bool(first.server.data.host_ip) and not first.ips
    if position is None and not over_hosts:
        return
    for server in view.servers:
        if not server.data.host_ip:
            reason = f"{position.path} says net_position host" if position else "rank 0 has no device_ip"
            yield Broken(f"{server.path}.host_ip", f"is missing, and {reason}", (server.data.server_id,))


def _host_ip(view: TableView) -> Iterator[Broken]:
    """Not refused: two pods of one node share it."""
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
    severity = Severity.ERROR if view.chip in ("910A", "310P") else Severity.WARNING
    for server in view.servers:
        count = len(server.devices)
        if count != usual:
            what = f"server {server.data.server_id} has {count} device(s), the others have {usual}"
            yield Broken(f"{server.path}.device", what, (str(count), str(usual)), severity)


def _unknown_keys(view: TableView) -> Iterator[Broken]:
    told = 0
    for path, part in _parts(view.table):
        for key in part.model_extra or ():
            if key in _FOREIGN_KEYS:
                continue
            told += 1
            # What was meant is looked up for so many.
            near = nearest(key, type(part).model_fields) if told <= _MOST_LOOKED_UP else ""
            remedy = near if near.startswith("did") else None
            yield Broken(f"{path}.{key}".removeprefix("."), "is no key that HCCL knows", (key,), None, remedy)


_MOST_LOOKED_UP = 20


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

_READER = "HCOMM topoinfo_ranktableConcise.cc"

SERVER_RULES = (
    Rule(
        "unknown-version",
        Severity.ERROR,
        _version,
        'write "1.0", or "1.2" for a super pod',
        "HCOMM config.cc CfgGetClusterInfo",
    ),
    Rule(
        "version-of-950",
        Severity.ERROR,
        _version_of_950,
        "start without a table: `networking: {mode: dynamic}`",
        "HCCL user guide, rank table of the Ascend 950; HCOMM legacy/ascend950",
    ),
    Rule(
        "status-not-completed",
        Severity.ERROR,
        _status,
        'write "completed" once the table is',
        "HCOMM topoinfo_ranktableParser.cc LoadFile",
    ),
    Rule(
        "no-servers",
        Severity.ERROR,
        _no_servers,
        "generate a table on every server and merge them",
        f"{_READER} GetServerList",
    ),
    Rule("server-count", Severity.ERROR, _server_count, "", f"{_READER} GetServerList (EI0014)"),
    Rule(
        "server-id-form",
        Severity.ERROR,
        _id_form,
        "use the server's address",
        f"{_READER} GetSingleServer",
    ),
    Rule(
        "duplicate-server-id",
        Severity.ERROR,
        _id_twice,
        _REAL_ADDRESS,
        "HCOMM topoinfo_ranktableParser.cc CheckUniqueAndInsertPool (EI0014)",
    ),
    Rule(
        "loopback-server-id",
        Severity.ERROR,
        _id_loopback,
        _REAL_ADDRESS,
        "no rule of HCCL's: two tables with it are not to be told apart once they are merged",
    ),
    Rule(
        "host-ip-form",
        Severity.ERROR,
        _host_ip_form,
        "give the server's address, or leave the key out",
        f"{_READER} GetSingleServer, ConvertIpAddress (EI0014)",
    ),
    Rule(
        "mixed-host-ip-families",
        Severity.ERROR,
        _host_ip_family,
        "use one family for all host_ip",
        "HCOMM config.cc CheckRankIpFamily (EI0014)",
    ),
    Rule(
        "host-ip-missing",
        Severity.ERROR,
        _host_nic,
        "give every server a host_ip, or every device a device_ip",
        f"{_READER} DetectNicDepoly, CheckNicDeployConsistence",
    ),
    Rule(
        "duplicate-host-ip",
        Severity.WARNING,
        _host_ip,
        "right for two pods of one node; else give each server its own",
        "MindCluster's description of hccl.json: host_ip is the node's",
    ),
    Rule(
        "no-devices",
        Severity.ERROR,
        _no_devices,
        "leave the server out, or generate its table again",
        f"{_READER} GetDeviceList",
    ),
    Rule(
        "server-order",
        Severity.WARNING,
        _server_order,
        "merge the servers' tables again",
        'MindSpore, "rank table Startup"',
    ),
    Rule(
        "unequal-servers",
        Severity.WARNING,
        _unequal,
        "use as many devices on each server",
        "HCOMM config.cc CheckDeviceNumValid: an error but on 910B and A3",
    ),
    Rule(
        "unknown-key",
        Severity.WARNING,
        _unknown_keys,
        "HCCL ignores it",
        "HCOMM reads no other keys than those of RankTable",
    ),
)
