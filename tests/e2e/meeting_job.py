"""The job of `meeting_ranks` on a cluster, and what is read of its run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.local_cluster import Cluster, processes_with
from tests.e2e import meeting_ranks

__all__ = [
    "FLOOR",
    "LONG",
    "TIMEOUTS",
    "diagnosed",
    "meeting_job",
    "process_of",
    "steps_made",
    "what_is_left",
]

FLOOR = 5.0
LONG = pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 takes every fault (test-long)")
TIMEOUTS = {"grace": 2, "prepare": 60, "unreachable": 4, "lost": 15}


def meeting_job(cluster: Cluster, kind: str, victim: int = 2, steps: int = 1000, **keys: Any) -> Path:
    """Four ranks, two on each of two hosts."""
    folder = cluster.folder / "meeting"
    folder.mkdir()
    told = "{run_dir}/metrics/rank_{rank}.jsonl"
    words = ["{rank}", "4", str(folder), told, str(steps), kind, str(victim)]
    keys = {"health": {"floor": FLOOR}, "timeouts": TIMEOUTS, **keys}
    return cluster.job(["{python}", str(Path(meeting_ranks.__file__)), *words], **keys)


def _ranks(cluster: Cluster) -> list[dict[str, Any]]:
    if not cluster.controls():
        return []
    hosts = cluster.status()["hosts"].values()
    return [rank for host in hosts if host["status"] for rank in host["status"]["ranks"]]


def steps_made(cluster: Cluster) -> list[int]:
    """The last step of each rank."""
    return [rank["progress"].get("step", 0) for rank in _ranks(cluster)]


def process_of(cluster: Cluster, number: int) -> int:
    """The pid of a rank's worker."""
    (found,) = [rank["process"]["pid"] for rank in _ranks(cluster) if rank["rank"] == number]
    return int(found)


def what_is_left(cluster: Cluster) -> dict[int, str]:
    """Processes of its runs, on any host and on the control node, but for sshd and what it serves."""
    left = processes_with(str(cluster.folder))
    return {pid: line for pid, line in left.items() if "sshd" not in line and " agent" not in line}


def diagnosed(cluster: Cluster) -> tuple[dict[str, Any], str]:
    """What `diagnose` says of the run, as data and as text."""
    data, text = cluster.run("diagnose", "--json"), cluster.run("diagnose")
    assert data.returncode == text.returncode == 0, data.stderr + text.stderr
    return json.loads(data.stdout), text.stdout
