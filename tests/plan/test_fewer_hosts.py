"""A job on fewer hosts, and back on all: which layouts keep the global batch, and which counts fit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.inventory import Device, Host, Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job, load_job_again
from orchestrator.config.job_network import network_of
from orchestrator.control.launch import plan_launch
from orchestrator.core.errors import ConfigError
from orchestrator.plan.fewer_hosts import (
    fitting_counts,
    global_batch,
    global_batch_of,
    job_on,
    require_min_hosts,
)
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan, saved_layout
from orchestrator.sizing.estimate import size_of
from orchestrator.sizing.step_workload import workload_of
from orchestrator.sizing.suggest import suggest
from tests.plan.test_next_plan import INVENTORY, JOB

FOUR = {**JOB, "host_count": 4, "parallel": {"data_parallel": 4, "model_parallel": 2}}
COMMAND = {"name": "c", "task": "command", "command": ["x"], "host_count": 4, "devices_per_host": 2}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    inventory = {**INVENTORY, "hosts": [{"name": "host[1-6]"}]}
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "data.json").write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}]))
    return tmp_path


def loaded(files: Path, base: dict[str, Any], **changes: Any) -> Job:
    (files / "job.yaml").write_text(yaml.safe_dump({**base, **changes}))
    return load_job(files / "job.yaml")


def hosts_of(files: Path, *numbers: int) -> tuple[Host, ...]:
    names = {f"host{number}" for number in numbers}
    return tuple(host for host in load_inventory(files / "inventory.yaml").hosts if host.name in names)


def layout(job: Job):
    assert job.train is not None
    degrees = (job.parallel.data_parallel, job.parallel.model_parallel, job.parallel.pipeline_stage)
    return degrees, job.train.batch_size, job.train.gradient_accumulation


def test_on_half_the_hosts_each_replica_computes_twice_as_often(files: Path) -> None:
    job = loaded(files, FOUR)
    batch = global_batch_of(job, 8)
    found = job_on(job, hosts_of(files, 2, 4), batch)
    assert (found.hosts, found.host_count) == (("host2", "host4"), None)
    assert batch == 64 and layout(found) == ((2, 2, 1), 32, 2)
    assert found.source is job.source  # so that all hosts get what was written again


def test_a_replica_count_that_was_left_out_keeps_the_batch_of_all_hosts(files: Path) -> None:
    job = loaded(files, FOUR, parallel={"model_parallel": 2})
    found = job_on(job, hosts_of(files, 1, 2), global_batch_of(job, 8))
    assert layout(found) == ((2, 2, 1), 32, 2)


def test_with_the_memory_of_a_device_known_the_first_suggestion_is_taken(files: Path) -> None:
    job = loaded(files, FOUR, max_device_memory="1GB")
    found = job_on(job, hosts_of(files, 1, 2), 64)
    # Four ranks: replicas of the whole network send least.
    assert layout(found)[0] == (4, 1, 1) and layout(found)[1] == 16
    assert found.parallel.optimizer_shard
    words = ("host_count=2", "parallel.data_parallel=2", "train.batch_size=32")
    by_hand = load_job(files / "job.yaml", words)
    best, *_ = suggest(network_of(by_hand), workload_of(by_hand), size_of("1GB"))
    assert (best.workload.cut.data_parallel, best.workload.cut.model_parallel) == layout(found)[0][:2]
    assert (best.workload.batch_size, best.workload.recompute) == (16, found.train.recompute)


def test_a_batch_that_does_not_divide_leaves_a_count_out(files: Path) -> None:
    odd = {"steps": 5, "batch_size": 3}
    job = loaded(files, FOUR, devices_per_host=1, parallel={"data_parallel": 4}, train=odd)
    # 12 records of a step: by 1, 2 and 3 hosts, each with a replica or with a stage.
    inventory = load_inventory(files / "inventory.yaml")
    assert fitting_counts(job, inventory) == (4,)  # min_hosts is not given: only with all
    some = loaded(
        files, FOUR, devices_per_host=1, parallel={"data_parallel": 4}, train=odd, restart={"min_hosts": 1}
    )
    assert fitting_counts(some, inventory) == (1, 2, 3, 4)
    five = {"steps": 5, "batch_size": 1}
    overrides = {"num_layers": 1, "num_heads": 1}  # no stages, nothing to cut
    some = loaded(
        files,
        FOUR,
        devices_per_host=1,
        parallel={"data_parallel": 4},
        train=five,
        model={"preset": "tiny", "overrides": overrides},
        restart={"min_hosts": 1},
    )
    assert fitting_counts(some, inventory) == (1, 2, 4)
    with pytest.raises(ConfigError, match="no layout of 3 ranks keeps the global batch of 4 records"):
        job_on(some, hosts_of(files, 1, 2, 3), 4)


def test_a_program_gets_fewer_ranks_and_its_model_groups_stay(files: Path) -> None:
    job = loaded(files, COMMAND, restart={"max": 1, "min_hosts": 1})
    inventory = load_inventory(files / "inventory.yaml")
    assert fitting_counts(job, inventory) == (1, 2, 3, 4)
    assert make_plan(job_on(job, hosts_of(files, 1, 3), None), inventory).world_size == 4
    cut = loaded(files, COMMAND, parallel={"data_parallel": 2, "pipeline_stage": 4}, restart={"min_hosts": 1})
    assert fitting_counts(cut, inventory) == (2, 4)
    assert job_on(cut, hosts_of(files, 1, 3), None).parallel.data_parallel == 1


def test_a_policy_that_could_not_be_kept_is_refused_at_launch(files: Path) -> None:
    tiny = {"preset": "tiny", "overrides": {"num_layers": 1, "num_heads": 1}}
    job = {
        **FOUR,
        "devices_per_host": 1,
        "parallel": {"data_parallel": 4},
        "train": {"steps": 5, "batch_size": 1},
        "model": tiny,
    }
    loaded(files, job, restart={"max": 2, "min_hosts": 3})
    line = next(
        number
        for number, text in enumerate((files / "job.yaml").read_text().splitlines(), 1)
        if "min_hosts" in text
    )
    where = rf"job\.yaml:{line}: restart\.min_hosts: 3: no layout of 3 ranks .*would do: 1-2,4"
    with pytest.raises(ConfigError, match=where):
        plan_launch(files / "job.yaml", files / "inventory.yaml")
    loaded(files, job, restart={"max": 2, "min_hosts": 2})
    plan_launch(files / "job.yaml", files / "inventory.yaml")


def test_more_hosts_than_the_job_has_are_refused(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"min_hosts: must be at most host_count 4, got 5"):
        loaded(files, FOUR, restart={"max": 1, "min_hosts": 5})
    job = loaded(files, {**COMMAND, "host_count": None}, restart={"max": 1, "min_hosts": 7})
    with pytest.raises(ConfigError, match=r"min_hosts: must be at most 6, the hosts of the job, got 7"):
        require_min_hosts(job, load_inventory(files / "inventory.yaml"))


def test_the_run_goes_on_with_fewer_and_grows_back(files: Path) -> None:
    inventory = load_inventory(files / "inventory.yaml")
    first = make_plan(loaded(files, FOUR, restart={"max": 3, "min_hosts": 2}), inventory, now=1.0)
    job = load_job_again(first.job)
    batch = global_batch(first.worker_settings)
    fewer = next_plan(first, job_on(job, hosts_of(files, 1, 3), batch), inventory)
    assert [host.name for host in fewer.hosts] == ["host1", "host3"] and fewer.world_size == 4
    assert global_batch(fewer.worker_settings) == batch == 64
    assert saved_layout(fewer) != saved_layout(first)
    # From the record of the smaller attempt alone, with a spare in the place of a host that is gone.
    again = load_job_again(fewer.job)
    hosts = hosts_of(files, 1, 2, 3, 5)
    whole = next_plan(fewer, job_on(again, hosts, global_batch(fewer.worker_settings)), inventory)
    assert saved_layout(whole) == saved_layout(first) and whole.attempt.number == 3
    assert whole.worker_settings["train"] == first.worker_settings["train"]
    assert [host.name for host in whole.hosts] == ["host1", "host2", "host3", "host5"]


def test_hundreds_of_hosts_are_judged_in_a_moment(files: Path) -> None:
    hosts = tuple(Host(name=f"n{i}", devices=tuple(Device(id=d) for d in range(8))) for i in range(256))
    job = loaded(
        files,
        JOB,
        host_count=256,
        devices_per_host=8,
        model={"preset": "7.1b"},
        data={"path": "/data/x.json", "tokenizer": "/data/tokenizer.json"},
        max_device_memory="59GB",
        parallel={"data_parallel": 512, "model_parallel": 4, "micro_batch_num": 2},
        train={"steps": 5, "batch_size": 2, "recompute": True},
        restart={"max": 1, "min_hosts": 192},
    )
    began = time.process_time()
    counts = fitting_counts(job, Inventory(path=Path("x"), hosts=hosts))
    assert counts[-1] == 256 and 192 in counts
    assert time.process_time() - began < 60
