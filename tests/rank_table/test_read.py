"""Files that are no rank table: one error each, that says what they are instead."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import ConfigError
from orchestrator.rank_table.findings import errors_of
from orchestrator.rank_table.merge import merge
from orchestrator.rank_table.read_table import parse_rank_table, read_rank_table, read_rank_tables
from orchestrator.rank_table.rules import check_file
from tests.rank_table.support import codes, findings, reading, super_pod_table, table

GOOD = json.dumps(table(1, 2), indent=4)


def refusal(data: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_rank_table(data, "t.json")
    (line,) = caught.value.lines()
    assert "\n" not in line and line.isprintable()
    return line


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "t.json: is empty"),
        (b" \n\t", "t.json: is empty"),
        (GOOD[:700].encode(), "ends in the middle: the file is cut off"),
        (GOOD[: GOOD.index("29.1.1.3")].encode(), "ends in the middle: the file is cut off"),
        (b"\xef\xbb\xbf" + GOOD.encode(), "is UTF-8 with a byte order mark (save it as UTF-8 without"),
        (GOOD.encode("utf-16"), "is UTF-16"),
        (GOOD.replace("10.0.0.2", "sérv").encode("latin-1"), "t.json:52: is not UTF-8: byte 0xe9"),
        (b"\xff" * 40, "t.json:1: is not UTF-8: byte 0xff"),
        (b"[" * 200_000, "is nested too deeply"),
        (b'{"a":' * 200_000, "is nested too deeply"),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "holds a number of thousands of digits"),
        (b"null", "expected an object {...}, got null"),
        (b"[1]", "expected an object {...}, got a list"),
        (b'"x"', 'expected an object {...}, got the text "x"'),
        (b"12", "expected an object {...}, got the number 12"),
        (b"{} {}", "something stands behind the end of the table"),
        (b'{"status": NaN}', "NaN is not JSON"),
        (b'{"status": "completed" // done\n}', "holds a comment, which JSON does not have"),
        (b'{"a": 1,}', "t.json:1:"),
        (b"status: completed", "t.json:1:1: is not JSON"),
        (b'{"version": "1.0", "version": "1.2"}', "key 'version' is given twice in one object"),
        (b'{"version": "2.0", "rank_list": []}', "version 2.0 (Ascend 950) (only versions 1.0 and 1.2"),
        (b'{"rank_count": 8, "rank_list": []}', "version 2.0 (Ascend 950)"),
        (
            b'{"prefill_device_list": [], "version": "1.2"}',
            "vllm-ascend's list of devices for prefill and decode",
        ),
        (b'{"cluster_list": []}', "jobs across clusters"),
        (b'{"server_group_list": []}', "MindCluster's global table"),
        (b"\x00" * 64, "is not JSON"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:30],
)
def test_no_rank_table(data: bytes, line: str) -> None:
    assert line in refusal(data)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(ConfigError, match="is larger than 64 MiB"):
        read_rank_table(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(GOOD)
    (tmp_path / "empty.json").write_text("")
    paths = [tmp_path / name for name in ("absent.json", "good.json", "empty.json", ".")]
    with pytest.raises(ConfigError) as caught:
        read_rank_tables(paths)
    assert [line.replace(str(tmp_path), "") for line in caught.value.lines()] == [
        "/absent.json: cannot be read: No such file or directory",
        "/empty.json: is empty",
        ": cannot be read: Is a directory",
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("server_list", {}, ["wrong-kind", "server-count"]),
        ("server_list", "x", ["wrong-kind", "server-count"]),
        ("server_list", [1], ["wrong-kind", "server-id-form", "no-devices"]),
        ("server_list", None, ["wrong-kind", "server-count"]),
        ("server_count", None, ["not-a-string"]),
        ("server_count", [], ["not-a-string"]),
        ("status", True, ["not-a-string"]),
        ("version", 1.0, ["not-a-string"]),
        ("super_pod_list", 3, ["wrong-kind"]),
        ("super_pod_list", [3], ["wrong-kind"]),
        ("super_pod_list", [{"server_list": [4]}], ["missing-key"]),
    ],
)
def test_values_of_the_wrong_kind(key: str, value: Any, expected: list[str]) -> None:
    data = table(1)
    data[key] = value
    assert codes(data)[: len(expected)] == expected


@pytest.mark.parametrize("key", ["version", "status", "server_list"])
def test_a_missing_key_is_told_once(key: str) -> None:
    data = table(1)
    del data[key]
    told = [(finding.code, finding.path) for finding in findings(data) if finding.path == key]
    assert told == [("missing-key", key)]


@pytest.mark.parametrize("data", [table(1, 2), super_pod_table(1, 2), table(3, devices=1)])
def test_what_is_read_is_written_back_byte_by_byte(data: dict[str, Any]) -> None:
    assert json.loads(reading(data).table.to_json()) == data
    assert parse_rank_table(reading(data).table.to_json().encode(), "t").table == reading(data).table


def test_the_bytes_are_those_of_the_generator() -> None:
    assert reading(table(1, 2)).table.to_json() == GOOD


def test_keys_of_other_tools_are_kept() -> None:
    data = table(1)
    data["server_list"][0]["container_ip"] = "172.16.0.1"
    data["server_list"][0]["hardware_type"] = "800I-A2-32G"
    data["server_list"][0]["device"][0]["note"] = {"rack": ["a", 1]}
    assert json.loads(reading(data).table.to_json()) == data
    assert codes(data) == ["unknown-key"]


def test_a_name_that_hccl_does_not_open() -> None:
    found = check_file(reading(table(1), "hccl.json.bak"))
    assert [(finding.code, finding.severity) for finding in found] == [("file-name", "error")]


def old_template(*instances: dict[str, Any]) -> dict[str, Any]:
    return {"status": "completed", "group_count": "1", "group_list": [{"instance_list": list(instances)}]}


def instance(server: int, *devices: int, rank: str | None = None) -> dict[str, Any]:
    listed = [{"device_id": str(device), "device_ip": f"29.1.{server}.{device + 1}"} for device in devices]
    return {"server_id": f"10.0.0.{server}", "devices": listed, **({"rank_id": rank} if rank else {})}


@pytest.mark.parametrize(
    "data",
    [
        old_template(instance(1, 0, 1), instance(2, 0, 1)),
        old_template(*(instance(1 + rank // 2, rank % 2, rank=str(rank)) for rank in range(4))),
    ],
    ids=["an instance for each pod", "an instance for each device"],
)
def test_the_older_template_is_looked_at_as_version_1(data: dict[str, Any]) -> None:
    read = reading(data)
    assert [(found.code, found.severity) for found in check_file(read)] == [("old-template", "warning")]
    wanted = json.loads(reading(table(1, 2, devices=2)).table.to_json())
    for server in wanted["server_list"]:
        del server["host_nic_ip"]
    assert json.loads(read.table.to_json()) == wanted
    # `merge` writes it so.
    assert [server.server_id for server in merge([read]).table.server_list] == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(
    "bad", [5, {}, [5], [{"instance_list": 5}], [{"instance_list": [{"devices": [5]}]}], []]
)
def test_what_is_wrong_in_the_older_template_is_told(bad: Any) -> None:
    assert errors_of(check_file(reading({"group_list": bad, "status": "completed"})))
