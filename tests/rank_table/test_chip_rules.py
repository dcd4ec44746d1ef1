"""The rules that only some chips have: which devices can join, and the networks they are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.rank_table.findings import Severity, errors_of, warnings_of
from tests.rank_table.support import codes, findings, renumber, table, with_addresses


@pytest.mark.parametrize(
    ("devices", "known", "unknown"),
    [
        ([0], [], []),
        ([0, 1], [], []),
        ([0, 4], ["two-rings-910a"], ["two-rings-910a"]),
        ([0, 1, 2], ["device-count-910a"], ["device-count-910a"]),
        ([0, 1, 2, 3], [], []),
        ([0, 1, 4, 5], ["two-rings-910a"], ["two-rings-910a"]),
        ([0, 1, 2, 4], ["device-set-910a"], ["device-set-910a"]),
        ([1, 3, 5, 7], ["two-rings-910a"], ["two-rings-910a"]),
        (list(range(8)), [], []),
    ],
)
def test_the_devices_that_a_910a_can_join(devices: list[int], known: list[str], unknown: list[str]) -> None:
    data = table(1, devices=8)
    entry = data["server_list"][0]
    entry["device"] = [entry["device"][number] for number in devices]
    renumber(data)
    assert codes(data, chip="910A") == known
    assert codes(data) == unknown
    assert not errors_of(findings(data)), "refused only where the chip is known to be a 910A"
    assert codes(data, chip="910B") == []
    crosses = known == ["two-rings-910a"]
    assert bool(errors_of(findings(data, chip="910A"))) == (bool(known) and not crosses)


@pytest.mark.parametrize(
    ("address", "chip", "is_reserved"),
    [
        ("192.168.0.1", "910B", True),
        ("192.168.7.255", "910B", True),
        ("192.168.8.1", "910B", False),
        ("192.1.2.3", "910B", False),
        ("192.1.2.3", "910_93", True),
        ("193.1.2.3", "910_93", False),
    ],
)
def test_networks_that_the_servers_keep_for_themselves(address: str, chip: Any, is_reserved: bool) -> None:
    data = table(1, devices=1)
    data["server_list"][0]["device"][0]["device_ip"] = address
    found = findings(data, chip=chip)
    assert [(finding.code, finding.severity) for finding in found] == (
        [("reserved-subnet", Severity.WARNING)] if is_reserved else []
    )


@pytest.mark.parametrize(
    ("address", "on_910a", "unknown"),
    [
        # MindSpore's sample: 192.1 to 192.4, netmask 255.255.0.0
        (lambda s, d: f"193.{d % 4 + 1}.{s + 27}.{d // 4 + 6}", [], []),
        # Four networks with netmask 255.255.255.0
        (lambda s, d: f"10.9.{d % 4}.{s * 8 + d + 1}", [], []),
        # One flat network: right for a 910B
        (lambda s, d: f"10.20.{s}.{d + 1}", ["subnets-910a"], []),
        # A network per server: same-numbered devices cannot reach each other
        (lambda s, d: f"{10 + s}.{d % 4}.0.{d + 1}", ["subnets-910a"], ["subnets-910a"]),
    ],
    ids=["sample", "/24", "flat", "per server"],
)
def test_same_numbered_devices_share_a_network(
    address: Callable[[int, int], str], on_910a: list[str], unknown: list[str]
) -> None:
    data = with_addresses(table(1, 2), address)
    assert codes(data, chip="910A") == on_910a
    assert codes(data) == unknown
    assert codes(data, chip="910B") == []
    assert not errors_of(findings(data))
    assert bool(errors_of(findings(data, chip="910A"))) == bool(on_910a)


def test_unequal_servers_are_refused_on_a_910a_only() -> None:
    data = with_addresses(table(1, 2), lambda server, device: f"10.9.{device % 4}.{server * 8 + device + 1}")
    del data["server_list"][1]["device"][4:]
    assert [finding.code for finding in errors_of(findings(data, chip="910A"))] == ["unequal-servers"]
    assert [finding.code for finding in warnings_of(findings(data, chip="910B"))] == ["unequal-servers"]
