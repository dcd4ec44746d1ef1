"""Rank tables for tests: plain data that is easily damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from orchestrator.rank_table.findings import Finding
from orchestrator.rank_table.read_table import Reading, parse_rank_table
from orchestrator.rank_table.rules import check_file

__all__ = [
    "codes",
    "findings",
    "reading",
    "renumber",
    "server",
    "super_pod_table",
    "table",
    "with_addresses",
]


def server(number: int, devices: int = 8, *, first_rank: int = 0, network: str = "29.1") -> dict[str, Any]:
    """Server 10.0.0.<number>, whose device IPs are <network>.<number>.1 and so on."""
    return {
        "server_id": f"10.0.0.{number}",
        "device": [
            {
                "device_id": str(device),
                "device_ip": f"{network}.{number}.{device + 1}",
                "rank_id": str(first_rank + device),
            }
            for device in range(devices)
        ],
        "host_nic_ip": "reserve",
    }


def table(*numbers: int, devices: int = 8) -> dict[str, Any]:
    """A good table of these servers."""
    servers = [server(n, devices, first_rank=i * devices) for i, n in enumerate(numbers)]
    return {
        "version": "1.0",
        "server_count": str(len(servers)),
        "server_list": servers,
        "status": "completed",
    }


def super_pod_table(*numbers: int, pods: int = 1, devices: int = 4) -> dict[str, Any]:
    """A good table of version 1.2: the servers, dealt to the super pods one pod after the other."""
    data = table(*numbers, devices=devices)
    data["version"] = "1.2"
    each = len(numbers) // pods
    for index, entry in enumerate(data["server_list"]):
        entry["host_ip"] = f"172.16.0.{numbers[index]}"
        for position, device in enumerate(entry["device"]):
            device["super_device_id"] = str(index % each * devices + position)
            device["device_port"] = "16666"
            device["backup_device_ip"] = entry["device"][position ^ 1]["device_ip"]
            device["backup_device_port"] = "16667"
            device["host_port"] = str(17000 + position)
    data["super_pod_list"] = [
        {
            "super_pod_id": str(pod),
            "server_list": [{"server_id": f"10.0.0.{n}"} for n in numbers[pod * each : (pod + 1) * each]],
        }
        for pod in range(pods)
    ]
    return data


def reading(data: Any, name: str = "t.json") -> Reading:
    return parse_rank_table(json.dumps(data, indent=4).encode(), name)


def findings(data: Any, **options: Any) -> list[Finding]:
    return check_file(reading(data), **options)


def codes(data: Any, **options: Any) -> list[str]:
    """The codes of all findings, each once, in order."""
    return list(dict.fromkeys(finding.code for finding in findings(data, **options)))


def with_addresses(data: dict[str, Any], address: Callable[[int, int], str]) -> dict[str, Any]:
    """Every device gets `address(server number, device number)`."""
    for server, entry in enumerate(data["server_list"]):
        for device, item in enumerate(entry["device"]):
            item["device_ip"] = address(server, device)
    return data


def renumber(data: dict[str, Any]) -> None:
    """Ranks in the order of the table."""
    devices = [device for server in data["server_list"] for device in server["device"]]
    for rank, device in enumerate(devices):
        device["rank_id"] = str(rank)
