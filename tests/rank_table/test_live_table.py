"""Tables of twelve servers of eight devices over SSH: made, compared with what the tools say, put there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.core.errors import AgentError, ConfigError, HostsFailed, TransportError
from orchestrator.rank_table.live_table import compare_with_hosts, make_for_hosts
from orchestrator.rank_table.push_table import push_table
from orchestrator.rank_table.table import RankTable
from orchestrator.testing.sshd import why_no_sshd
from orchestrator.testing.standin_cluster import FakeCluster
from orchestrator.testing.standin_facts import host_facts

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
]
ALL, SOME, DEVICES = 12, 4, 8


def written(cluster: FakeCluster, *, ips: bool = False) -> Path:
    path = cluster.folder / "hosts.yaml"
    path.write_text(yaml.safe_dump(cluster.inventory(ips=ips)))
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    made = FakeCluster(tmp_path_factory.mktemp("cluster"), ALL)
    yield made
    made.close()


def some(cluster: FakeCluster) -> Inventory:
    whole = load_inventory(written(cluster))
    return replace(whole, hosts=whole.hosts[:SOME])


@pytest.fixture
def inventory(cluster: FakeCluster) -> Iterator[Inventory]:
    """Four sound hosts; sound again afterwards."""
    yield some(cluster)
    for index, name in enumerate(cluster.names()):
        if cluster.hosts[name].facts != host_facts(index):
            cluster.become(name, host_facts(index))


@pytest.fixture(scope="module")
def table(cluster: FakeCluster) -> RankTable:
    inventory = some(cluster)
    return make_for_hosts(inventory, inventory.hosts).table


def test_one_table_of_all_hosts(table: RankTable) -> None:
    assert [server.server_id for server in table.server_list] == [f"10.100.0.{n}" for n in range(1, SOME + 1)]
    devices = [device for _, device in table.devices()]
    assert [int(device.rank_id) for device in devices] == list(range(SOME * DEVICES))
    assert devices[-1].device_ip == "10.20.3.8"


def test_a_launch_on_twelve_hosts_says_the_same_and_they_agree(cluster: FakeCluster) -> None:
    hosts = written(cluster, ips=True)
    made = cluster.folder / "made.json"
    words = ["rank-table", "generate", "-i", str(hosts), "-o", str(made)]
    CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    job = cluster.folder / "job.yaml"
    parallel = "{data_parallel: 2, model_parallel: 4, pipeline_stage: 12}"
    job.write_text(
        f"name: j\ntask: command\ncommand: [x]\ndevices_per_host: 8\nparallel: {parallel}\n"
        "networking: {mode: rank_table}\n"
    )
    words = ["launch", str(job), "-i", str(hosts), "--dry-run", "--json"]
    done = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    planned = json.loads(done.stdout)["rank_table"]
    assert made.read_text() == json.dumps(planned, indent=4)
    words = ["rank-table", "validate", str(made), "-i", str(hosts), "--live"]
    done = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    assert done.stderr == "" and "valid, version 1.0, 12 server(s), 96 device(s)" in done.stdout


def test_what_the_hosts_say_now_differs(cluster: FakeCluster, inventory: Inventory, table: RankTable) -> None:
    assert compare_with_hosts(table, inventory).findings == ()
    one, two = host_facts(1), host_facts(2)
    cluster.become("npu002", one.change(3, ip="10.20.2.1"))
    cluster.become("npu003", two.change(0, ip="10.20.2.99").change(5, ip=None))
    found = {finding.path: finding for finding in compare_with_hosts(table, inventory).findings}
    assert {path: finding.code for path, finding in found.items()} == {
        "server_list[1].device[3].device_ip": "live-device-ip",
        "server_list[2].device[0].device_ip": "live-device-ip",
        "server_list[2].device[5].device_ip": "live-no-ip",
    }
    assert found["server_list[1].device[3].device_ip"].what == (
        "is 10.20.1.4, but device 3 of npu002 has 10.20.2.1 now"
    )
    assert found["server_list[2].device[0].device_ip"].what == (
        "is 10.20.2.1, but device 0 of npu003 has 10.20.2.99 now; 10.20.2.1 is that of device 3 of npu002"
    )
    assert found["server_list[2].device[5].device_ip"].values == ("10.20.2.6", "")


def test_a_host_that_does_not_answer_hides_nothing(
    cluster: FakeCluster, inventory: Inventory, table: RankTable
) -> None:
    cluster.become("npu002", host_facts(1).change(3, ip="10.20.1.99"))
    lost = [replace(host, port=1) if host.name == "npu004" else host for host in inventory.hosts]
    compared = compare_with_hosts(table, replace(inventory, hosts=tuple(lost)))
    assert [finding.code for finding in compared.findings] == ["live-device-ip"]
    assert list(compared.errors) == ["npu004"] and isinstance(compared.errors["npu004"], TransportError)
    with pytest.raises(TransportError):
        make_for_hosts(replace(inventory, hosts=tuple(lost)), lost)


def test_no_table_where_a_device_has_no_address(cluster: FakeCluster, inventory: Inventory) -> None:
    cluster.become("npu004", host_facts(3).change(2, ip=None))
    with pytest.raises(ConfigError) as caught:
        make_for_hosts(inventory, inventory.hosts)
    (line,) = caught.value.lines()
    assert line.startswith("npu004: no address of device 2: no IP address is set")


def test_push_and_read_back(cluster: FakeCluster, inventory: Inventory, table: RankTable) -> None:
    data = table.to_json().encode()
    pushed = push_table(table, data, inventory)
    assert [item.host for item in pushed] == [host.name for host in inventory.hosts]
    assert {item.sha256 for item in pushed} == {hashlib.sha256(data).hexdigest()}
    for item in pushed:
        assert Path(item.path) == cluster.folder / "hosts" / item.host / "rank_table.json"
        assert Path(item.path).read_bytes() == data
    assert not list((cluster.folder / "hosts" / "npu001").glob(".rank_table*"))


def test_push_to_a_place_that_is_none(cluster: FakeCluster, inventory: Inventory, table: RankTable) -> None:
    with pytest.raises(HostsFailed) as caught:
        push_table(table, table.to_json().encode(), inventory, "/no/such/folder/t.json")
    errors = caught.value.errors
    assert len(errors) == SOME and all(isinstance(error, AgentError) for error in errors.values())
    assert "/no/such/folder/t.json cannot be written: No such file or directory" in str(errors["npu001"])


def test_nothing_is_put_anywhere_unless_all_are_reached(
    cluster: FakeCluster, inventory: Inventory, table: RankTable
) -> None:
    lost = [replace(host, port=1) if host.name == "npu004" else host for host in inventory.hosts]
    target = cluster.folder / "elsewhere.json"
    with pytest.raises(TransportError):
        push_table(table, b"{}", replace(inventory, hosts=tuple(lost)), str(target))
    assert not target.exists()


def test_a_table_with_errors_is_not_put_anywhere(cluster: FakeCluster, table: RankTable) -> None:
    hosts = written(cluster)
    bad = cluster.folder / "bad.json"
    data = json.loads(table.to_json())
    data["server_list"][1]["device"][0]["device_ip"] = "10.20.0.1"
    bad.write_text(json.dumps(data))
    target = cluster.folder / "pushed.json"
    words = ["rank-table", "push", str(bad), "-i", str(hosts), "--to", str(target)]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(done.exception, ConfigError) and "[duplicate-device-ip]" in str(done.exception)
    assert not target.exists()
