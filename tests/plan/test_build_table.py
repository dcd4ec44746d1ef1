"""The rank table, as HCCL reads it."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.plan.launch_table import launch_table
from orchestrator.plan.placement import place
from tests.config.support import inventory, job, lines_of

COMMAND = "name: c\ntask: command\ndevices_per_host: 2\ncommand: [x]\n"
PAIR = """\
defaults: {devices: 0-1}
hosts:
  - {name: 'n[1-2]', address: '10.9.0.[1-2]', device_ips: '10.1.[1-2].[1-2]'}
"""


def _build(folder: Path, text: str) -> str:
    hosts = inventory(folder, text)
    return launch_table(place(job(folder, COMMAND), hosts), hosts.hosts, source=str(hosts.path))


def test_every_scalar_is_a_string_and_the_keys_have_their_order(tmp_path: Path) -> None:
    assert _build(tmp_path, PAIR) == json.dumps(
        {
            "version": "1.0",
            "server_count": "2",
            "server_list": [
                {
                    "server_id": f"10.9.0.{server}",
                    "device": [
                        {
                            "device_id": str(device),
                            "device_ip": f"10.1.{server}.{device + 1}",
                            "rank_id": str(2 * (server - 1) + device),
                        }
                        for device in (0, 1)
                    ],
                    "host_nic_ip": "reserve",
                }
                for server in (1, 2)
            ],
            "status": "completed",
        },
        indent=4,
    )


def test_one_server_needs_no_device_address(tmp_path: Path) -> None:
    table = json.loads(_build(tmp_path, "transport: local\nhosts:\n  - {name: a, devices: 0-1}\n"))
    assert table["server_count"] == "1"
    assert table["server_list"][0]["device"] == [
        {"device_id": "0", "rank_id": "0"},
        {"device_id": "1", "rank_id": "1"},
    ]


def test_one_address_on_two_ports_is_one_server_to_hccl(tmp_path: Path) -> None:
    text = "hosts:\n" + "".join(
        f"  - {{name: n{i}, address: 10.9.0.1, port: {i}, devices: 0-1, device_ips: '10.1.{i}.[1-2]'}}\n"
        for i in (1, 2)
    )
    lines = lines_of(tmp_path, lambda: _build(tmp_path, text))
    assert lines == ["hosts.yaml: n2: 10.9.0.1 is the id of another server already (correct `address:`)"]
