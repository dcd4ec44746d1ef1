"""What HCCL takes of a device beside MindSpore's pool: communicators, buffers, room. Numbers by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.cli.cmd_plan import command
from orchestrator.config.job_file import load_job
from orchestrator.config.job_network import network_of
from orchestrator.core.errors import ConfigError, UsageError
from orchestrator.families.bloom import BLOOM
from orchestrator.sizing.device_memory import PoolRoom, communicators
from orchestrator.sizing.estimate import estimate, size_of
from orchestrator.sizing.step_workload import workload_of
from orchestrator.sizing.suggest import suggest

ROOT = Path(__file__).parents[2]
GIB, MIB = 2**30, 2**20


def plan(job: str, *arguments: str) -> Result:
    return CliRunner().invoke(
        command, [str(ROOT / f"jobs/{job}.yaml"), *arguments], standalone_mode=False, terminal_width=200
    )


@pytest.mark.parametrize(
    ("cut", "stage", "groups"),
    [
        (NetworkCut(BLOOM, 1, 1, 1), 0, ()),
        # A group of all ranks is the world's own.
        (NetworkCut(BLOOM, 8, 1, 1), 0, ("world",)),
        (NetworkCut(BLOOM, 1, 8, 1), 0, ("world",)),
        (NetworkCut(BLOOM, 1, 1, 2), 0, ("world",)),
        (NetworkCut(BLOOM, 1, 1, 2), 1, ("world",)),
        (NetworkCut(BLOOM, 2, 4, 1), 0, ("world", "data", "model")),
        # Only the ends of a pipeline share the table.
        (NetworkCut(BLOOM, 1, 1, 3), 0, ("world", "tied")),
        (NetworkCut(BLOOM, 1, 1, 3), 1, ("world",)),
        (NetworkCut(BLOOM, 1, 1, 3), 2, ("world", "tied")),
        (NetworkCut(BLOOM, 1, 4, 2), 1, ("world", "model", "tied")),
        (NetworkCut(BLOOM, 2, 4, 12), 0, ("world", "data", "model", "tied")),
        (NetworkCut(BLOOM, 2, 4, 12), 5, ("world", "data", "model")),
        (NetworkCut(BLOOM, 2, 4, 12), 11, ("world", "data", "model", "tied")),
    ],
)
def test_a_rank_has_the_communicators_that_its_groups_make(
    cut: NetworkCut, stage: int, groups: tuple[str, ...]
) -> None:
    assert communicators(cut, stage) == groups


@pytest.mark.mindspore
@pytest.mark.parametrize(
    "cut", [(1, 1, 1), (4, 1, 1), (2, 2, 1), (1, 1, 2), (1, 2, 2), (3, 1, 4), (2, 4, 12)]
)
def test_these_are_the_groups_that_the_model_makes(cut: tuple[int, int, int]) -> None:
    from model.parallel.mesh import Strategy

    strategy = Strategy(*cut)
    for rank in range(strategy.world_size):
        place = strategy.place(rank)
        groups = {
            "data": strategy.data_ranks(place),
            "model": strategy.model_ranks(place),
            "tied": strategy.tied_ranks(place),
        }
        made = [name for name, ranks in groups.items() if 1 < len(ranks) < strategy.world_size]
        world = ["world"] if strategy.world_size > 1 else []
        assert list(communicators(NetworkCut(BLOOM, *cut), place.pp)) == world + made


# By hand: 2 buffers × HCCL_BUFFSIZE MB × communicators, of the first stage and of the middle ones.
BUFFERS = [
    ("finetune_65b", None, 4 * 2 * 128, 3 * 2 * 128),
    ("finetune_65b", 200, 1600, 1200),
    ("pretrain_176b", None, 3 * 2 * 64, 2 * 2 * 64),
    ("finetune_7.1b", None, 3 * 2 * 200, 1200),  # the default; both stages are ends
    ("predict_7.1b", None, 1 * 2 * 200, 400),
    ("demo", None, 0, 0),  # on the CPU there is no HCCL
]


@pytest.mark.parametrize(("name", "size", "first", "middle"), BUFFERS)
def test_a_rank_of_a_shipped_job_needs_so_much_for_its_buffers(
    name: str, size: int | None, first: int, middle: int
) -> None:
    overrides = (f"env.HCCL_BUFFSIZE={size}",) if size else ()
    job = load_job(ROOT / f"jobs/{name}.yaml", overrides)
    stages = estimate(network_of(job), workload_of(job)).stages
    assert stages[0].hccl_buffers == stages[-1].hccl_buffers == first * MIB
    assert stages[len(stages) // 2].hccl_buffers == middle * MIB
    assert stages[0].on_device == stages[0].total + first * MIB  # not a part of MindSpore's pool


def test_a_job_on_one_npu_has_no_buffers() -> None:
    changes = [f"parallel.{key}=1" for key in ("model_parallel", "pipeline_stage")]
    job = load_job(ROOT / "jobs/finetune_7.1b.yaml", [*changes, "devices_per_host=1"])
    (stage,) = estimate(network_of(job), workload_of(job)).stages
    assert (stage.communicators, stage.hccl_buffers) == ((), 0)
    assert "HCCL" not in plan("finetune_7.1b", "--hbm", "1000GB", *(f"--set={item}" for item in (
        *changes, "devices_per_host=1", "max_device_memory=900GB"
    ))).output  # fmt: skip


@pytest.mark.parametrize("name", ["finetune_7.1b", "finetune_65b", "pretrain_176b"])
def test_the_shipped_jobs_leave_room_on_a_910a_and_would_not_with_mindformers_31gb(name: str) -> None:
    job = load_job(ROOT / f"jobs/{name}.yaml")
    made = estimate(network_of(job), workload_of(job))
    assert job.max_device_memory is not None
    buffer = workload_of(job).hccl_buffer
    assert made.room(size_of(job.max_device_memory), 32 * GIB, buffer).left >= 512 * MIB  # for CANN itself
    assert made.room(size_of("31GB"), 32 * GIB, 200 * MIB).left < 0


@pytest.mark.parametrize(
    ("limit", "needed", "count", "buffer", "left", "pool_gb", "buffer_mb"),
    [
        # 32 GiB - 31 GiB - 4 × 2 × 200 MiB; 32 GiB - 1600 MiB is 30.4 GiB; 1024 MiB / 8 is 128: nothing left.
        (31 * GIB, 26 * GIB, 4, 200 * MIB, -576 * MIB, 30, 64),
        # 30 GB would be too little for what is needed; 1024 MiB / 6 is 170.
        (31 * GIB, 30 * GIB + 1, 3, 200 * MIB, -176 * MIB, 0, 128),
        (30 * GIB, 26 * GIB, 4, 128 * MIB, GIB, 30, 128),
        (32 * GIB, 26 * GIB, 4, 200 * MIB, -1600 * MIB, 30, 0),
        (33 * GIB, 32 * GIB, 1, MIB, -1026 * MIB, 0, 0),
    ],
)
def test_the_room_beside_a_pool(
    limit: int, needed: int, count: int, buffer: int, left: int, pool_gb: int, buffer_mb: int
) -> None:
    room = PoolRoom(limit, needed, count, buffer, hbm=32 * GIB)
    assert (room.left, room.pool_gb, room.buffer_mb) == (left, pool_gb, buffer_mb)


def test_a_pool_that_leaves_too_little_is_told_with_what_to_do() -> None:
    old = ("--set=max_device_memory=31GB", "--set=env.HCCL_BUFFSIZE=200")
    done = plan("finetune_65b", *old, "--hbm", "32GB")
    assert done.return_value == 0  # the pool may never grow so far
    assert (
        "HCCL's buffers 1.56 GiB of a rank (stage 0), outside MindSpore's memory: "
        "world, data, model, tied, 2 × 200 MB each "
        "whole device 32.00 GiB: max_device_memory leaves HCCL 576.00 MiB too little; use "
        "max_device_memory: 30GB or HCCL_BUFFSIZE: 64 "
    ) in " ".join([*done.output.split(), ""])
    done = plan("pretrain_176b", *old, "--hbm", "32GB")  # needs 30.2 GiB: 30GB is no way out
    assert "leaves HCCL 176.00 MiB too little; use HCCL_BUFFSIZE: 128" in " ".join(done.output.split())
    done = plan("finetune_65b", *old)
    assert "whole device must have more than 32.56 GiB; --hbm judges it" in " ".join(done.output.split())


def test_ranks_that_fit_only_without_their_buffers_fail() -> None:
    arguments = ("--set=env.HCCL_BUFFSIZE=400", "--hbm", "32GB")
    done = plan("pretrain_176b", *arguments)  # 30.2 GiB and 3 × 2 × 400 MB
    assert isinstance(done.exception, ConfigError)
    assert "parallel: a rank of stage 0 needs 32.5 GiB with HCCL's buffers, a device has 32.0 GiB" in str(
        done.exception
    )
    job = load_job(ROOT / "jobs/pretrain_176b.yaml", ["env.HCCL_BUFFSIZE=400"])
    network, workload = network_of(job), workload_of(job)
    fitting = suggest(network, workload, 31 * GIB, hbm=64 * GIB, most=1000)
    assert fitting and suggest(network, workload, 31 * GIB, hbm=32 * GIB, most=1000) == [
        item for item in fitting if item.estimate.most_on_device.on_device <= 32 * GIB
    ]
    without = replace(workload, hccl_buffer=0)
    assert estimate(network, without).fits(31 * GIB, 32 * GIB)


def test_the_json_has_the_buffers_of_each_stage() -> None:
    data = json.loads(plan("finetune_65b", "--json", "--hbm", "32GB").stdout)
    first, second = data["estimate"]["stages"][:2]
    assert data["hbm"] == 32 * GIB
    assert first["communicators"] == ["world", "data", "model", "tied"]
    assert (first["hccl_buffers"], second["hccl_buffers"]) == (1024 * MIB, 768 * MIB)


@pytest.mark.parametrize(
    ("chips", "hbm"), [(("910A", "910B3"), 32), (("910B", None), 64), (("A3", "A3"), 64)]
)
def test_the_devices_of_an_inventory_are_known_by_their_chip(
    tmp_path: Path, chips: tuple[str | None, ...], hbm: int
) -> None:
    hosts = [
        f"  - {{name: npu{n}, devices: 0-7{f', chip: {chip}' if chip else ''}}}"
        for n, chip in enumerate(chips)
    ]
    (tmp_path / "hosts.yaml").write_text("\n".join(["hosts:", *hosts, "groups: {none: npu1}"]) + "\n")
    arguments = ("--json", "-i", str(tmp_path / "hosts.yaml"), "--set=host_count=null")
    assert json.loads(plan("finetune_7.1b", *arguments).stdout)["hbm"] == hbm * GIB
    one = plan("finetune_7.1b", *arguments, "--set=hosts=npu1")
    assert json.loads(one.stdout)["hbm"] == (
        hbm * GIB if chips[1] == "A3" else 64 * GIB if chips[1] else None
    )
    with pytest.raises(ConfigError, match="no host or group"):
        raise plan("finetune_7.1b", *arguments, "--set=hosts=npu7").exception or AssertionError


def test_sizes_that_are_none_are_refused() -> None:
    done = plan("finetune_65b", "--hbm", "much")
    assert isinstance(done.exception, UsageError) and "--hbm: 'much' is no size" in str(done.exception)
    done = plan("finetune_65b", "--set=env.HCCL_BUFFSIZE=0")
    assert isinstance(done.exception, ConfigError)
    assert "env.HCCL_BUFFSIZE: is '0' (set it to 1 to 2147483647)" in str(done.exception)


def test_the_inventory_is_read_and_judged_whatever_else_is_given(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yaml"
    for more in ((), ("--hbm", "32GB")):
        done = plan("finetune_65b", "-i", str(inventory), *more)
        assert isinstance(done.exception, ConfigError) and "no such file" in str(done.exception)
    inventory.write_text(f"hosts:\n{entry('1-12', ', chip: 910B')}")
    done = plan("finetune_65b", "-i", str(inventory), "--set", "hosts=[m1]")
    assert "--set hosts: " in str(done.exception) and "m1" in str(done.exception)
    inventory.write_text(f"hosts:\n{entry('1-12')}")
    done = plan("finetune_65b", "-i", str(inventory))
    note = f"orchestrate: note: {{}} without `chip:` in {inventory}: "
    assert done.stderr == note.format("n[1-12]") + "nothing is judged; give --hbm\n"
    inventory.write_text(f"hosts:\n{entry('1-11')}{entry('12-13', ', chip: 910B')}")
    done = plan("finetune_65b", "-i", str(inventory))
    assert done.stderr == note.format("n[1-11]") + "are judged as the others\n"


def entry(numbers: str, more: str = "") -> str:
    return f"  - {{name: 'n[{numbers}]', address: '10.0.1.[{numbers}]', devices: 0-7{more}}}\n"


def test_who_has_no_hccl_is_told_nothing_of_its_buffers() -> None:
    on_cpus = ("--set=device_target=CPU", "--set=networking.mode=dynamic", "--memory", "31GB")
    done = plan("pretrain_176b", *on_cpus, "--hbm", "8GB")
    assert isinstance(done.exception, ConfigError)
    assert "a device has 8.0 GiB" in str(done.exception) and "HCCL" not in str(done.exception)
