"""Two SSH hosts that meet by name: a training without a rank table, and what is told of the names.

A training with a rank table beside the scheduler, on hosts that only the ssh config knows: test_ssh_runs.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.plan.launch_plan import read_plan
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.ssh_cluster import ADDRESSES
from orchestrator.testing.sshd import why_no_sshd

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
]
ROOT = Path(__file__).parents[2]
# A replica on each host.
SMALL = (
    *("devices_per_host=1", "parallel.model_parallel=1", "model.overrides.num_layers=1"),
    *("train.steps=3", "checkpoint.save_steps=3", "train.warmup_steps=1"),
)
STEPS = tuple(word for value in SMALL for word in ("--set", value))


def environments(cluster: Cluster) -> list[dict[str, str]]:
    """Those of all workers of the newest run, as its plan has them."""
    plan = read_plan(cluster.controls()[-1].plan)
    return [dict(worker.env) for manifest in plan.manifests.values() for worker in manifest.workers]


def losses(cluster: Cluster) -> dict[str, list[float]]:
    return {
        path.stem: [json.loads(line)["loss"] for line in path.read_text().splitlines() if "loss" in line]
        for path in cluster.folder.glob("hosts/*/runs/*/metrics/rank_*.jsonl")
    }


@pytest.mark.mindspore
@pytest.mark.skipif(
    not os.environ.get("REALITY"), reason="REALITY=1 trains on hosts of each kind (test-long)"
)
def test_a_training_whose_scheduler_is_on_a_host_named_by_name(hosts_at: Callable[..., Cluster]) -> None:
    cluster = hosts_at("localhost", ADDRESSES[1])
    done = cluster.launch(ROOT / "jobs/demo.yaml", *STEPS)
    assert done.returncode == 0, done.stdout + done.stderr
    found = environments(cluster)
    assert {env["MS_SCHED_HOST"] for env in found} == {"127.0.0.1"}
    assert not any("RANK_TABLE_FILE" in env for env in found)
    assert len(losses(cluster)) == 2 and {len(each) for each in losses(cluster).values()} == {3}


def test_a_name_of_the_ssh_config_becomes_an_address(hosts_at: Callable[..., Cluster]) -> None:
    aliases = {"npu-a": "127.0.0.2", "npu-b": "127.0.0.3"}
    cluster = hosts_at("npu-a", "npu-b", **aliases)
    job = cluster.job(["sh", "-c", "echo $MS_SCHED_HOST"], networking={"mode": "dynamic"})
    done = cluster.launch(job)
    assert done.returncode == 0, done.stdout + done.stderr
    said = cluster.run("logs").stdout
    assert said.count("127.0.0.2") == 4, said
    shown = cluster.run("launch", job, "-i", cluster.inventory, "--dry-run")
    assert "at the IP address that npu-a means there, which is asked at launch" in shown.stdout
    checked = cluster.run("check", "-i", cluster.inventory, "--job", job)
    assert checked.returncode == 0, checked.stdout
    assert "scheduler" in checked.stdout and "at 127.0.0.2" in checked.stdout


def test_a_rank_table_alone_is_told_at_every_turn(hosts_at: Callable[..., Cluster]) -> None:
    cluster = hosts_at("npu-a", "npu-b", **{"npu-a": ADDRESSES[0], "npu-b": ADDRESSES[1]})
    said = "legacy_rank_table starts the ranks by a rank table alone"
    keys = {"networking": {"mode": "legacy_rank_table"}, "device_target": "CPU"}
    job = cluster.job(["sh", "-c", "echo role=$MS_ROLE; cat $RANK_TABLE_FILE"], **keys)
    shown = cluster.run("launch", job, "-i", cluster.inventory, "--dry-run")
    assert f"warning: networking.mode {said}" in shown.stdout
    checked = cluster.run("check", "-i", cluster.inventory, "--job", job)
    assert checked.returncode == 0 and said in " ".join(checked.stdout.split()), checked.stdout
    done = cluster.launch(job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"orchestrate: warning: networking.mode {said}" in done.stderr
    assert done.stderr.count(said) == 1
    logs = cluster.run("logs").stdout
    assert logs.count("role=\n") == 4 and logs.count('"server_id": "npu-b"') == 4
