"""Every job and inventory that ships with the project loads, and every job is planned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.core.errors import ConfigError
from orchestrator.plan.make_plan import make_plan

ROOT = Path(__file__).parents[2]
INVENTORIES = sorted((ROOT / "inventory").glob("*.yaml"))
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
# Job -> inventory, world size.
PLANNED = {
    "command.yaml": ("local.yaml", 4),
    "demo.yaml": ("local.yaml", 4),
    "finetune_7.1b.yaml": ("ascend_12x8.yaml", 8),
    "finetune_65b.yaml": ("ascend_12x8.yaml", 96),
    "predict_7.1b.yaml": ("ascend_12x8.yaml", 8),
    "chat_7.1b.yaml": ("ascend_12x8.yaml", 8),
    "pretrain_176b.yaml": ("ascend_16x8.yaml", 128),
}


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: path.name)
def test_inventory_loads(path: Path) -> None:
    assert load_inventory(path).hosts


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_job_is_planned(path: Path) -> None:
    hosts, world_size = PLANNED[path.name]
    plan = make_plan(load_job(path), load_inventory(ROOT / "inventory" / hosts))
    assert plan.world_size == world_size
    assert plan.worker_config


@pytest.mark.parametrize("name", ["command.yaml", "demo.yaml"])
def test_jobs_for_cpus_run_over_ssh_too(name: str) -> None:
    plan = make_plan(load_job(ROOT / "jobs" / name), load_inventory(ROOT / "inventory/loopback.yaml"))
    assert [host.transport for host in plan.hosts] == ["ssh", "ssh"]


def test_jobs_for_ascend_have_a_rank_table() -> None:
    for name, (hosts, _) in PLANNED.items():
        plan = make_plan(load_job(ROOT / "jobs" / name), load_inventory(ROOT / "inventory" / hosts))
        assert (plan.rank_table is not None) == hosts.startswith("ascend"), name


def test_no_shipped_file_is_forgotten() -> None:
    assert {path.name for path in JOBS} == set(PLANNED)
    assert {"local.yaml", "loopback.yaml", "ascend_12x8.yaml"} <= {path.name for path in INVENTORIES}


def test_model_parallel_groups_stay_inside_a_host() -> None:
    for name, (hosts, _) in PLANNED.items():
        plan = make_plan(load_job(ROOT / "jobs" / name), load_inventory(ROOT / "inventory" / hosts))
        groups = {(placement.dp, placement.pp) for placement in plan.placements}
        assert len({(p.dp, p.pp, p.host) for p in plan.placements}) == len(groups), name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", "instruction,output\na,b\n", "is CSV"),
        ("data.json", '[{"instruction": "a", "output": "b"}, 3]', "record 1: must be a table"),
        ("data.json", "version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_records_that_are_here_are_read_before_a_host_is_touched(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    text = (ROOT / "jobs/demo.yaml").read_text().replace("data/demo.json", name)
    assert name in text
    (tmp_path / "job.yaml").write_text(text)
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        make_plan(load_job(tmp_path / "job.yaml"), load_inventory(ROOT / "inventory/local.yaml"))
    assert re.match(r".*job\.yaml:\d+: data\.path: ", str(caught.value)) and name in str(caught.value)


def test_prompts_that_are_here_are_read_before_a_host_is_touched(tmp_path: Path) -> None:
    text = (ROOT / "jobs/predict_7.1b.yaml").read_text()
    text = text.replace("predict:\n", "predict:\n  prompts_file: p.jsonl\n")
    (tmp_path / "job.yaml").write_text(text)
    (tmp_path / "p.jsonl").write_text('{"prompt": "\\ud800"}\n')
    with pytest.raises(ConfigError, match="half a surrogate pair"):
        make_plan(load_job(tmp_path / "job.yaml"), load_inventory(ROOT / "inventory/ascend_12x8.yaml"))
