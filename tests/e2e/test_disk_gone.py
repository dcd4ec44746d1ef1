"""A training that loses a host's disk goes on by itself on a spare, from the copies on the other host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.testing.local_cluster import Cluster, eventually
from tests.e2e.trainings import write_training

STEPS = 24

pytestmark = [
    pytest.mark.mindspore,
    pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 takes a disk away (test-long)"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two hosts that work, and one that stands ready."""
    cluster = Cluster.local(tmp_path, hosts=3, devices="0")
    inventory = yaml.safe_load(cluster.inventory.read_text())
    inventory["copy"] = {"network": "127.0.0.0/8", "ports": "29740-29771"}
    inventory["groups"] = {"standby": ["host3"]}
    cluster.inventory.write_text(yaml.safe_dump(inventory))
    yield cluster
    cluster.close()


def training(cluster: Cluster, name: str) -> Path:
    """Each host has a half of every layer: nothing on one is on the other, but for its copies."""
    return write_training(
        cluster,
        name,
        hosts="host[1-2]",
        parallel={"model_parallel": 2},
        model={"preset": "tiny", "overrides": {"num_layers": 2}},
        train={"steps": STEPS, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 2},
        timeouts={"grace": 20, "failure_grace": 2},
        checkpoint={"save_steps": 4, "keep": 3, "copies": 1},
        restart={"max": 5, "spares": "standby"},
    )


def collected(cluster: Cluster, name: str) -> bytes:
    output = cluster.folder / name / "whole.ckpt"
    done = cluster.run("collect-ckpt", name, "-o", output)
    assert done.returncode == 0, done.stdout + done.stderr
    return output.read_bytes()


def copied(cluster: Cluster, name: str, host: str) -> int:
    """The newest step of a host whose copy is whole on the other one."""
    status = cluster.status(name)["hosts"].get(host, {}).get("status") or {}
    return int((status.get("copies") or {}).get("step") or 0)


def test_a_disk_that_is_gone_costs_no_step_that_was_copied(cluster: Cluster) -> None:
    whole = cluster.launch(training(cluster, "whole"))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    undisturbed = collected(cluster, "whole")
    with cluster.launching(training(cluster, "hurt")) as launch:
        eventually(lambda: len(cluster.controls()) == 2, timeout=60, what="the launch")
        both = ("host1", "host2")
        step = eventually(
            lambda: min(copied(cluster, "hurt", host) for host in both), timeout=300, what="copies"
        )
        shutil.rmtree(cluster.folder / "hosts/host2")
        out, err = launch.communicate(timeout=600)
    assert launch.returncode == 0, out + err
    first, *_, last = cluster.status("hurt")["attempts"]
    assert first["decision"]["choice"] == "replace" and first["decision"]["out"] == ["host2"]
    assert last["hosts"] == ["host1", "host3"]
    assert last["origin"][1] >= step
    assert collected(cluster, "hurt") == undisturbed
