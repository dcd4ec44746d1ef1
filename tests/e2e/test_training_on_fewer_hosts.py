"""A training on four hosts, one of which goes: on with fewer, back to four, and the losses stay the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.local_cluster import Cluster, eventually
from orchestrator.testing.ssh_cluster import inventory_of
from orchestrator.testing.sshd import Sshd, why_no_sshd
from tests.e2e.trainings import losses, write_training

STEPS = 160
pytestmark = [
    pytest.mark.mindspore,
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
    pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 trains on four hosts (test-long)"),
]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Sshd]]:
    with ExitStack() as stack:
        started = [Sshd(tmp_path / f"sshd{index}") for index in range(4)]
        for server in started:
            stack.callback(server.stop)
        yield started


@pytest.fixture
def four(tmp_path: Path, servers: list[Sshd]) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, inventory_of(tmp_path, servers, devices="0"))
    yield cluster
    cluster.close()


def training(cluster: Cluster, name: str, **sections: Any) -> Path:
    """A rank on each host; its steps depend on nothing but the records so far."""
    dropped = {"num_layers": 2, "hidden_size": 32, "hidden_dropout_rate": 0.1}
    return write_training(
        cluster,
        name,
        model={"preset": "tiny", "overrides": dropped},
        train={"steps": STEPS, "batch_size": 2, "learning_rate": 5e-3, "lr_schedule": "constant"},
        checkpoint={"save_steps": 2, "keep": 4},
        timeouts={"unreachable": 5, "grace": 2},
        **sections,
    )


def worker_of(cluster: Cluster, host: str) -> int | None:
    """The process of the host's rank, where one runs."""
    status = cluster.status("fewer")["hosts"].get(host, {}).get("status") or {"ranks": []}
    running = [rank for rank in status["ranks"] if rank["state"] == "running" and rank["process"]]
    return running[0]["process"]["pid"] if running else None


def waited_for(cluster: Cluster, attempt: int, steps: int) -> int:
    """Once the attempt has made some steps, the process of the last host's rank."""

    def has_made() -> bool:
        return len(_steps_of(cluster, attempt)) >= steps

    eventually(has_made, timeout=400, what=f"steps of attempt {attempt}")
    return eventually(lambda: worker_of(cluster, "node2"), timeout=60, what="its process")


def _steps_of(cluster: Cluster, attempt: int) -> set[int]:
    paths = cluster.folder.glob(f"hosts/*/runs/fewer-*/attempts/{attempt}/metrics/rank_*.jsonl")
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines() if line[-1:] == "}"]
    return {line["step"] for line in lines if "loss" in line}


def test_four_hosts_fewer_and_four_again_have_the_losses_of_four(four: Cluster, servers: list[Sshd]) -> None:
    done = four.launch(training(four, "whole"), timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr

    job = training(four, "fewer", restart={"max": 9, "min_hosts": 1})
    with four.launching(job, "--detach") as launch:
        assert launch.wait(180) == 0, launch.stderr
    waited_for(four, 1, 5)
    gone = eventually(lambda: worker_of(four, "node5"), timeout=60, what="its process")
    servers[3].vanish()
    os.kill(gone, signal.SIGKILL)  # the machine is gone, not only the way to it

    waited_for(four, 2, 5)
    first = four.status("fewer")["attempts"][0]["decision"]
    assert first["choice"] == "fewer", first
    ranks = four.status("fewer")["world_size"]
    assert ranks < 4
    servers[3].start_again()
    back = ("held", "ready")
    eventually(
        lambda: four.status("fewer")["spares"]["node5"]["state"] in back, timeout=300, what="it is back"
    )
    os.kill(waited_for(four, 2, 8), signal.SIGKILL)

    eventually(lambda: four.status("fewer")["state"] == "succeeded", timeout=900, what="the end")
    assert four.status("fewer")["world_size"] == 4
    assert sorted(four.status("fewer")["attempts"], key=lambda each: each["number"])[-1]["number"] == 3
    found, whole = losses(four, "fewer"), losses(four, "whole")
    assert sorted(found) == sorted(whole) == list(range(1, STEPS + 1))
    assert found == pytest.approx(whole, rel=1e-5)
