"""A training from whose shards later runs go on, in its layout and in another, and itself from its copies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.testing.local_cluster import Cluster
from tests.e2e.trainings import write_training

pytestmark = pytest.mark.mindspore
# Of each of the two stages of the other layout; two of them, which share the moments, are of test-long.
REPLICAS = 2 if os.environ.get("REALITY") else 1
STEPS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts that have finished the first of all jobs here; a half of each layer is on each of them, and a
    copy on the other."""
    cluster = Cluster.local(tmp_path_factory.mktemp("resumed"), hosts=2)
    inventory = yaml.safe_load(cluster.inventory.read_text())
    inventory["copy"] = {"network": "127.0.0.0/8", "ports": "29700-29731"}
    cluster.inventory.write_text(yaml.safe_dump(inventory))
    # Until the copy of the last step is there the run's end is waited for; so long at most.
    copies = {"timeouts": {"grace": 240}, "checkpoint": {"save_steps": 3, "copies": 1}}
    first = cluster.launch(training(cluster, "first", **copies))
    assert first.returncode == 0, first.stdout + first.stderr
    yield cluster
    cluster.close()


def training(cluster: Cluster, name: str, **sections: Any) -> Path:
    """A job file: two ranks that share each layer, six steps."""
    usual = {
        "parallel": {"model_parallel": 2},
        "model": {"preset": "tiny", "overrides": {"num_layers": 2}},
        "train": {"steps": STEPS, "batch_size": 4, "learning_rate": 5e-3, "loss_scale": "dynamic"},
        "checkpoint": {"save_steps": 3},
    }
    return write_training(cluster, name, **{**usual, **sections})


def homes_of(cluster: Cluster, name: str) -> list[Path]:
    """The run directories of a job's newest run, by host."""
    run_id = cluster.status(name)["run_id"]
    return [cluster.folder / f"hosts/host{number}/runs" / run_id for number in (1, 2)]


def on_a_shared_path(cluster: Cluster, name: str) -> Path:
    """The shards of both hosts in one folder, the tokenizer above it; in a cluster all hosts would see it."""
    folder = cluster.folder / "earlier"
    for home in homes_of(cluster, name):
        for part in ("checkpoint", "model"):
            if (home / part).exists():
                shutil.copytree(home / part, folder / part, dirs_exist_ok=True)
    return folder / "checkpoint"


def last_shard(checkpoint: Path, rank: int) -> Path:
    return checkpoint / f"rank_{rank}/mindformers_rank_{rank}-1_{STEPS}.ckpt"


def losses(home: Path, rank: int) -> dict[int, float]:
    """By step."""
    lines = map(json.loads, (home / f"metrics/rank_{rank}.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "phase" not in line}


def test_a_training_goes_on_in_another_layout(cluster: Cluster) -> None:
    words = ("collect-ckpt", "first", "-o", "step_3.ckpt", "--step", "3", "--with-optimizer")
    done = cluster.run(*words)
    assert done.returncode == 0, done.stderr
    other = training(
        cluster,
        "other",
        devices_per_host=REPLICAS,
        parallel={
            "data_parallel": REPLICAS,
            "pipeline_stage": 2,
            "micro_batch_num": 2,
            "optimizer_shard": REPLICAS > 1,
        },
        train={"steps": STEPS, "batch_size": 4 // REPLICAS, "learning_rate": 5e-3, "loss_scale": "dynamic"},
        checkpoint={"load": "step_3.ckpt", "distribute": True, "resume": True},
    )
    done = cluster.launch(other)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = losses(homes_of(cluster, "first")[0], 0)
    found = losses(homes_of(cluster, "other")[1], 2 * REPLICAS - 1)
    assert list(found) == [4, 5, 6]
    assert found == pytest.approx({step: expected[step] for step in found}, rel=1e-4)


def test_a_run_goes_on_from_an_earlier_runs_shards(cluster: Cluster) -> None:
    earlier = on_a_shared_path(cluster, "first")
    expected = [last_shard(earlier, rank).read_bytes() for rank in (0, 1)]
    # As if it had been stopped after step 3, one rank of it while it saved step 6.
    last_shard(earlier, 1).unlink()
    second = cluster.launch(training(cluster, "second", checkpoint={"load": str(earlier), "resume": True}))
    assert second.returncode == 0, second.stdout + second.stderr
    homes = homes_of(cluster, "second")
    assert [last_shard(home / "checkpoint", rank).read_bytes() for rank, home in enumerate(homes)] == expected
    assert list(losses(homes[1], 1)) == [4, 5, 6]


def collected(cluster: Cluster, name: str) -> bytes:
    output = cluster.folder / name / "whole.ckpt"
    done = cluster.run("collect-ckpt", "first", "-o", output, "--with-optimizer")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (output.parent / f"{output.name}.strategy").is_dir()
    return output.read_bytes()


def test_a_run_whose_one_hosts_disk_is_gone_is_collected_and_goes_on_from_copies(cluster: Cluster) -> None:
    """The last, because nothing on one host is on the other but the copies."""
    status = cluster.status("first")
    copies = {name: view["status"]["copies"] for name, view in status["hosts"].items()}
    assert {name: (one["step"], one["lag"], one["keeper"]) for name, one in copies.items()} == {
        "host1": (STEPS, 0, "host2"),
        "host2": (STEPS, 0, "host1"),
    }
    before = collected(cluster, "before")
    shutil.rmtree(cluster.folder / "hosts/host1")
    assert collected(cluster, "after") == before

    done = cluster.run("resume", "first", "--set", f"train.steps={STEPS + 2}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(losses(homes_of(cluster, "first")[0], 0)) == [STEPS + 1, STEPS + 2]
