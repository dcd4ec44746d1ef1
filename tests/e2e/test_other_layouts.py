"""A training on fewer hosts and on all of them again, and one whose replicas are on different hosts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.local_cluster import Cluster
from tests.e2e.trainings import write_training

SERVICE = "orchestrate service install"
LONG = 900.0  # four processes of MindSpore begin at once, on whatever else the machine does


def training(cluster: Cluster, name: str, **sections: Any) -> Path:
    """A job file: a rank on each host, whose steps depend on nothing but the records so far."""
    dropped = {"num_layers": 2, "hidden_size": 32, "hidden_dropout_rate": 0.1}
    usual = {
        "model": {"preset": "tiny", "overrides": dropped},
        "train": {"steps": 6, "batch_size": 2, "learning_rate": 5e-3, "lr_schedule": "constant"},
        "checkpoint": {"save_steps": 2},
    }
    return write_training(cluster, name, **{**usual, **sections})


def losses(cluster: Cluster, run_id: str) -> dict[int, float]:
    """Of all attempts, by step, as the first rank tells them."""
    found: dict[int, float] = {}
    for path in sorted(cluster.folder.glob(f"hosts/*/runs/{run_id}/attempts/*/metrics/rank_0.jsonl")):
        lines = map(json.loads, path.read_text().splitlines())
        found.update({line["step"]: line["loss"] for line in lines if "phase" not in line})
    return found


@pytest.mark.mindspore
@pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 goes on in other layouts (test-long)")
def test_on_fewer_hosts_and_back_the_losses_are_those_of_all_hosts(
    local_with: Callable[..., Cluster],
) -> None:
    cluster = local_with(hosts=2, devices="0")
    done = cluster.launch(training(cluster, "whole"), timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = losses(cluster, cluster.status("whole")["run_id"])
    assert sorted(whole) == [1, 2, 3, 4, 5, 6]

    done = cluster.launch(training(cluster, "less"), "--set", "train.steps=2", timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    run_id = cluster.status("less")["run_id"]
    fewer = ("--hosts", "host2", "--set", "train.steps=4")
    done = cluster.run("resume", run_id, "-i", cluster.inventory, *fewer, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the layout of 1 rank: " in done.stderr and "train.gradient_accumulation=2" in done.stderr
    assert "cut anew, for which they take as much room here" in done.stdout
    again = ("--hosts", "all", "--set", "train.steps=6")
    done = cluster.run("resume", run_id, "-i", cluster.inventory, *again, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the layout of" not in done.stderr  # its own one
    found = losses(cluster, run_id)
    assert sorted(found) == sorted(whole)
    assert found == pytest.approx(whole, rel=1e-5)


@pytest.mark.mindspore
def test_of_replicas_on_different_hosts_one_host_has_the_whole_checkpoint(
    local_with: Callable[..., Cluster],
) -> None:
    cluster = local_with(hosts=2)
    degrees = {"data_parallel": 2, "pipeline_stage": 2, "micro_batch_num": 2, "replicas": "spread"}
    steps = {"steps": 2, "batch_size": 2, "learning_rate": 5e-3}
    model = {"preset": "tiny", "overrides": {"hidden_size": 32}}  # a layer of each stage
    job = training(cluster, "spread", devices_per_host=2, parallel=degrees, train=steps, model=model)
    done = cluster.launch(job, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(cluster.folder / "hosts/host1/runs")
    done = cluster.run("collect-ckpt", "spread", "-o", "all.ckpt", "--with-optimizer")
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = sorted(path.name for path in cluster.folder.glob("hosts/host2/runs/*/checkpoint/rank_*"))
    assert ranks == ["rank_1", "rank_3"]  # of both stages


def test_a_launch_says_that_nobody_goes_on_with_it_after_a_boot(local: Cluster) -> None:
    home = local.folder / "home"
    local.env |= {"HOME": str(home)}
    local.env.pop("XDG_CONFIG_HOME", None)
    job = local.job(["true"], restart={"max": 1})
    done = local.launch(job)
    assert done.returncode == 0 and done.stderr.count(SERVICE) == 1, done.stderr
    done = local.launch(local.job(["true"], name="once"))
    assert done.returncode == 0 and SERVICE not in done.stderr
    unit = home / ".config/systemd/user/orchestrate-monitors.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("# Written by `orchestrate service install`; `orchestrate service remove` removes it.\n")
    done = local.launch(job)
    assert done.returncode == 0 and SERVICE not in done.stderr
