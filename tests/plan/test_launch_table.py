"""What HCCL asks of a rank table beyond its format, rule by rule, with the words for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.config.inventory import Inventory
from orchestrator.config.job import Job
from orchestrator.core.errors import ConfigError
from orchestrator.plan.launch_table import launch_table
from orchestrator.plan.placement import Placement, place
from tests.config.support import inventory, job, lines_of

HOSTS = """\
defaults: {devices: 0-1}
hosts:
  - {name: a, address: 10.0.0.9, device_ips: "29.1.0.[1-2]"}
  - {name: b, address: 10.0.0.10, device_ips: "29.1.1.[1-2]"}
"""
JOB = """\
name: x
task: command
devices_per_host: 2
command: [run]
networking: {mode: rank_table}
"""


def table(folder: Path, hosts: str = HOSTS, text: str = JOB) -> str:
    servers = inventory(folder, hosts)
    return launch_table(place(job(folder, text), servers), servers.hosts, source=str(servers.path))


def placed(folder: Path, hosts: str) -> tuple[tuple[Placement, ...], Inventory]:
    servers = inventory(folder, hosts)
    commands: Job = job(folder, JOB)
    return place(commands, servers), servers


def test_every_scalar_is_a_string(tmp_path: Path) -> None:
    def scalars(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in scalars(item)]
        return [leaf for item in value for leaf in scalars(item)] if isinstance(value, list) else [value]

    assert {type(leaf) for leaf in scalars(json.loads(table(tmp_path)))} == {str}


def test_only_the_devices_of_the_job_are_in_it(tmp_path: Path) -> None:
    text = JOB.replace("devices_per_host: 2", "devices_per_host: 1")
    servers = json.loads(table(tmp_path, text=text))["server_list"]
    assert [[item["rank_id"] for item in server["device"]] for server in servers] == [["0"], ["1"]]


def test_ranks_of_servers_do_not_interleave(tmp_path: Path) -> None:
    entry = "{name: 'n[1-12]', address: '10.0.0.[1-12]', devices: 0-7, device_ips: '29.1.[1-12].[1-8]'}"
    hosts = f"hosts:\n  - {entry}\n"
    text = JOB.replace("devices_per_host: 2", "devices_per_host: 8")
    servers = json.loads(table(tmp_path, hosts, text))["server_list"]
    assert [server["server_id"] for server in servers] == [f"10.0.0.{i}" for i in range(1, 13)]
    ranks = [int(item["rank_id"]) for server in servers for item in server["device"]]
    assert ranks == list(range(96))


@pytest.mark.parametrize(
    ("hosts", "lines"),
    [
        (
            HOSTS.replace(', device_ips: "29.1.1.[1-2]"', ""),
            [
                "hosts.yaml: b: device 0, 1 of server 10.0.0.10 has no device_ip, which HCCL needs between"
                " servers (add `device_ips:`)"
            ],
        ),
        (
            HOSTS.replace("10.0.0.10", "127.0.1.1"),
            [
                "hosts.yaml: b: 127.0.1.1 is a loopback address, which every server has"
                " (give its real `address:`)"
            ],
        ),
        (
            HOSTS.replace("10.0.0.10", "localhost"),
            [
                "hosts.yaml: b: localhost is a loopback address, which every server has"
                " (give its real `address:`)"
            ],
        ),
        (
            HOSTS.replace("10.0.0.10", "10.0.0.9, port: 2222"),
            ["hosts.yaml: b: 10.0.0.9 is the id of another server already (correct `address:`)"],
        ),
        (
            HOSTS.replace("10.0.0.10", "n" * 65),
            [
                "hosts.yaml: b: the server_id has 65 characters; HCCL takes at most 64"
                " (give a shorter name or an IP as `address:`)"
            ],
        ),
        (
            HOSTS.replace('"29.1.1.[1-2]"', '["fe80::1", "fe80::2"]'),
            [
                f"hosts.yaml: b: fe80::{last} is IPv6, but that of device 0 of server 10.0.0.9 is IPv4"
                " (use one family for all `device_ips:`)"
                for last in (1, 2)
            ],
        ),
    ],
    ids=["no device IP", "loopback", "localhost", "one address", "long", "two families"],
)
def test_what_hccl_would_refuse(tmp_path: Path, hosts: str, lines: list[str]) -> None:
    assert lines_of(tmp_path, lambda: table(tmp_path, hosts)) == lines


def test_a_device_ip_used_twice(tmp_path: Path) -> None:
    placements, servers = placed(tmp_path, HOSTS)
    twice = [
        Placement(item.rank, item.host, item.local_rank, item.device_id, f"29.1.0.{item.device_id}", 0, 0, 0)
        for item in placements
    ]
    assert lines_of(tmp_path, lambda: launch_table(twice, servers.hosts, source=str(servers.path))) == [
        f"hosts.yaml: b: 29.1.0.{device} is the address of device {device} of server 10.0.0.9 already"
        " (correct `device_ips:`)"
        for device in (0, 1)
    ]


def test_a_table_is_made_once_and_anew_where_anything_differs(tmp_path: Path) -> None:
    """Of the same hosts, whichever attempt; another address of a device, or host, is another table."""
    first = table(tmp_path)
    assert table(tmp_path) is first
    for old, new in (("29.1.1.", "29.1.7."), ("10.0.0.10", "10.0.0.11"), ("devices: 0-1", "devices: 2-3")):
        other = table(tmp_path, HOSTS.replace(old, new))
        assert other != first and json.loads(other) != json.loads(first)
    assert table(tmp_path) == first
    # What is refused is refused again.
    twice = HOSTS.replace("29.1.1.[1-2]", "29.1.0.[1-2]")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"29\.1\.0\.1"):
            table(tmp_path, twice)
