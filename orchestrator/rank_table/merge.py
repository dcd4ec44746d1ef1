"""The merging of rank tables: tables of single servers become one table of all.

Also device ranges as people write them for the commands: `[0,8)` as for hccl_tools.py, `0-7`, `0,2,4`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from orchestrator.config.host_ranges import RangeError, numbers, numeric_key
from orchestrator.config.inventory import Chip, Inventory
from orchestrator.config.yaml_messages import plain, show
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.rank_table.findings import Finding, errors_of, problems_of, warnings_of
from orchestrator.rank_table.read_table import Reading
from orchestrator.rank_table.rules import check_file, validate
from orchestrator.rank_table.rules_super_pods import pod_of_server
from orchestrator.rank_table.table import RankTable, RankTableServer, in_bulk

__all__ = [
    "Merged",
    "device_range",
    "merge",
    "merged_name",
    "visible",
]

# hccl_tools.py of MindFormers wants `[0,8)`, its documents and run_distribute.sh write `[0,8]` for the same.
_HALF_OPEN = re.compile(r"\[\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*[])]", re.ASCII)
_MOST = 1024


def device_range(text: str, option: str = "--devices") -> tuple[int, ...]:
    """The numbers of a range; `[0,8)` and `[0,8]` are both 0 to 7. Raises ConfigError."""
    remedy = 'write "[0,8)" or 0-7'
    half_open = _HALF_OPEN.fullmatch(text.strip())
    if half_open:
        first, last = int(half_open[1]), int(half_open[2])
        if last <= first:
            raise _refusal(option, f"{text} holds no device", remedy)
        found = list(range(first, min(last, _MOST + 1)))
    else:
        try:
            found = [int(number) for number in numbers(text)]
        except RangeError:
            raise _refusal(option, f"expected a range of devices, got {show(text)}", remedy) from None
    if max(found) >= _MOST:
        raise _refusal(option, f"{text}: no server has that many devices", remedy)
    if len(set(found)) < len(found):
        raise _refusal(option, f"{text} names a device twice", "")
    return tuple(found)


def visible(devices: tuple[int, ...] | None, seen: tuple[int, ...]) -> tuple[int, ...]:
    """The physical ids behind `devices`, which count within `seen`; None means all. Raises ConfigError."""
    chosen = tuple(range(len(seen))) if devices is None else devices
    if max(chosen) >= len(seen):
        what = f"device {max(chosen)} is asked for, but --visible-devices has only {len(seen)}"
        raise _refusal("--devices", what, "devices count from 0 within the visible ones")
    return tuple(seen[number] for number in chosen)


def _refusal(where: str, what: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(where, plain(what), remedy)])


# The names that `merged_name` and MindFormers' merge_hccl.py give to their output.
_MERGED_NAME = re.compile(r"(.*/)?hccl_\d+s_\d+p\.json")


# New ranks and a new count would hide these mistakes, which make it doubtful what the file is.
_LOST_BY_MERGING = frozenset(["no-servers", "server-count", "rank-id-form", "duplicate-rank-id"])


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged table, the files that were left out and why, and what may be wrong with it."""

    table: RankTable
    left_out: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One server, the file it comes from, and the super pod it is in."""

    source: str
    server: RankTableServer
    pod: str | None


def merged_name(table: RankTable) -> str:
    """The file name that merge_hccl.py gives: `hccl_2s_16p.json`."""
    return f"hccl_{len(table.server_list)}s_{table.device_count}p.json"


def merge(
    readings: Sequence[Reading], *, inventory: Inventory | None = None, chip: Chip | None = None
) -> Merged:
    """Merge tables of one server each: servers by number of their ids, or in the order of the inventory.

    Ranks are numbered anew, within a server in the order of its own ranks; v1.2 fields and unknown keys are
    kept. A table of several servers is an earlier merged one and left out, unless it is of the older template
    and alone: that becomes one of version 1.0. Raises ConfigError with all that is wrong with the inputs or
    with what they would make.
    """
    with in_bulk():
        return _merge(readings, inventory, chip)


def _merge(readings: Sequence[Reading], inventory: Inventory | None, chip: Chip | None) -> Merged:
    readings, left_out = _single_servers(readings)
    problems = [
        line for reading in readings for line in problems_of(reading.name, errors_of(reading.findings))
    ]
    problems += _unfit(readings)
    if problems:
        raise ConfigError(problems)
    parts = [part for reading in readings for part in _parts(reading)]
    parts, ordering = _in_order(parts, inventory)
    table = _number(parts, readings[0].table)
    findings = validate(table, chip=chip)
    if errors := errors_of(findings):
        raise ConfigError(_at_their_files(errors, parts))
    return Merged(table, tuple(left_out), (*ordering, *_at_their_files(warnings_of(findings), parts)))


def _single_servers(readings: Sequence[Reading]) -> tuple[list[Reading], list[Problem]]:
    kept: list[Reading] = []
    left_out: list[Problem] = []
    ids = {_ids(reading) for reading in readings if not _MERGED_NAME.fullmatch(reading.name)}
    for reading in readings:
        servers = len(reading.table.server_list)
        again = bool(_MERGED_NAME.fullmatch(reading.name)) and _ids(reading) in ids
        is_converted = any(finding.code == "old-template" for finding in reading.findings)
        if (servers > 1 and not (is_converted and len(readings) == 1)) or again:
            what = f"holds {servers} server(s): an earlier merged table, left out"
            left_out.append(Problem(plain(reading.name), what, "only tables of one server each are merged"))
        else:
            kept.append(reading)
    if not kept:
        raise ConfigError(left_out or [Problem("", "no table to merge", "name the servers' files")])
    return kept, left_out


def _ids(reading: Reading) -> tuple[str, ...]:
    return tuple(server.server_id for server in reading.table.server_list)


def _unfit(readings: Sequence[Reading]) -> Iterator[Problem]:
    """What a merged table could not show any more: versions that differ, ranks that are none, a status."""
    first = readings[0]
    version = first.table.version
    for reading in readings:
        table, name = reading.table, reading.name
        if table.version != version:
            what = f"is {show(table.version)}, but {show(version)} in {first.name}"
            yield Problem(plain(f"{name}: version"), plain(what), "generate all tables with one version")
        if table.status != "completed":
            what = f"is {show(table.status)}, not completed"
            yield Problem(plain(f"{name}: status"), plain(what), "generate the table again")
        if not _is_numbered(table):
            lost = [finding for finding in check_file(reading) if finding.code in _LOST_BY_MERGING]
            yield from problems_of(name, lost)


def _is_numbered(table: RankTable) -> bool:
    """Whether the rules that merging would hide hold; in thousands of files they nearly always do."""
    ranks = [device.rank_id for server in table.server_list for device in server.device]
    counted = table.server_count in ("", str(len(table.server_list)))
    return bool(ranks) and counted and len(set(ranks)) == len(ranks) and all(map(str.isdigit, ranks))


def _parts(reading: Reading) -> Iterable[_Part]:
    pods = pod_of_server(reading.table)
    for server in reading.table.server_list:
        yield _Part(reading.name, server, pods.get(server.server_id))


def _in_order(parts: list[_Part], inventory: Inventory | None) -> tuple[list[_Part], list[Problem]]:
    notes: list[Problem] = []
    if inventory is None:
        ordered = sorted(parts, key=lambda part: numeric_key(part.server.server_id))
    else:
        place = _places(inventory)
        if unknown := [part for part in parts if part.server.server_id not in place]:
            raise ConfigError([_not_in_inventory(part, inventory) for part in unknown])
        ordered = sorted(parts, key=lambda part: place[part.server.server_id])
        have = {place[part.server.server_id] for part in parts}
        for index, host in enumerate(inventory.hosts):
            if index not in have:
                notes.append(Problem(plain(str(inventory.path)), f"no table is of host {host.name}", ""))
    # The servers of a super pod stand together, wherever its first one comes.
    pods = {pod: index for index, pod in enumerate(dict.fromkeys(part.pod for part in ordered))}
    return sorted(ordered, key=lambda part: pods[part.pod]), notes


def _places(inventory: Inventory) -> dict[str, int]:
    """Address and name of every host -> its place; an address wins over another host's name."""
    names = {host.name: index for index, host in enumerate(inventory.hosts)}
    return names | {host.address: index for index, host in enumerate(inventory.hosts)}


