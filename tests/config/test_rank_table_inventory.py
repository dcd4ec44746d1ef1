"""A rank table in place of an inventory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from tests.config.support import lines_of

# What is taken for the rest of an inventory is told.
pytestmark = pytest.mark.filterwarnings("ignore:taken, since")

# What ModelArts leaves in /user/config/jobstart_hccl.json.
MODELARTS: dict[str, Any] = {
    "status": "completed",
    "group_count": "1",
    "group_list": [
        {
            "group_name": "job-bloom",
            "device_count": "2",
            "instance_count": "2",
            "instance_list": [
                {
                    "pod_name": "job-bloom-0",
                    "server_id": "10.0.0.10",
                    "devices": [{"device_id": "0", "device_ip": "192.1.1.1"}],
                },
                {
                    "pod_name": "job-bloom-1",
                    "server_id": "10.0.0.11",
                    "devices": [{"device_id": "0", "device_ip": "192.1.1.2"}],
                },
            ],
        }
    ],
}
V1: dict[str, Any] = {
    "version": "1.0",
    "server_count": "1",
    "server_list": [
        {
            "server_id": "10.1.2.3",
            "device": [
                {"device_id": "0", "device_ip": "192.1.27.6", "rank_id": "0"},
                {"device_id": "1", "rank_id": "1"},
            ],
            "host_nic_ip": "reserve",
        }
    ],
    "status": "completed",
}


def load(folder: Path, table: dict[str, Any]) -> Inventory:
    path = folder / "jobstart_hccl.json"
    path.write_text(json.dumps(table, indent=4))
    return load_inventory(path)


def test_the_table_of_modelarts(tmp_path: Path) -> None:
    hosts = load(tmp_path, MODELARTS).hosts
    assert [(host.name, host.address) for host in hosts] == [
        ("job-bloom-0", "10.0.0.10"),
        ("job-bloom-1", "10.0.0.11"),
    ]
    assert [(device.id, device.ip) for device in hosts[1].devices] == [(0, "192.1.1.2")]
    assert {host.transport for host in hosts} == {"ssh"}


def test_a_table_of_version_1(tmp_path: Path) -> None:
    (host,) = load(tmp_path, V1).hosts
    assert (host.name, host.address) == ("10.1.2.3", "10.1.2.3")
    assert [(device.id, device.ip) for device in host.devices] == [(0, "192.1.27.6"), (1, None)]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"server_id": "10.1.2.3",', "", "jobstart_hccl.json:5: server_list[0].server_id: is missing"),
        (
            '"device_id": "1"',
            '"device_id": "one"',
            "device[1].device_id: 'one' is no device id",
        ),
        ('"device_id": "1"', '"device_id": 1', "server_list[0].device[1].device_id: expected text, got 1"),
        ('"192.1.27.6"', '"192.1.27.600"', "'192.1.27.600' is not an IP address"),
        ('"device_id": "1"', '"device_id": "0"', "device 0 is given twice"),
    ],
)
def test_a_broken_table_is_told_at_its_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    path = tmp_path / "jobstart_hccl.json"
    path.write_text(json.dumps(V1, indent=4).replace(old, new, 1))
    (told,) = lines_of(tmp_path, lambda: load_inventory(path))
    assert told.startswith("jobstart_hccl.json:") and line in told


# As HCCL's older tools write it: an instance for each device, and server_id repeated.
PER_DEVICE: dict[str, Any] = {
    "status": "completed",
    "group_list": [
        {
            "instance_list": [
                {
                    "devices": [
                        {"device_id": str(rank % 2), "device_ip": f"192.{rank % 2 + 1}.54.{rank // 2 + 6}"}
                    ],
                    "rank_id": str(rank),
                    "server_id": f"10.155.1.{rank // 2 + 1}",
                }
                for rank in range(4)
            ]
        }
    ],
}


def test_an_instance_for_each_device_is_put_together_by_server(tmp_path: Path) -> None:
    hosts = load(tmp_path, PER_DEVICE).hosts
    assert [(host.name, [(device.id, device.ip) for device in host.devices]) for host in hosts] == [
        ("10.155.1.1", [(0, "192.1.54.6"), (1, "192.2.54.6")]),
        ("10.155.1.2", [(0, "192.1.54.7"), (1, "192.2.54.7")]),
    ]


def test_two_pods_of_one_node_are_one_host(tmp_path: Path) -> None:
    servers = [
        {"server_id": f"172.17.0.{pod}", "host_ip": "10.1.2.3", "device": [{"device_id": str(pod)}]}
        for pod in (0, 1)
    ]
    (host,) = load(tmp_path, {"server_list": servers}).hosts
    assert (host.name, host.address, [device.id for device in host.devices]) == (
        "10.1.2.3",
        "10.1.2.3",
        [0, 1],
    )


def test_the_devices_of_prefill_and_decode_by_their_servers(tmp_path: Path) -> None:
    table = {
        "prefill_device_list": [{"server_id": "10.1.2.3", "device_id": "0", "device_ip": "10.20.0.1"}],
        "decode_device_list": [{"server_id": "10.1.2.4", "device_id": "5", "device_ip": "10.20.0.2"}],
    }
    hosts = load(tmp_path, table).hosts
    assert [(host.name, host.devices[0].id) for host in hosts] == [("10.1.2.3", 0), ("10.1.2.4", 5)]
