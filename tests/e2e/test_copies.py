"""A training whose one host's disk is gone: it is collected, and goes on, from the copies on the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.testing.local_cluster import Cluster
from tests.e2e.trainings import write_training

STEPS = 6

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts, each with a half of the layer, which have finished; nothing on one is on the other."""
    cluster = Cluster.local(tmp_path_factory.mktemp("copies"), hosts=2, devices="0")
    inventory = yaml.safe_load(cluster.inventory.read_text())
    inventory["copy"] = {"network": "127.0.0.0/8", "ports": "29700-29731"}
    cluster.inventory.write_text(yaml.safe_dump(inventory))
    done = cluster.launch(training(cluster))
    assert done.returncode == 0, done.stdout + done.stderr
    yield cluster
    cluster.close()


def training(cluster: Cluster) -> Path:
    return write_training(
        cluster,
        "halves",
        parallel={"model_parallel": 2},
        model={"preset": "tiny", "overrides": {"num_layers": 1}},
        train={"steps": STEPS, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 2},
        # Until the copy of the last step is there the run's end is waited for; so long at most.
        timeouts={"grace": 240},
        checkpoint={"save_steps": 3, "copies": 1},
    )


def collected(cluster: Cluster, name: str) -> bytes:
    output = cluster.folder / name / "whole.ckpt"
    done = cluster.run("collect-ckpt", "halves", "-o", output, "--with-optimizer")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (output.parent / f"{output.name}.strategy").is_dir()
    return output.read_bytes()


def test_a_run_whose_one_hosts_disk_is_gone_is_collected_and_goes_on_from_copies(cluster: Cluster) -> None:
    status = cluster.status("halves")
    copies = {name: view["status"]["copies"] for name, view in status["hosts"].items()}
    assert {name: (one["step"], one["lag"], one["keeper"]) for name, one in copies.items()} == {
        "host1": (STEPS, 0, "host2"),
        "host2": (STEPS, 0, "host1"),
    }
    before = collected(cluster, "before")
    shutil.rmtree(cluster.folder / "hosts/host1")
    assert collected(cluster, "after") == before

    done = cluster.run("resume", "halves", "--set", f"train.steps={STEPS + 2}")
    assert done.returncode == 0, done.stdout + done.stderr
    run = cluster.folder / "hosts/host1/runs" / status["run_id"]
    lines = map(json.loads, (run / "metrics/rank_0.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [STEPS + 1, STEPS + 2]
