"""Plans without addresses are made whole by what the hosts' tools say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.ascend.found_devices import FoundDevice, FoundHost
from orchestrator.core.errors import PreflightError
from orchestrator.plan.complete_plan import complete_plan
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job

JOB = "name: a\ntask: command\ndevices_per_host: 2\ncommand: [true]\nnetworking: {mode: rank_table}\n"


def found(host: int, *, pod: str | None = None, ip: str = "10.20.{host}.{device}") -> FoundHost:
    devices = tuple(
        FoundDevice(
            device,
            ip.format(host=host, device=device),
            "hccn_tool",
            super_device_id=str(10 * host + device) if pod else None,
        )
        for device in (0, 1)
    )
    return FoundHost(f"npu{host}", devices, "Ascend910" if pod else "910B1", pod)


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    return make_plan(job(tmp_path, JOB.replace("true", "'true'")), inventory(tmp_path))


def test_without_addresses_there_is_no_table_yet(plan: LaunchPlan) -> None:
    assert plan.rank_table is None
    assert plan.uses_rank_table and plan.ascend


def test_the_found_addresses_make_the_table(plan: LaunchPlan, tmp_path: Path) -> None:
    whole = complete_plan(plan, {"npu1": found(1), "npu2": found(2)})
    table = json.loads(whole.rank_table or "")
    assert table["version"] == "1.0"
    assert [device["device_ip"] for server in table["server_list"] for device in server["device"]] == [
        "10.20.1.0",
        "10.20.1.1",
        "10.20.2.0",
        "10.20.2.1",
    ]
    assert [placement.device_ip for placement in whole.placements][-1] == "10.20.2.1"
    write_plan(tmp_path / "plan.json", whole)
    assert read_plan(tmp_path / "plan.json") == whole


def test_a3_hosts_make_a_table_of_version_1_2(plan: LaunchPlan) -> None:
    whole = complete_plan(plan, {"npu1": found(1, pod="0"), "npu2": found(2, pod="0")})
    table = json.loads(whole.rank_table or "")
    assert table["version"] == "1.2"
    assert table["super_pod_list"] == [
        {"super_pod_id": "0", "server_list": [{"server_id": "10.0.0.1"}, {"server_id": "10.0.0.2"}]}
    ]
    assert table["server_list"][1]["device"][1] == {
        "device_id": "1",
        "super_device_id": "21",
        "device_ip": "10.20.2.1",
        "rank_id": "3",
    }


def test_what_hccl_would_refuse_is_the_hosts_fault(plan: LaunchPlan) -> None:
    same = {f"npu{host}": found(host, ip="10.20.0.{device}") for host in (1, 2)}
    with pytest.raises(PreflightError) as caught:
        complete_plan(plan, same)
    assert caught.value.exit_code == 4
    assert "10.20.0.0" in str(caught.value)


def test_the_found_port_is_put_into_every_manifest(tmp_path: Path) -> None:
    made = make_plan(job(tmp_path, JOB.replace("rank_table", "dynamic")), inventory(tmp_path))
    assert made.chooses_port
    whole = complete_plan(made, {}, port=8118)
    assert {manifest.port for manifest in whole.manifests.values()} == {8118}
