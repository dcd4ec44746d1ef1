"""Every rule of a rank table: broken alone, it is found alone, at its path and with its values."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from orchestrator.rank_table.findings import Severity, errors_of, warnings_of
from orchestrator.rank_table.rules import FORM_CODES, RULES
from tests.rank_table.support import codes, findings, renumber, super_pod_table, table, with_addresses

Damage = Callable[[dict[str, Any]], Any]


def _device(data: dict[str, Any], server: int = 1, device: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = data["server_list"][server]["device"][device]
    return found


def _set(path: str, value: Any) -> Damage:
    """Sets `server_list.1.device.0.rank_id` and the like; None removes the key."""

    def damage(data: dict[str, Any]) -> None:
        *inner, last = path.split(".")
        holder: Any = data
        for key in inner:
            holder = holder[int(key)] if key.isdigit() else holder[key]
        if value is None:
            del holder[last]
        else:
            holder[int(last) if last.isdigit() else last] = value

    return damage


def _swap_servers(data: dict[str, Any]) -> None:
    """The higher address comes first, and its ranks with it."""
    first, second = data["server_list"]
    first["server_id"], second["server_id"] = second["server_id"], first["server_id"]


def _interleave(data: dict[str, Any]) -> None:
    a, b = _device(data, 0, 3), _device(data, 1, 0)
    a["rank_id"], b["rank_id"] = b["rank_id"], a["rank_id"]


def _own_backup(data: dict[str, Any]) -> None:
    _device(data, 1, 2)["backup_device_ip"] = "29.1.2.3"
    del _device(data, 1, 3)["backup_device_ip"]


def _backups_outside(data: dict[str, Any]) -> None:
    for device in (2, 3):
        _device(data, 1, device)["backup_device_ip"] = "29.9.9.9"


def _drop_devices(count: int) -> Damage:
    def damage(data: dict[str, Any]) -> None:
        del data["server_list"][1]["device"][-count:]

    return damage


BASE = table(1, 2)
PODS = super_pod_table(1, 2, 3, 4, pods=2)
# As PODS, but no device has the number of another one in the other pod.
TWINS = deepcopy(PODS)
for number, entry in enumerate(device for server in TWINS["server_list"] for device in server["device"]):
    entry["super_device_id"] = str(number)

# code, table, damage, path, values (those of the first finding)
CASES: list[tuple[str, dict[str, Any], Damage, str, tuple[str, ...]]] = [
    ("unknown-version", BASE, _set("version", "1.1"), "version", ("1.1",)),
    ("status-not-completed", BASE, _set("status", "initializing"), "status", ("initializing",)),
    ("server-count", BASE, _set("server_count", "3"), "server_count", ("3", "2")),
    ("server-id-form", BASE, _set("server_list.1.server_id", ""), "server_list[1].server_id", ("",)),
    (
        "server-id-form",
        BASE,
        _set("server_list.1.server_id", "n" * 65),
        "server_list[1].server_id",
        ("n" * 65,),
    ),
    (
        "duplicate-server-id",
        BASE,
        _set("server_list.1.server_id", "10.0.0.1"),
        "server_list[1].server_id",
        ("10.0.0.1",),
    ),
    (
        "loopback-server-id",
        BASE,
        _set("server_list.1.server_id", "127.0.1.1"),
        "server_list[1].server_id",
        ("127.0.1.1",),
    ),
    ("duplicate-host-ip", PODS, _set("server_list.1.host_ip", "172.16.0.1"), "server_list[1].host_ip", ()),
    ("host-ip-form", PODS, _set("server_list.1.host_ip", "node2"), "server_list[1].host_ip", ("node2",)),
    ("host-ip-form", PODS, _set("server_list.1.host_ip", ""), "server_list[1].host_ip", ("",)),
    (
        "mixed-host-ip-families",
        PODS,
        _set("server_list.1.host_ip", "fe80::1"),
        "server_list[1].host_ip",
        ("fe80::1", "172.16.0.1"),
    ),
    (
        "host-ip-missing",
        BASE,
        _set("server_list.1.device.0.net_position", "host"),
        "server_list[0].host_ip",
        ("10.0.0.1",),
    ),
    (
        "net-words",
        BASE,
        _set("server_list.1.device.0.net_protocol", "roce"),
        "server_list[1].device[0].net_protocol",
        ("roce",),
    ),
    ("server-order", BASE, _swap_servers, "server_list", ("10.0.0.2", "10.0.0.1")),
    (
        "unknown-key",
        BASE,
        _set("server_list.0.device.0.devce_ip", "x"),
        "server_list[0].device[0].devce_ip",
        (),
    ),
    (
        "device-id-form",
        BASE,
        _set("server_list.1.device.0.device_id", "zero"),
        "server_list[1].device[0].device_id",
        ("zero",),
    ),
    (
        "device-id-range",
        BASE,
        _set("server_list.1.device.7.device_id", "32"),
        "server_list[1].device[7].device_id",
        ("32",),
    ),
    (
        "duplicate-device-id",
        BASE,
        _set("server_list.1.device.1.device_id", "0"),
        "server_list[1].device[1].device_id",
        ("0",),
    ),
    (
        "missing-device-ip",
        BASE,
        _set("server_list.1.device.2.device_ip", None),
        "server_list[1].device",
        ("2",),
    ),
    (
        "device-ip-form",
        BASE,
        _set("server_list.1.device.2.device_ip", "29.1.2.300"),
        "server_list[1].device[2].device_ip",
        ("29.1.2.300",),
    ),
    (
        "duplicate-device-ip",
        BASE,
        _set("server_list.1.device.2.device_ip", "29.1.1.1"),
        "server_list[1].device[2].device_ip",
        ("29.1.1.1",),
    ),
    (
        "device-ip-count",
        BASE,
        _set("server_list.1.device.2.device_ip", "29.1.2.3,29.1.2.33"),
        "server_list[1].device[2].device_ip",
        ("29.1.2.3,29.1.2.33",),
    ),
    (
        "mixed-ip-families",
        BASE,
        _set("server_list.1.device.2.device_ip", "fe80::3"),
        "server_list[1].device[2].device_ip",
        ("fe80::3", "29.1.1.1"),
    ),
    (
        "backup-ip-form",
        PODS,
        _set("server_list.1.device.2.backup_device_ip", "29.1"),
        "server_list[1].device[2].backup_device_ip",
        ("29.1",),
    ),
    (
        "backup-ip-pair",
        PODS,
        _own_backup,
        "server_list[1].device[2].backup_device_ip",
        ("29.1.2.3",),
    ),
    (
        "duplicate-backup-ip",
        PODS,
        _backups_outside,
        "server_list[1].device[3].backup_device_ip",
        ("29.9.9.9",),
    ),
    (
        "backup-port",
        PODS,
        _set("server_list.1.device.2.backup_device_port", "16666"),
        "server_list[1].device[2].backup_device_port",
        ("16666",),
    ),
    (
        "backup-port",
        PODS,
        _set("server_list.1.device.2.backup_device_port", "0"),
        "server_list[1].device[2].backup_device_port",
        ("0",),
    ),
    (
        "port-range",
        BASE,
        _set("server_list.1.device.2.device_port", "65536"),
        "server_list[1].device[2].device_port",
        ("65536",),
    ),
    (
        "duplicate-host-port",
        PODS,
        _set("server_list.1.device.2.host_port", "17000"),
        "server_list[1].device[2].host_port",
        ("17000",),
    ),
    (
        "rank-id-form",
        BASE,
        _set("server_list.1.device.2.rank_id", "-1"),
        "server_list[1].device[2].rank_id",
        ("-1",),
    ),
    ("rank-id-gap", BASE, _set("server_list.1.device.7.rank_id", "16"), "server_list", ("15",)),
    ("needs-version-1.2", BASE, _set("server_list.0.device.0.super_device_id", "1"), "", ()),
    ("no-super-pods", PODS, _set("super_pod_list", None), "super_pod_list", ()),
    (
        "super-device-id-form",
        PODS,
        _set("server_list.1.device.2.super_device_id", "0x1"),
        "server_list[1].device[2].super_device_id",
        ("0x1",),
    ),
    (
        "duplicate-super-device-id",
        PODS,
        _set("server_list.1.device.2.super_device_id", "0"),
        "server_list[1].device[2].super_device_id",
        ("0",),
    ),
    (
        "super-pod-id",
        TWINS,
        _set("super_pod_list.1.super_pod_id", "0"),
        "super_pod_list[1].super_pod_id",
        ("0",),
    ),
    (
        "super-pod-id",
        PODS,
        _set("super_pod_list.1.super_pod_id", ""),
        "super_pod_list[1].super_pod_id",
        ("",),
    ),
]


@pytest.mark.parametrize(
    ("code", "data", "damage", "path", "values"),
    CASES,
    ids=[f"{case[0]}-{index}" for index, case in enumerate(CASES)],
)
def test_a_rule_broken_alone(
    code: str, data: dict[str, Any], damage: Damage, path: str, values: tuple[str, ...]
) -> None:
    broken = deepcopy(data)
    damage(broken)
    found = findings(broken)
    assert {finding.code for finding in found} == {code}
    assert found[0].path.startswith(path) and found[0].values[: len(values)] == values
    assert (found[0].what and found[0].remedy) or code == "server-count"


# What breaks more than one rule by its nature: all of them are told.
SEVERAL: list[tuple[dict[str, Any], Damage, list[str]]] = [
    (BASE, _set("server_list", []), ["no-servers", "server-count"]),
    (BASE, _set("server_list.1.device", []), ["no-devices", "unequal-servers"]),
    (BASE, _drop_devices(4), ["unequal-servers"]),
    (BASE, _interleave, ["interleaved-ranks", "rank-order"]),
    (
        BASE,
        _set("server_list.1.device.0.rank_id", "7"),
        ["duplicate-rank-id", "rank-id-gap"],
    ),
    (PODS, _set("super_pod_list.0.server_list.1.server_id", "10.0.0.9"), ["super-pod-servers"]),
    (TWINS, _set("super_pod_list.0.server_list.1.server_id", "10.0.0.3"), ["super-pod-servers"]),
    (TWINS, _set("super_pod_list.1.server_list.1", {"server_id": "10.0.0.3"}), ["super-pod-servers"]),
]


@pytest.mark.parametrize(("data", "damage", "expected"), SEVERAL, ids=[",".join(case[2]) for case in SEVERAL])
def test_rules_broken_together(data: dict[str, Any], damage: Damage, expected: list[str]) -> None:
    broken = deepcopy(data)
    damage(broken)
    assert codes(broken) == expected


def test_servers_of_one_super_pod_stand_together() -> None:
    data = super_pod_table(1, 2, 3, 4, pods=2)
    data["server_list"][1], data["server_list"][2] = data["server_list"][2], data["server_list"][1]
    renumber(data)
    assert "super-pod-apart" in codes(data)


def test_super_pods_are_of_equal_size() -> None:
    data = super_pod_table(1, 2, 3)
    data["super_pod_list"] = [
        {"super_pod_id": "0", "server_list": [{"server_id": "10.0.0.1"}, {"server_id": "10.0.0.2"}]},
        {"super_pod_id": "1", "server_list": [{"server_id": "10.0.0.3"}]},
    ]
    assert codes(data) == ["unequal-super-pods"]


@pytest.mark.parametrize("data", [BASE, PODS, table(1), table(1, 2, 10), table(9, 10), super_pod_table(5)])
def test_good_tables(data: dict[str, Any]) -> None:
    assert findings(data) == []


def test_a_single_server_needs_no_addresses_unless_it_uses_roce() -> None:
    data = table(1)
    for device in data["server_list"][0]["device"]:
        del device["device_ip"]
    assert findings(data) == []


def test_a_loopback_id_of_the_only_server_is_a_warning() -> None:
    data = table(1)
    data["server_list"][0]["server_id"] = "127.0.1.1"
    assert [finding.severity for finding in findings(data)] == [Severity.WARNING]


def test_ranks_in_number_or_dictionary_order_are_both_orders() -> None:
    assert findings(table(2, 10)) == []
    assert findings(table(10, 2)) == [], "the order of MindSpore's words: that of a dictionary"
    assert codes(table(3, 10, 2)) == ["server-order"]


def test_a_number_for_a_string_is_told_and_the_rules_go_on() -> None:
    data = table(1, 2)
    data["server_count"] = 2
    data["server_list"][1]["device"][0]["rank_id"] = 8
    data["server_list"][1]["device"][1]["device_ip"] = "29.1.1.2"
    found = findings(data)
    assert [(finding.code, finding.path) for finding in found] == [
        ("not-a-string", "server_count"),
        ("not-a-string", "server_list[1].device[0].rank_id"),
        ("duplicate-device-ip", "server_list[1].device[1].device_ip"),
    ]
    assert found[1].remedy == 'write "8"'


def test_the_sample_of_the_bloom_page_is_refused_with_each_duplicate_named() -> None:
    """Two servers whose second one repeats device IPs of the first, as on MindFormers' page for Bloom."""
    data = with_addresses(table(1, 2), lambda server, device: f"192.168.{device % 4}.{device // 4 + 1}")
    found = errors_of(findings(data))
    assert [(finding.code, finding.path, finding.values) for finding in found] == [
        (
            "duplicate-device-ip",
            f"server_list[1].device[{device}].device_ip",
            (f"192.168.{device % 4}.{device // 4 + 1}",),
        )
        for device in range(8)
    ]
    assert found[0].what == (
        "192.168.0.1 is the address of device 0 of server 10.0.0.1 already (server_list[0].device[0])"
    )
    assert {finding.code for finding in warnings_of(findings(data))} == {"reserved-subnet"}


def test_every_rule_is_broken_by_a_test() -> None:
    broken = {case[0] for case in CASES} | {code for case in SEVERAL for code in case[2]}
    others = {
        "super-pod-apart",
        "unequal-super-pods",
        "device-count-910a",
        "device-set-910a",
        "two-rings-910a",
        "reserved-subnet",
        "subnets-910a",
        "version-of-950",
    }
    assert all(rule.source for rule in RULES)
    assert broken | others == {rule.code for rule in RULES}
    assert len({rule.code for rule in RULES} | set(FORM_CODES)) == len(RULES) + len(FORM_CODES)
