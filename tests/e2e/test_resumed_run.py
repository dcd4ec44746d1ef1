"""A training that goes on from the shards of an earlier run, through `orchestrate launch`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.local_cluster import Cluster
from tests.e2e.trainings import write_training

pytestmark = pytest.mark.mindspore
# Of each of the two stages of the other layout; two of them, which share the moments, are of test-long.
REPLICAS = 2 if os.environ.get("REALITY") else 1


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One host, which has finished the first of all jobs here."""
    cluster = Cluster.local(tmp_path_factory.mktemp("resumed"), hosts=1, devices="0-3")
    first = cluster.launch(training(cluster, "first"))
    assert first.returncode == 0, first.stdout + first.stderr
    yield cluster
    cluster.close()


def training(cluster: Cluster, name: str, **sections: Any) -> Path:
    """A job file: two ranks that share each layer, six steps."""
    usual = {
        "devices_per_host": 2,
        "parallel": {"model_parallel": 2},
        "model": {"preset": "tiny", "overrides": {"num_layers": 2}},
        "train": {"steps": 6, "batch_size": 4, "learning_rate": 5e-3, "loss_scale": "dynamic"},
        "checkpoint": {"save_steps": 3},
    }
    return write_training(cluster, name, **{**usual, **sections})


def home_of(cluster: Cluster, name: str) -> Path:
    """The run directory of a job's newest run."""
    return cluster.folder / "hosts/host1/runs" / cluster.status(name)["run_id"]


def last_shards(checkpoint: Path) -> dict[int, bytes]:
    return {
        rank: (checkpoint / f"rank_{rank}/mindformers_rank_{rank}-1_6.ckpt").read_bytes() for rank in (0, 1)
    }


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
        devices_per_host=2 * REPLICAS,
        parallel={
            "data_parallel": REPLICAS,
            "pipeline_stage": 2,
            "micro_batch_num": 2,
            "optimizer_shard": REPLICAS > 1,
        },
        train={"steps": 6, "batch_size": 4 // REPLICAS, "learning_rate": 5e-3, "loss_scale": "dynamic"},
        checkpoint={"load": "step_3.ckpt", "distribute": True, "resume": True},
    )
    done = cluster.launch(other)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, found = (
        losses(home_of(cluster, "first"), 0),
        losses(home_of(cluster, "other"), 2 * REPLICAS - 1),
    )
    assert list(found) == [4, 5, 6]
    assert found == pytest.approx({step: expected[step] for step in found}, rel=1e-4)


def test_a_run_goes_on_from_an_earlier_runs_shards(cluster: Cluster) -> None:
    earlier = home_of(cluster, "first") / "checkpoint"
    expected = last_shards(earlier)
    # As if it had been stopped after step 3, one rank of it while it saved step 6.
    (earlier / "rank_1/mindformers_rank_1-1_6.ckpt").unlink()
    second = cluster.launch(training(cluster, "second", checkpoint={"load": str(earlier), "resume": True}))
    assert second.returncode == 0, second.stdout + second.stderr
    run = home_of(cluster, "second")
    assert last_shards(run / "checkpoint") == expected
    assert list(losses(run, 1)) == [4, 5, 6]
