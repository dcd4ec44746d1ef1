"""Which rank goes where, and when none can."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.inventory import Device, Host, Inventory
from orchestrator.config.job import Job
from orchestrator.core.errors import ConfigError
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.placement import groups_between_hosts, place
from tests.config.support import JOB, inventory, job, lines_of


def _cluster(hosts: int, devices: int) -> Inventory:
    each = tuple(Device(id=number) for number in range(devices))
    return Inventory(path=Path("x"), hosts=tuple(Host(name=f"n{i}", devices=each) for i in range(hosts)))


def _job(dp: int, mp: int, pp: int, per_host: int) -> Job:
    parallel = {"data_parallel": dp, "model_parallel": mp, "pipeline_stage": pp}
    data = {"name": "x", "task": "command", "command": ("x",), "devices_per_host": per_host}
    return Job.model_validate({**data, "parallel": parallel})


def test_rank_order(tmp_path: Path) -> None:
    placements = place(job(tmp_path), inventory(tmp_path))
    shown = [(p.rank, p.host, p.local_rank, p.device_id, p.dp, p.mp, p.pp) for p in placements]
    assert shown == [
        (0, "npu1", 0, 0, 0, 0, 0),
        (1, "npu1", 1, 1, 0, 1, 0),
        (2, "npu2", 0, 0, 1, 0, 0),
        (3, "npu2", 1, 1, 1, 1, 0),
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.sampled_from([1, 2, 4, 8]))
def test_every_coordinate_once_and_model_parallel_inside_a_host(
    dp: int, mp: int, pp: int, per_host: int
) -> None:
    world = dp * mp * pp
    if world % per_host:
        return
    placements = place(_job(dp, mp, pp, per_host), _cluster(world // per_host, 8))
    assert [p.rank for p in placements] == list(range(world))
    assert all(p.rank == p.pp * dp * mp + p.dp * mp + p.mp for p in placements)
    assert len({(p.dp, p.mp, p.pp) for p in placements}) == world
    assert len({(p.host, p.device_id) for p in placements}) == world
    if per_host % mp == 0:
        assert len({(p.dp, p.pp, p.host) for p in placements}) == dp * pp


def test_the_first_devices_of_a_host_are_taken_with_their_addresses(tmp_path: Path) -> None:
    text = "hosts:\n  - {name: a, devices: 4-7, device_ips: '10.0.0.[4-7]'}\n"
    command = "name: c\ntask: command\ndevices_per_host: 2\ncommand: [x]\n"
    placements = place(job(tmp_path, command), inventory(tmp_path, text))
    assert [(p.device_id, p.device_ip, p.dp) for p in placements] == [(4, "10.0.0.4", 0), (5, "10.0.0.5", 1)]


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (
            ["devices_per_host=1"],
            [
                "job.yaml:4: parallel: data_parallel 2 × model_parallel 2 × pipeline_stage 1 = 4, but "
                "2 hosts × 1 devices_per_host = 2 (both sides must be equal)"
            ],
        ),
        (
            ["devices_per_host=4"],
            [
                "--set devices_per_host: 4 ranks wanted on npu[1-2], which has 2 devices "
                "(lower it, or choose other hosts)",
                "job.yaml:4: parallel: data_parallel 2 × model_parallel 2 × pipeline_stage 1 = 4, but "
                "2 hosts × 4 devices_per_host = 8 (both sides must be equal)",
            ],
        ),
        (
            ["host_count=3"],
            [
                "job.yaml:1: hosts: 3 host(s) are asked for, but 'all' has 2: npu[1-2] in hosts.yaml "
                "(lower host_count or add hosts to the inventory)"
            ],
        ),
        (
            ["hosts=npu[1-3]"],
            ["--set hosts: no host or group 'npu3' in hosts.yaml (did you mean `npu2`?)"],
        ),
        (
            ["networking.mode=none"],
            ["--set networking.mode: mode none cannot join 4 ranks (use dynamic or rank_table)"],
        ),
    ],
)
def test_jobs_that_do_not_fit(tmp_path: Path, overrides: list[str], lines: list[str]) -> None:
    made, hosts = job(tmp_path, JOB, *overrides), inventory(tmp_path)
    assert lines_of(tmp_path, lambda: place(made, hosts)) == lines


@pytest.mark.parametrize(
    ("parallel", "degrees"),
    [
        ("", (4, 1, 1)),
        ("parallel: {model_parallel: 2}\n", (2, 2, 1)),
        ("parallel: {model_parallel: 2, pipeline_stage: 2}\n", (1, 2, 2)),
        ("parallel: {optimizer_shard: true}\n", (4, 1, 1)),
    ],
)
def test_replicas_that_are_left_out_are_what_is_left(
    tmp_path: Path, parallel: str, degrees: tuple[int, int, int]
) -> None:
    line = "parallel: {data_parallel: 2, model_parallel: 2}\n"
    assert line in JOB
    made = make_plan(job(tmp_path, JOB.replace(line, parallel)), inventory(tmp_path))
    told = yaml.safe_load(made.worker_config)["parallel"]
    assert (told["data_parallel"], told["model_parallel"], told["pipeline_stage"]) == degrees
    assert {(item.dp, item.mp, item.pp) for item in made.placements} == set(
        itertools.product(*map(range, degrees))
    )
    assert any("data_parallel is left out: it is" in note for note in made.notes) == (degrees[0] > 1)


@pytest.mark.parametrize("parallel", ["{model_parallel: 3}", "{data_parallel: 1, model_parallel: 2}"])
def test_degrees_that_do_not_divide_the_ranks_are_refused_as_before(tmp_path: Path, parallel: str) -> None:
    text = JOB.replace("{data_parallel: 2, model_parallel: 2}", parallel)
    servers = inventory(tmp_path)
    assert (
        "both sides must be equal" in lines_of(tmp_path, lambda: make_plan(job(tmp_path, text), servers))[0]
    )


def test_a_chat_has_no_replicas(tmp_path: Path) -> None:
    text = "name: c\ntask: chat\ndevices_per_host: 2\nmodel: {preset: tiny}\nchat: {top_k: 1}\n"
    loaded = job(tmp_path, text + "checkpoint: {load: /w.ckpt}\n")
    servers = inventory(tmp_path)
    with pytest.raises(ConfigError, match="both sides must be equal"):
        make_plan(loaded, servers)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.sampled_from([1, 2, 4, 8]))
def test_spread_replicas_have_every_slice_on_two_hosts(dp: int, mp: int, pp: int, per_host: int) -> None:
    world = dp * mp * pp
    if world % per_host or world == per_host or (per_host % mp and mp % per_host):
        return
    made = _job(dp, mp, pp, per_host)
    spread = made.model_copy(update={"parallel": replace(made.parallel, replicas="spread")})
    placements = place(spread, _cluster(world // per_host, 8))
    assert [p.rank for p in placements] == list(range(world))
    assert all(p.rank == p.pp * dp * mp + p.dp * mp + p.mp for p in placements)
    assert len({(p.host, p.device_id) for p in placements}) == world
    where: dict[tuple[int, int], set[str]] = {}
    for p in placements:
        where.setdefault((p.pp, p.mp), set()).add(p.host)
    assert min(map(len, where.values())) > 1
    if per_host % mp == 0:  # model-parallel groups stay inside a host
        assert len({(p.dp, p.pp, p.host) for p in placements}) == dp * pp
    for host in {p.host for p in placements}:  # MindSpore counts the ranks of a host so
        local = [p.local_rank for p in placements if p.host == host]
        assert local == list(range(per_host))
    packed = place(made, _cluster(world // per_host, 8))
    for one, is_spread in ((placements, True), (packed, False)):
        at = {(p.pp, p.dp, p.mp): p.host for p in one}
        data = any(at[s, 0, m] != at[s, d, m] for s, d, m in at)
        stages = any(s and at[s, d, m] != at[s - 1, d, m] for s, d, m in at)
        assert groups_between_hosts(made.parallel, per_host, spread=is_spread) == (data, stages)


SPREAD = {
    "name": "x",
    "task": "command",
    "command": ["x"],
    "devices_per_host": 4,
    "networking": {"mode": "dynamic"},
    "parallel": {"data_parallel": 2, "model_parallel": 2, "pipeline_stage": 2, "replicas": "spread"},
}


@pytest.mark.parametrize(
    ("hosts", "changes", "what"),
    [
        (1, {"devices_per_host": 8}, "needs two hosts"),
        (2, {"parallel": {"pipeline_stage": 8, "replicas": "spread"}}, "data_parallel is 1"),
        (2, {"parallel": {**SPREAD["parallel"], "optimizer_shard": True}}, "no optimizer state"),
        (2, {"networking": {"mode": "rank_table"}}, "a rank table must not have"),
    ],
)
def test_replicas_that_cannot_be_spread_are_refused(hosts: int, changes: dict, what: str) -> None:
    with pytest.raises(ConfigError, match=f"spread .*{what}"):
        place(Job.model_validate({**SPREAD, **changes}), _cluster(hosts, 8))
    assert place(Job.model_validate(SPREAD), _cluster(2, 8))


def test_workers_are_not_told_where_replicas_are(tmp_path: Path) -> None:
    made = make_plan(
        job(tmp_path, JOB, "parallel.replicas=spread", "networking.mode=dynamic"), inventory(tmp_path)
    )
    assert "replicas" not in yaml.safe_load(made.worker_config)["parallel"]
