"""Any megabyte that is given as an inventory, a rank table or a tool's answer is answered within bounds.

Two seconds of this process's own time, and 300 MB above what it had.
"""

from __future__ import annotations

import json
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ascend import hccn
from orchestrator.ascend.npu_smi import parse_board, parse_ecc, parse_health, parse_spod
from orchestrator.ascend.npu_table import parse_info
from orchestrator.config.host_ranges import RangeError, expand, fold, size
from orchestrator.config.inventory_file import load_inventory
from orchestrator.core.errors import ConfigError, ToolOutputError
from orchestrator.rank_table.findings import problems_of
from orchestrator.rank_table.read_table import parse_rank_table
from orchestrator.rank_table.rules import check_file
from tests.ascend import samples

MEGABYTE = 1 << 20
# Twice the time, for the other tests that share the processor's caches.
SECONDS, KILOBYTES = 2 * 2.0, 300 << 10


def within_bounds(action: Callable[[], object], *refusals: type[Exception]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        action()
    except refusals as error:
        assert len(str(error)) < 10_000
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES


def _many(template: str, count: int, separator: str = "\n") -> str:
    return separator.join(template.format(number) for number in range(count))


DEFAULTS = "defaults: {devices: 0-7}\n"
TEXTS: dict[str, str] = {
    "devices to 20000": "hosts: [{name: a, devices: 0-20000}]\n",
    "devices to 65000, twice": "hosts: [{name: a, devices: [0-65000, 0-65000]}]\n",
    "devices one by one": f"hosts: [{{name: a, devices: [{_many('{}', 80_000, ',')}]}}]\n",
    "65536 hosts": DEFAULTS + "hosts: [{name: 'npu[1-65536]'}]\n",
    "ranges of hosts": DEFAULTS + "hosts:\n" + " - name: npu[1-60000]\n" * 20_000,
    "addresses": DEFAULTS + 'hosts: [{name: "n[1-9]", address: "10.0.[0-255].[1-255]"}]\n',
    "device_ips": DEFAULTS + 'hosts: [{name: "n[1-9]", device_ips: "10.[0-9].[0-255].[1-25]"}]\n',
    "groups": DEFAULTS + "hosts: [{name: 'n[1-999]'}]\ngroups:\n" + _many("  g{}: n[1-999]", 30_000),
    "keys": "hosts: []\n" + _many("k{}: 1", 60_000),
    "a hostfile": _many("npu{} slots=8", 60_000),
    "ranges in a hostfile": "npu[1-65536]\n" * 70_000,
    "slots": "npu01 slots=" + "9" * MEGABYTE,
    "node groups": _many("g{}: npu[1-60000]", 20_000),
    "ranges of Ansible": "[a]\n" + "npu[1:60000]\n" * 70_000,
    "groups of Ansible in a row": "".join(f"[g{n}:children]\ng{n + 1}\n" for n in range(30_000)),
    "groups of Ansible in a circle": "[a:children]\nb\n[b:children]\na\n[a]\nx\n",
    "variables of Ansible": "[a]\nnpu" + " a=b" * 250_000,
    "brackets with a word": "a" + "[1]" * 340_000,
    **{f"a megabyte of {letter!r}": letter * MEGABYTE for letter in "\n,[a"},
}


@pytest.mark.parametrize("name", TEXTS)
def test_inventories(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(TEXTS[name])

    def load() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_inventory(path)

    within_bounds(load, ConfigError)


def _servers(count: int, **fields: str) -> dict[str, Any]:
    devices = [
        {"device_id": "0", "device_ip": f"10.0.{n >> 8}.{n & 255}", "rank_id": "0"} | fields
        for n in range(count)
    ]
    return {"version": "1.0", "server_list": [{"server_id": "a", "device": devices}], "status": "completed"}


OLD = [{"server_id": "a", "devices": [{"device_id": str(number)}]} for number in range(15_000)]
TABLES: dict[str, str] = {
    "one device often": json.dumps(_servers(12_000)),
    "backups": json.dumps(_servers(8_000, backup_device_ip="10.0.0.1,10.0.0.2", backup_device_port="1")),
    "one server often": json.dumps(
        {"version": "1.2", "server_list": [{"server_id": "a"}] * 40_000, "super_pod_list": []}
    ),
    "numbers": json.dumps({"version": 1, "server_list": [{"server_id": 1, "device": [1] * 300_000}]}),
    "the older template": json.dumps({"group_list": [{"instance_list": OLD}]}),
    "a key twice, late": "{" + _many('"k{}": 1', 60_000, ",") + ',"k59999": 2}',
    "keys": "{" + _many('"k{}": 1', 60_000, ",") + ',"server_list": []}',
    "deep": "[" * MEGABYTE,
    "digits": '{"version": ' + "9" * MEGABYTE + "}",
    "blanks": " " * MEGABYTE,
    "a text": '"' + "x" * MEGABYTE,
}


@pytest.mark.parametrize("name", TABLES)
def test_rank_tables(name: str) -> None:
    data = TABLES[name].encode()

    def look() -> None:
        list(problems_of("t.json", check_file(parse_rank_table(data, "t.json"))))

    within_bounds(look, ConfigError)


@pytest.mark.parametrize("name", ["the older template"])
def test_rank_tables_as_inventories(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(TABLES[name])
    within_bounds(lambda: load_inventory(path), ConfigError)


PARSERS: list[Callable[[str], object]] = [
    *(parse_info, parse_health, parse_board, parse_ecc, parse_spod, hccn.parse_ip, hccn.parse_ipv6),
    *(hccn.parse_link, hccn.parse_net_health, hccn.parse_netdetect, hccn.parse_gateway, hccn.parse_tls),
    *(hccn.parse_ping, hccn.parse_vnic, hccn.parse_hccn_conf),
]
# As much as is read of one answer, and more than that.
HALF = 255 << 10
ANSWERS = [
    "x" * MEGABYTE,
    *(
        letter * MEGABYTE
        for letter in (" ", "\n", "\t", "1", "|", "a ", "1 ", ": ", "a: ", "ipaddr:", "| | |\n")
    ),
    *(
        start + " " * MEGABYTE + "x y"
        for start in ("ipaddr:", "netdetect address:", "vnic ipaddr:", "gateway:")
    ),
    samples.INFO_26 * 100,
    samples.INFO_26.replace("| 1       0  ", "| 1       0  " * 20_000),
    samples.ECC * 200,
]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
def test_answers_of_tools(parser: Callable[[str], object]) -> None:
    for answer in ANSWERS:
        within_bounds(lambda text=answer: parser(text), ToolOutputError)  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        "[1-65536]" * 3,
        "a[1-65537]",
        "," * MEGABYTE,
        "[" * MEGABYTE,
        "a[" + "1," * 400_000 + "1]",
        "[1]" * 300_000,
    ],
)
def test_host_ranges(text: str) -> None:
    within_bounds(lambda: fold(expand(text)), RangeError)
    within_bounds(lambda: size(text), RangeError)


@pytest.mark.parametrize("text", ["npu[1-3,7]", "a,b[01-20]", "x[1-2]y[1-3],z"])
def test_the_size_of_a_range_is_that_of_its_names(text: str) -> None:
    assert size(text) == len(expand(text))


def test_names_that_no_host_has(tmp_path: Path) -> None:
    """Each costs a search among all names for the one that was meant."""
    path = tmp_path / "hosts.yaml"
    unknown = "".join(f"    - xpu{number:05d}\n" for number in range(9000))
    path.write_text(
        f"defaults: {{devices: 0-1}}\nhosts: [{{name: 'npu[00001-09000]'}}]\ngroups:\n  half:\n{unknown}"
    )
    within_bounds(lambda: load_inventory(path), ConfigError)
