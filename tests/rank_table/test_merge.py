"""Merging the tables of single servers, as merge_hccl.py does it where it is right, and better where not."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import ConfigError
from orchestrator.rank_table.merge import merge, merged_name
from tests.config.support import inventory
from tests.rank_table.support import reading, server, super_pod_table, table


def _single(number: int, devices: int = 8) -> dict[str, Any]:
    return table(number, devices=devices)


def _merged(*data: dict[str, Any], names: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    names = names or tuple(f"{index}.json" for index in range(len(data)))
    made = merge([reading(item, name) for item, name in zip(data, names, strict=True)], **options)
    found: dict[str, Any] = json.loads(made.table.to_json())
    return found


def _lines(*data: dict[str, Any], names: tuple[str, ...] = (), **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _merged(*data, names=names, **options)
    return caught.value.lines()


def test_two_servers_as_merge_hccl_merges_them() -> None:
    """The same bytes as `merge_hccl.py a.json b.json` gives for the files of `hccl_tools.py`."""
    made = merge([reading(_single(1), "a.json"), reading(_single(2), "b.json")]).table
    expected = {
        "version": "1.0",
        "server_count": "2",
        "server_list": [server(1), server(2, first_rank=8)],
        "status": "completed",
    }
    assert made.to_json() == json.dumps(expected, indent=4)
    assert merged_name(made) == "hccl_2s_16p.json"


def test_servers_are_ordered_by_number_and_not_by_the_shells_order() -> None:
    ids = [entry["server_id"] for entry in _merged(_single(10), _single(2), _single(1))["server_list"]]
    assert ids == ["10.0.0.1", "10.0.0.2", "10.0.0.10"]


def test_the_order_of_the_inventory_wins(tmp_path: Path) -> None:
    text = "defaults: {devices: 0-7}\nhosts:\n  - {name: 'n[1-3]', address: '10.0.0.[3,1,2]'}\n"
    hosts = inventory(tmp_path, text)
    made = merge([reading(_single(n), f"{n}.json") for n in (1, 3)], inventory=hosts)
    assert [entry.server_id for entry in made.table.server_list] == ["10.0.0.3", "10.0.0.1"]
    # That ranks do not follow the ids is what was asked for, and is told all the same.
    assert [str(line).replace(f"{tmp_path}/", "") for line in made.warnings] == [
        "hosts.yaml: no table is of host n3",
        "the merged table: server_list: server 10.0.0.1 has higher ranks than server 10.0.0.3: ranks do not"
        " follow the order of the ids [server-order] (merge the servers' tables again)",
    ]
    lines = _lines(_single(9), names=("x.json",), inventory=hosts)
    assert "x.json: server 10.0.0.9 is the address of no host" in lines[0]


def test_earlier_merged_tables_are_left_out() -> None:
    names = ("hccl_2s_16p.json", "a.json", "b.json")
    made = merge([reading(d, n) for d, n in zip((table(1, 2), _single(1), _single(2)), names, strict=True)])
    assert len(made.table.server_list) == 2
    assert [str(line) for line in made.left_out] == [
        "hccl_2s_16p.json: holds 2 server(s): an earlier merged table, left out"
        " (only tables of one server each are merged)"
    ]


def test_an_earlier_merged_table_of_one_server_is_left_out() -> None:
    made = merge(
        [reading(_single(1), "hccl_1s_8p.json"), reading(_single(1), "hccl_8p_01234567_10.0.0.1.json")]
    )
    assert len(made.table.server_list) == 1 and len(made.left_out) == 1


def test_nothing_but_merged_tables_is_refused() -> None:
    assert _lines(table(1, 2)) == [
        "0.json: holds 2 server(s): an earlier merged table, left out "
        "(only tables of one server each are merged)"
    ]


def test_each_server_once() -> None:
    lines = _lines(_single(1), _single(2), _single(1), names=("a.json", "b.json", "c.json"))
    assert lines[0].startswith(
        "c.json: server_list[1].server_id: 10.0.0.1 is the id of another server already"
    )


def test_every_duplicate_is_told_at_its_file() -> None:
    twin = _single(2)
    for device in twin["server_list"][0]["device"]:
        device["device_ip"] = device["device_ip"].replace("29.1.2.", "29.1.1.")
    lines = _lines(_single(1), twin, names=("a.json", "b.json"))
    assert len(lines) == 8
    assert lines[0].startswith(
        "b.json: server_list[1].device[0].device_ip: 29.1.1.1 is the address of device 0 of server 10.0.0.1"
    )


def test_loopback_ids_as_hccl_tools_writes_them() -> None:
    data = [_single(1), _single(2)]
    for item in data:
        item["server_list"][0]["server_id"] = "127.0.1.1"
    lines = _lines(*data)
    assert any("127.0.1.1 is a loopback address" in line and "--server-ip" in line for line in lines)


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        ({"status": "initializing"}, "1.json: status: is 'initializing', not completed"),
        ({"version": "1.2"}, "1.json: version: is '1.2', but '1.0' in 0.json"),
        ({"version": "\u00a0"}, "1.json: version: is '\\xa0', but '1.0' in 0.json"),
        ({"server_count": "4"}, "1.json: server_count: is '4', but server_list has 1 server(s)"),
        ({"server_count": 1}, "1.json: server_count: expected a string, got the number 1"),
        ({"server_list": []}, "no-servers"),
    ],
)
def test_inputs_that_are_not_fit(damage: dict[str, Any], part: str) -> None:
    assert any(part in line for line in _lines(_single(1), _single(2) | damage))


@pytest.mark.parametrize("rank", ["x", "1"])
def test_ranks_that_new_numbers_would_hide(rank: str) -> None:
    data = _single(2)
    data["server_list"][0]["device"][0]["rank_id"] = rank
    (line,) = _lines(_single(1), data)
    assert line.startswith("1.json: server_list[0].device[")


def test_ranks_within_a_server_keep_their_order() -> None:
    data = _single(2, devices=4)
    for device, rank in zip(data["server_list"][0]["device"], (3, 2, 1, 0), strict=True):
        device["rank_id"] = str(rank)
    devices = _merged(_single(1, devices=4), data)["server_list"][1]["device"]
    assert [(item["rank_id"], item["device_id"]) for item in devices] == [
        ("4", "3"),
        ("5", "2"),
        ("6", "1"),
        ("7", "0"),
    ]


def test_fields_of_version_1_2_are_kept_and_pods_stand_together() -> None:
    whole = super_pod_table(1, 2, 3, 4, pods=2)
    # Pod 0 has servers 1 and 2 in it, pod 1 has 3 and 4; by number they would be 10.0.0.1, .2, .3, .10.
    parts = []
    for index, entry in enumerate(whole["server_list"]):
        entry = deepcopy(entry)
        for rank, device in enumerate(entry["device"]):
            device["rank_id"] = str(rank)
        pod = whole["super_pod_list"][index // 2]["super_pod_id"]
        pods = [{"super_pod_id": pod, "server_list": [{"server_id": entry["server_id"]}]}]
        parts.append(whole | {"server_count": "1", "server_list": [entry], "super_pod_list": pods})
    assert _merged(parts[3], parts[0], parts[2], parts[1]) == whole


def test_keys_of_other_tools_are_kept() -> None:
    data = _single(2)
    data["server_list"][0]["container_ip"] = "172.16.0.2"
    assert _merged(_single(1), data)["server_list"][1]["container_ip"] == "172.16.0.2"


def test_a_single_table_is_merged_to_itself() -> None:
    assert _merged(_single(3)) == _single(3)
