"""The older template of rank tables (`group_list`) as one of version 1.0.

HCCL reads it on a 910 alone. It has an instance for each pod, as ModelArts writes it, or for each device.
Source: HCCL user guide, rank table of the 910; HCOMM topoinfo_ranktableStandard.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["is_old_template", "of_version_1"]


def is_old_template(content: Mapping[str, Any]) -> bool:
    return "group_list" in content and "server_list" not in content


def of_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same servers and devices; ranks as the instances have them, else counted through.

    What is not as the template has it is left as it stands, for the reader of version 1.0 to tell.
    """
    servers: dict[str, dict[str, Any]] = {}
    parts: list[Any] = []
    for rank, (instance, device) in enumerate(_devices(content)):
        if instance is None:
            parts.append(device)
            continue
        server_id = instance.get("server_id", "")
        key = server_id if isinstance(server_id, str) else repr(server_id)
        if key not in servers:
            servers[key] = {"server_id": server_id, "device": []}
            parts.append(servers[key])
        if device is not None:
            servers[key]["device"].append(_with_rank(instance, device, rank))
    return {
        "version": "1.0",
        "server_count": str(len(parts)),
        "server_list": parts,
        "status": content.get("status", ""),
    }


def _devices(content: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any] | None, Any]]:
    """Every device with its instance; what is no instance as it stands."""
    groups = content["group_list"]
    for group in groups if isinstance(groups, list) else [groups]:
        instances = group.get("instance_list", []) if isinstance(group, dict) else [group]
        for instance in instances if isinstance(instances, list) else [instances]:
            devices = instance.get("devices") if isinstance(instance, dict) else None
            if not isinstance(instance, dict):
                yield None, instance
            elif not isinstance(devices, list) or not devices:
                yield instance, None
            else:
                yield from ((instance, device) for device in devices)


def _with_rank(instance: Mapping[str, Any], device: Any, rank: int) -> Any:
    if not isinstance(device, dict):
        return device
    own = device.get("rank_id", instance.get("rank_id") if len(instance["devices"]) == 1 else None)
    return {**device, "rank_id": str(rank) if own is None else own}
