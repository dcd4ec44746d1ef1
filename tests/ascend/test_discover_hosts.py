"""Discovery over SSH: every host answers with its own tools, whatever is wrong with another one's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.ascend.discovery import discover
from orchestrator.ascend.found_devices import FoundHost
from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.testing.sshd import why_no_sshd
from orchestrator.testing.standin_cluster import FakeCluster
from orchestrator.testing.standin_facts import Kind, host_facts

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
]


def load(cluster: FakeCluster, **keys: Any) -> Inventory:
    path = cluster.folder / "inventory.yaml"
    path.write_text(yaml.safe_dump(cluster.inventory(**keys)))
    return load_inventory(path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    made = FakeCluster(tmp_path_factory.mktemp("cluster"), 3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def connected(cluster: FakeCluster) -> Iterator[Fleet]:
    inventory = load(cluster)
    with fleet_of(inventory.hosts, inventory.ssh) as fleet:
        yield fleet


@pytest.fixture
def fleet(cluster: FakeCluster, connected: Fleet) -> Iterator[Fleet]:
    """Three sound hosts; sound again afterwards."""
    yield connected
    for index, name in enumerate(cluster.names()):
        cluster.become(name, host_facts(index))


def found(fleet: Fleet, timeout: float = 10.0) -> dict[str, FoundHost]:
    return discover(fleet, timeout=timeout).raise_on_error()


def test_all_addresses_are_found(fleet: Fleet) -> None:
    hosts = found(fleet)
    assert list(hosts) == ["npu001", "npu002", "npu003"]
    for index, host in enumerate(hosts.values()):
        assert [device.ip for device in host.devices] == [f"10.20.{index}.{n}" for n in range(1, 9)]
        assert {device.source for device in host.devices} == {"hccn_tool"}
        assert host.warnings == ()
        assert host.chip == "910B1"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang", "hccn_tool -i 3 -ip -g gave no answer in time"),
        ("garbage", "hccn_tool -ip: expected `ipaddr:ADDRESS`, line 1 is '\\x7fELF"),
        ("half", "hccn_tool -ip: the answer ends in the middle, after 'ipaddr:10.20.1.4'"),
        ("chinese", "hccn_tool -ip: expected `ipaddr:ADDRESS`, line 1 is '获取设备信息失败，请检查驱动'"),
        ("root", "hccn_tool -ip: permission denied"),
        ("busy", "hccn_tool -ip: hccn_tool is busy"),
        ("crash", "hccn_tool -i 3 -ip -g was ended by signal 11"),
    ],
)
def test_a_tool_that_fails_is_made_up_for_by_hccn_conf(
    cluster: FakeCluster, fleet: Fleet, fault: Any, words: str
) -> None:
    sound = host_facts(1)
    cluster.become("npu002", dataclasses.replace(sound, faults={"hccn_tool -i 3": fault}))
    hosts = found(fleet, timeout=0.5 if fault == "hang" else 10.0)
    device = hosts["npu002"].device(3)
    conf = str(cluster.hosts["npu002"].hccn_conf)
    assert (device.ip, device.source) == ("10.20.1.4", conf)
    (warning,) = hosts["npu002"].warnings
    assert warning.startswith(f"the IP of device 3 is from {conf}, because hccn_tool did not tell: {words}")
    assert hosts["npu001"].warnings == hosts["npu003"].warnings == ()


@pytest.mark.parametrize("state", ["unreadable", "empty", "windows"])
def test_hccn_conf_in_every_state(cluster: FakeCluster, fleet: Fleet, state: str) -> None:
    cluster.become("npu001", dataclasses.replace(host_facts(0), missing=("hccn_tool",)))
    conf: Path = cluster.hosts["npu001"].hccn_conf
    if state == "windows":
        conf.write_bytes(conf.read_bytes().replace(b"\n", b"\r\n"))
    elif state == "empty":
        conf.write_text("")
    else:
        conf.unlink()
        conf.mkdir()
    try:
        host = found(fleet)["npu001"]
    finally:
        if conf.is_dir():
            conf.rmdir()
    if state == "windows":
        assert host.device(7).ip == "10.20.0.8"
        assert "hccn_tool is not on this host" in host.warnings[0]
    else:
        assert {device.ip for device in host.devices} == {None}
        assert host.device(0).trouble == "hccn_tool is not on this host"
        assert bool(host.warnings) == (state == "unreadable")


def test_a_device_without_an_address_anywhere(cluster: FakeCluster, fleet: Fleet) -> None:
    cluster.become("npu003", dataclasses.replace(host_facts(2).change(5, ip=None), old_driver=True))
    device = found(fleet)["npu003"].device(5)
    assert (device.ip, device.trouble) == (None, "no IP address is set")


def test_a_host_without_any_tool_is_no_error(cluster: FakeCluster, fleet: Fleet) -> None:
    cluster.become("npu002", dataclasses.replace(host_facts(1), missing=("hccn_tool", "npu-smi")))
    assert found(fleet)["npu002"].device(0).ip == "10.20.1.1"


@pytest.mark.parametrize("kind", ["910A", "A3"])
def test_the_other_kinds_of_host(tmp_path: Path, kind: Kind) -> None:
    cluster = FakeCluster(tmp_path, 1, kind)
    inventory = load(cluster)
    try:
        with fleet_of(inventory.hosts, inventory.ssh) as fleet:
            (host,) = found(fleet).values()
    finally:
        cluster.close()
    facts = host_facts(0, kind)
    assert [device.ip for device in host.devices] == [device.ip for device in facts.devices]
    assert host.warnings == ()
    if kind == "A3":
        assert (host.chip, host.super_pod_id) == ("Ascend910", "0")
        assert [device.super_device_id for device in host.devices] == [str(number) for number in range(16)]
    else:
        assert (host.chip, host.super_pod_id) == ("910A", None)
