"""What HCCL asks of a rank table beyond its format, rule by rule, with the words for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.inventory import Inventory
from orchestrator.job import Job
from orchestrator.placement import Placement, place
from orchestrator.rank_table import build_rank_table
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
    return build_rank_table(place(job(folder, text), servers), servers).to_json()


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
            ["hosts.yaml: b: device 0, 1 has no device IP (add `device_ips:`)"],
        ),
        (
            HOSTS.replace("10.0.0.10", "127.0.1.1"),
            ["hosts.yaml: b: server_id 127.0.1.1 is a loopback address (give its real `address:`)"],
        ),
        (
            HOSTS.replace("10.0.0.10", "localhost"),
            ["hosts.yaml: b: server_id localhost is a loopback address (give its real `address:`)"],
        ),
        (
            HOSTS.replace("10.0.0.10", "10.0.0.9, port: 2222"),
            [
                "hosts.yaml: a: server_id 10.0.0.9 is used by 2 hosts (correct `address:`)",
                "hosts.yaml: b: server_id 10.0.0.9 is used by 2 hosts (correct `address:`)",
            ],
        ),
        (
            HOSTS.replace("10.0.0.10", "n" * 65),
            [
                "hosts.yaml: b: server_id nnnnnnnnnnnnnnnnnnnn... is longer than 64 characters"
                " (give a shorter name or an IP as `address:`)"
            ],
        ),
        (
            HOSTS.replace('"29.1.1.[1-2]"', '["fe80::1", "fe80::2"]'),
            [
                f"hosts.yaml: b: device IP fe80::{last} is IPv6, but 29.1.0.1 is IPv4"
                " (use one kind for all devices)"
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
    assert lines_of(tmp_path, lambda: build_rank_table(twice, servers)) == [
        f"hosts.yaml: {host}: device IP 29.1.0.{device} of device {device} is used 2 times"
        " (correct `device_ips:`)"
        for host in ("a", "b")
        for device in (0, 1)
    ]