def _not_in_inventory(part: _Part, inventory: Inventory) -> Problem:
    what = f"server {part.server.server_id} is the address of no host in {inventory.path}"
    return Problem(plain(part.source), plain(what), "add the host, or merge without --inventory")


def _number(parts: Sequence[_Part], first: RankTable) -> RankTable:
    """One table of all parts; what is at the top of the first file, and no part of a server, is kept.

    Made from plain data and validated once: with tens of thousands of devices far quicker than copies.
    """
    servers = []
    ranks = count()
    for part in parts:
        server = part.server.model_dump(exclude_unset=True)
        server["device"] = sorted(server["device"], key=_local_order)
        for device in server["device"]:
            device["rank_id"] = str(next(ranks))
        servers.append(server)
    data = first.model_dump(exclude_unset=True, exclude={"server_list", "super_pod_list"})
    data |= {"server_count": str(len(servers)), "server_list": servers}
    if pods := _super_pods(parts):
        data["super_pod_list"] = pods
    return RankTable.model_validate(data)


def _local_order(device: Mapping[str, str]) -> tuple[int, str]:
    # By number. What is none was refused before.
    return (len(device["rank_id"]), device["rank_id"])


def _super_pods(parts: Iterable[_Part]) -> list[dict[str, object]]:
    members: dict[str, list[dict[str, str]]] = {}
    for part in parts:
        if part.pod is not None:
            members.setdefault(part.pod, []).append({"server_id": part.server.server_id})
    return [{"super_pod_id": pod, "server_list": servers} for pod, servers in members.items()]


_PLACE = re.compile(r"server_list\[(\d+)\]")


def _at_their_files(findings: Sequence[Finding], parts: Sequence[_Part]) -> list[Problem]:
    """The findings about a merged table, each at the file that its server came from."""
    by_source: dict[str, list[Finding]] = {}
    for finding in findings:
        match = _PLACE.match(finding.path)
        source = parts[int(match[1])].source if match else "the merged table"
        by_source.setdefault(source, []).append(finding)
    return [line for source, found in by_source.items() for line in problems_of(source, found)]
