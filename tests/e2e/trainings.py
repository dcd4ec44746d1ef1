"""Small trainings of the bundled model, and the losses that their ranks tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from orchestrator.testing.local_cluster import Cluster

__all__ = ["losses", "write_training"]

ROOT = Path(__file__).parents[2]


def write_training(cluster: Cluster, name: str, **sections: Any) -> Path:
    """A job file of the cluster: one rank a host, and a core for each, unless the sections say otherwise."""
    job = {
        "name": name,
        "task": "finetune",
        "devices_per_host": 1,
        "data": {"path": str(ROOT / "jobs/data/demo.json"), "seq_length": 48, "limit": 40},
        "env": {"OMP_NUM_THREADS": 1},
        **sections,
    }
    path = cluster.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def losses(cluster: Cluster, name: str) -> dict[int, float]:
    """The newest line of each step, of whichever rank: they read the same, and one may be killed before it
    has written what the other has saved."""
    found: dict[int, float] = {}
    pattern = f"hosts/*/runs/{name}-*/attempts/[0-9]*/metrics/rank_*.jsonl"
    for path in sorted(cluster.folder.glob(pattern), key=lambda path: int(path.parts[-3])):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        found.update({line["step"]: line["loss"] for line in lines if "loss" in line})
    return found
