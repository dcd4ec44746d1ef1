"""Rank tables as inventories: what ModelArts, MindCluster or vllm-ascend made tells which servers there are.

Three forms: HCCL's (`server_list`); the older template (`group_list` of `instance_list`), with one instance
for each pod, as ModelArts writes it as `jobstart_hccl.json`, or one for each device; and lists of devices for
prefill and decode (vllm-ascend). JSON is read as YAML, which it is a part of, for the lines in messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.config.yaml_messages import show
from orchestrator.config.yaml_reader import Loc, YamlFile
from orchestrator.core.errors import ConfigError

__all__ = ["is_rank_table", "rewrite"]


_DEVICE_LISTS = ("prefill_device_list", "decode_device_list")


def is_rank_table(file: YamlFile) -> bool:
    return any(key in file.data for key in ("server_list", "group_list", *_DEVICE_LISTS))


def rewrite(file: YamlFile) -> YamlFile:
    """The table's servers and devices as the data of an inventory file, each at the line where it stands.

    What is on one server is one host, however many pods or instances it is cut into. Raises ConfigError:
    parts that are not what a rank table has in their place.
    """
    written = YamlFile(file.name, {"hosts": []}, lines={(): 1, ("hosts",): 1}, problems=file.problems)
    places: dict[str, int] = {}
    pods: dict[str, int] = {}
    for loc, server, devices in _servers(file):
        name, address = _name(file, loc, server)
        index = places.get(address)
        if index is None:
            index = places[address] = len(written.data["hosts"])
            written.lines["hosts", index] = file.line(loc)
            written.data["hosts"].append({"name": [name], "address": [address], "devices": []})
        elif pods.setdefault(address, 1) and written.data["hosts"][index]["name"] != [name]:
            # Several pods of one node: the node is the host.
            written.data["hosts"][index]["name"] = [address.replace(":", "-")]
        written.data["hosts"][index]["devices"] += devices
    return written


def _servers(file: YamlFile) -> Iterator[tuple[Loc, dict[str, Any], list[dict[str, Any]]]]:
    """Every server, or part of one, with its devices."""
    if "server_list" in file.data:
        for loc, server in _mappings(file, ("server_list",)):
            yield loc, server, [_device(file, *each) for each in _mappings(file, (*loc, "device"))]
        return
    if "group_list" not in file.data:
        for key in _DEVICE_LISTS:
            for loc, device in _mappings(file, (key,)) if key in file.data else ():
                yield loc, device, [_device(file, loc, device)]
        return
    for loc, _ in _mappings(file, ("group_list",)):
        for inner, server in _mappings(file, (*loc, "instance_list")):
            yield inner, server, [_device(file, *each) for each in _mappings(file, (*inner, "devices"))]


def _mappings(file: YamlFile, loc: Loc) -> Iterator[tuple[Loc, dict[str, Any]]]:
    items = file.get(loc)
    if not isinstance(items, list):
        raise ConfigError([file.problem(loc, f"expected a list, got {show(items)}")])
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise ConfigError([file.problem((*loc, index), f"expected an object, got {show(item)}")])
        yield (*loc, index), item


def _name(file: YamlFile, loc: Loc, server: dict[str, Any]) -> tuple[str, str]:
    """How the host is called, and where it is reached.

    `host_ip` is where the server is reached, where a table has it; ModelArts' server_id is that address.
    """
    server_id = _text(file, loc, server, "server_id")
    name = server.get("pod_name") if isinstance(server.get("pod_name"), str) else server_id
    address = server.get("host_ip") if isinstance(server.get("host_ip"), str) else server_id
    return str(name), str(address)


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
