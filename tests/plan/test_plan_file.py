"""The file of a plan: what all hosts share stands once, older formats are read, mistakes have a place."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ascend.found_devices import FoundDevice, FoundHost
from orchestrator.config.inventory import Host
from orchestrator.core.codec import to_json
from orchestrator.core.errors import RunNotFound
from orchestrator.core.records import Input, Load
from orchestrator.plan.launch_plan import LaunchPlan, read_hosts, read_outline, read_plan, write_plan
from tests.plan.test_make_plan import HOSTS, TRAIN, plan

MANY = (
    HOSTS.replace("npu[1-2]", "npu[1-8]").replace("[1-2].[1-2]", "[1-8].[1-2]").replace("0.[1-2]", "0.[1-8]")
)


@pytest.fixture
def made(tmp_path: Path) -> LaunchPlan:
    """A plan of eight hosts with all there can be: own files, devices found, shards in place."""
    text = TRAIN.replace("data_parallel: 2", "data_parallel: 8")
    made = plan(tmp_path, text, MANY)
    own = Input("inputs/load/shard.ckpt", "0" * 64, executable=True)
    last = made.manifests["npu8"]
    found = {
        host.name: FoundHost(host.name, tuple(FoundDevice(device.id, device.ip) for device in host.devices))
        for host in made.hosts
    }
    return dataclasses.replace(
        made,
        manifests={**made.manifests, "npu8": dataclasses.replace(last, inputs=(*last.inputs, own))},
        found=found,
        loads={"npu1": (Load("rank_0/a.ckpt", "/work/a.ckpt", (1, 2, 3)),), "npu2": ()},
        spares=(Host("ready"), Host("ready2", port=2222)),
        origin=(1, 4),
    )


def in_format_2(plan: LaunchPlan) -> Any:
    """As the version before wrote it: each manifest whole, but for the names of hosts."""
    bare = {name: dataclasses.replace(one, hosts=()) for name, one in plan.manifests.items()}
    return {"format": 2, **to_json(dataclasses.replace(plan, manifests=bare))}


def test_a_plan_comes_back_as_it_was(tmp_path: Path, made: LaunchPlan) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, made)
    assert read_plan(path) == made
    assert read_outline(path) == dataclasses.replace(made, manifests={})
    hosts = read_hosts(path)
    assert (hosts.hosts, hosts.ssh) == (made.hosts, made.ssh)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_bytes()
    write_plan(path, read_plan(path))
    assert path.read_bytes() == written


def test_a_plan_of_format_2_is_read(tmp_path: Path, made: LaunchPlan) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(in_format_2(made)))
    assert read_plan(path) == made
    assert read_outline(path) == dataclasses.replace(made, manifests={})
    hosts = read_hosts(path)
    assert (hosts.hosts, hosts.ssh) == (made.hosts, made.ssh)


def test_what_all_hosts_share_stands_once(tmp_path: Path, made: LaunchPlan) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, made)
    text = path.read_text()
    item = made.manifests["npu1"].inputs[0]
    assert text.count(f'"{item.path}"') == 1 and text.count('"{python}"') == 2  # and the scheduler
    assert len(text) < len(json.dumps(in_format_2(made))) / 3
    again = read_plan(path)
    first, second, last = (again.manifests[name] for name in ("npu1", "npu2", "npu8"))
    assert first.inputs is second.inputs and first.inputs[0] is last.inputs[0]
    assert first.workers[0].argv is last.workers[1].argv and first.hosts is last.hosts


def test_names_and_values_of_variables_may_be_any(tmp_path: Path) -> None:
    odd = """env: {A: '"inputs": []', values: at, map: '{"rows": 1}'}"""
    made = plan(tmp_path, TRAIN.replace("env: {OMP_NUM_THREADS: 1}", odd))
    write_plan(tmp_path / "plan.json", made)
    assert read_plan(tmp_path / "plan.json") == made


@pytest.mark.parametrize("format_", [2, 3])
@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        (("timeouts", "grace"), -1, "timeouts.grace: must be greater than 0, got -1"),
        (("health", "straggler"), 1.0, "health.straggler: must be greater than 1, got 1"),
        (("restart", "max"), -2, "restart.max: must be at least 0, got -2"),
        (("restart", "wait"), 1e9, "restart.wait: must be at most 3e+08, got 1000000000"),
        (("ssh", "connect_timeout"), 0, "ssh.connect_timeout: must be greater than 0, got 0"),
        (("timeouts", "grace"), "soon", 'timeouts.grace: expected a whole number, got "soon"'),
    ],
)
def test_a_number_that_no_job_may_have_is_refused(
    tmp_path: Path, made: LaunchPlan, way: tuple[str, str], value: Any, said: str, format_: int
) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, made)
    data = in_format_2(made) if format_ == 2 else json.loads(path.read_text())
    data[way[0]][way[1]] = value
    path.write_text(json.dumps(data))
    with pytest.raises(RunNotFound, match="this run cannot be read: ") as caught:
        read_plan(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("read", [read_plan, read_outline, read_hosts])
def test_the_numbers_of_hosts_are_looked_at(tmp_path: Path, made: LaunchPlan, read: Any) -> None:
    path = tmp_path / "plan.json"
    third = made.hosts[2]
    wrong = dataclasses.replace(third.devices[1], id=-1)
    for host, said in (
        (dataclasses.replace(third, port=70000), "hosts[2].port: must be at most 65535, got 70000"),
        (dataclasses.replace(third, devices=(third.devices[0], wrong)), "hosts[2].devices[1].id: must be at"),
    ):
        write_plan(path, dataclasses.replace(made, hosts=(*made.hosts[:2], host, *made.hosts[3:])))
        with pytest.raises(RunNotFound) as caught:
            read(path)
        assert said in str(caught.value)


def _damaged(data: Mapping[str, Any], name: str, change: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, name: {**data[name], **change}}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("manifests", {"names": ["npu1"]}, "manifests: 1 names, and 8 of what they name"),
        ("manifests", {"names": [1] * 8}, "manifests.names[0]: expected a text, got 1"),
        ("placements", {"each": {"rank": [0]}}, "placements.each.host: is missing"),
        ("hosts", {"same": []}, "hosts.same: expected an object, got a list of 0"),
        ("loads", {"spans": [[0, 9], []]}, "loads.spans[0]: no spans of 1 rows"),
        ("found", {"each": {"host": ["a", 2]}}, "found.each.host[1]: expected a text, got 2"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_place(
    tmp_path: Path, made: LaunchPlan, name: str, change: Mapping[str, Any], said: str
) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, made)
    path.write_text(json.dumps(_damaged(json.loads(path.read_text()), name, change)))
    with pytest.raises(RunNotFound) as caught:
        read_plan(path)
    assert f"plan.json: this run cannot be read: {said}" in str(caught.value)


def test_a_newer_format_is_for_a_newer_version(tmp_path: Path, made: LaunchPlan) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, made)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 4}))
    for read in (read_plan, read_outline, read_hosts):
        with pytest.raises(RunNotFound, match="it has format 4, a newer version's; this one reads up to 3"):
            read(path)
