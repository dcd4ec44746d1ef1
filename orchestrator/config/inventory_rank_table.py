"""A rank table as an inventory: the table that ModelArts or MindCluster made tells which servers there are.

Two forms: HCCL's v1.0 (`server_list`) and the older template that ModelArts writes as `jobstart_hccl.json`
(`group_list` of `instance_list`). JSON is read as YAML, which it is a part of, for the lines in messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.config.yaml_messages import show
from orchestrator.config.yaml_reader import Loc, YamlFile
from orchestrator.core.errors import ConfigError

__all__ = ["is_rank_table", "rewrite"]


def is_rank_table(file: YamlFile) -> bool:
    return "server_list" in file.data or "group_list" in file.data


def rewrite(file: YamlFile) -> YamlFile:
    """The table's servers and devices as the data of an inventory file, each at the line where it stands.

    Raises ConfigError: parts that are not what a rank table has in their place.
    """
    written = YamlFile(file.name, {"hosts": []}, lines={(): 1, ("hosts",): 1}, problems=file.problems)
    for loc, server, key in _servers(file):
        index = len(written.data["hosts"])
        written.lines["hosts", index] = file.line(loc)
        written.data["hosts"].append(_host(file, loc, server, key))
    return written


def _servers(file: YamlFile) -> Iterator[tuple[Loc, dict[str, Any], str]]:
    """Every server, with the key under which this form keeps its devices."""
    if "server_list" in file.data:
        for loc, server in _mappings(file, ("server_list",)):
            yield loc, server, "device"
        return
    for loc, _ in _mappings(file, ("group_list",)):
        for inner, server in _mappings(file, (*loc, "instance_list")):
            yield inner, server, "devices"


def _mappings(file: YamlFile, loc: Loc) -> Iterator[tuple[Loc, dict[str, Any]]]:
    items = file.get(loc)
    if not isinstance(items, list):
        raise ConfigError([file.problem(loc, f"expected a list, got {show(items)}")])
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise ConfigError([file.problem((*loc, index), f"expected an object, got {show(item)}")])
        yield (*loc, index), item


def _host(file: YamlFile, loc: Loc, server: dict[str, Any], key: str) -> dict[str, Any]:
    server_id = _text(file, loc, server, "server_id")
    devices = [_device(file, place, device) for place, device in _mappings(file, (*loc, key))]
    name = server.get("pod_name") if isinstance(server.get("pod_name"), str) else server_id
    # `host_ip` is where the server is reached, where a table has it; ModelArts' server_id is that address.
    address = server.get("host_ip") if isinstance(server.get("host_ip"), str) else server_id
    return {"name": [name], "address": [address], "devices": devices}


def _device(file: YamlFile, loc: Loc, device: dict[str, Any]) -> dict[str, Any]:
    number = _text(file, loc, device, "device_id")
    if not (number.isascii() and number.isdecimal()):
        raise ConfigError([file.problem((*loc, "device_id"), f"{show(number)} is no device id")])
    ip = device.get("device_ip")
    return {"id": int(number), **({"ip": ip} if isinstance(ip, str) and ip else {})}


def _text(file: YamlFile, loc: Loc, table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        what = "is missing" if value is None else f"expected text, got {show(value)}"
        raise ConfigError([file.problem((*loc, key), what, "is this a rank table?")])
    return value
