"""A training that goes on from the shards of an earlier run, through `orchestrate launch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import Cluster

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.mindspore


def training(cluster: Cluster, name: str, **sections: Any) -> Path:
    """A job file: two ranks that share each layer, six steps."""
    job = {
        "name": name,
        "task": "finetune",
        "devices_per_host": 2,
        "parallel": {"model_parallel": 2},
        "model": {"preset": "tiny", "overrides": {"num_layers": 1}},
        "data": {"path": str(ROOT / "jobs/data/demo.json"), "seq_length": 48, "limit": 40},
        "train": {"steps": 6, "batch_size": 4, "learning_rate": 5e-3, "loss_scale": "dynamic"},
        "checkpoint": {"save_steps": 3},
        "env": {"OMP_NUM_THREADS": 1},
        **sections,
    }
    path = cluster.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def last_shards(checkpoint: Path) -> dict[int, bytes]:
    return {
        rank: (checkpoint / f"rank_{rank}/mindformers_rank_{rank}-1_6.ckpt").read_bytes() for rank in (0, 1)
    }


def test_a_run_goes_on_from_an_earlier_runs_shards(local_with: Callable[..., Cluster]) -> None:
    cluster = local_with(hosts=1)
    runs = cluster.folder / "hosts/host1/runs"
    first = cluster.launch(training(cluster, "first"))
    assert first.returncode == 0, first.stdout + first.stderr
    earlier = runs / cluster.status()["run_id"] / "checkpoint"
    expected = last_shards(earlier)
    # As if it had been stopped after step 3, one rank of it while it saved step 6.
    (earlier / "rank_1/mindformers_rank_1-1_6.ckpt").unlink()
    second = cluster.launch(training(cluster, "second", checkpoint={"load": str(earlier), "resume": True}))
    assert second.returncode == 0, second.stdout + second.stderr
    run = runs / cluster.status()["run_id"]
    assert last_shards(run / "checkpoint") == expected
    assert (run / "metrics/rank_1.jsonl").read_text().startswith('{"step": 4,')
