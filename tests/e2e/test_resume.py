"""A training that is killed and goes on: by itself; by one command, on its hosts, on a spare, on fewer."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.local_cluster import Cluster, eventually
from tests.e2e import trainings

# Each of them starts MindSpore once more.
ALL = pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 goes on in every way (test-long)")
STEPS = 60
# Saved before it was killed, by both ranks.
SAVED = 4
# The attempt after which nothing goes on by itself.
LAST = 2

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts; two of them have finished a run, and had another one that a second killed rank ended."""
    cluster = Cluster.local(tmp_path_factory.mktemp("resume"), hosts=3, devices="0")
    whole = cluster.launch(training(cluster, "whole"))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    victims: list[int] = []
    with cluster.launching(training(cluster, "broken", restart={"max": LAST - 1})) as launch:
        eventually(lambda: len(cluster.controls()) == 2, timeout=60, what="the launch")
        for attempt in range(1, LAST + 1):
            # Before its steps, of which a command that asks for it would miss many.
            victims.append(eventually(lambda: new_process(cluster, victims), timeout=300, what="its process"))
            eventually(lambda: len(steps_made(cluster, attempt)) > SAVED, timeout=300, what="steps")  # noqa: B023
            os.kill(victims[-1], signal.SIGKILL)
        said, _ = launch.communicate(timeout=300)
    assert launch.returncode == 1
    assert f"Go on with it: orchestrate resume {run_id(cluster)}" in said
    yield cluster
    cluster.close()


def training(cluster: Cluster, name: str, **keys: Any) -> Path:
    """Two replicas, one on each of two hosts."""
    return trainings.write_training(
        cluster,
        name,
        hosts="host[1-2]",
        parallel={"data_parallel": 2},
        model={"preset": "tiny", "overrides": {"num_layers": 1}},
        train={"steps": STEPS, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 2},
        checkpoint={"save_steps": 2, "keep": STEPS},
        **keys,
    )


def new_process(cluster: Cluster, earlier: list[int]) -> int | None:
    """The process of the rank on host2, once there is one that is none of these."""
    status = cluster.status("broken")["hosts"].get("host2", {}).get("status") or {"ranks": []}
    found = (rank["process"]["pid"] for rank in status["ranks"] if rank["process"])
    return next((pid for pid in found if pid not in earlier), None)


def run_id(cluster: Cluster, name: str = "broken") -> str:
    return str(cluster.status(name)["run_id"])


def steps_made(cluster: Cluster, attempt: int) -> set[int]:
    found = cluster.folder.glob(f"hosts/host2/runs/broken-*/attempts/{attempt}/metrics/rank_1.jsonl")
    return {step for path in found for step in losses(path)}


def losses(path: Path) -> dict[int, float]:
    """By step; lines that tell of phases have none."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def of_attempt(
    cluster: Cluster, host: str, attempt: int, rank: int, name: str = "broken"
) -> dict[int, float]:
    home = cluster.folder / "hosts" / host / "runs" / run_id(cluster, name)
    return losses(home / f"attempts/{attempt}/metrics/rank_{rank}.jsonl")


def undisturbed(cluster: Cluster, *, after: int) -> dict[int, float]:
    return {step: loss for step, loss in of_attempt(cluster, "host1", 1, 0, "whole").items() if step > after}


def test_it_goes_on_by_itself_from_the_newest_step_that_is_saved(cluster: Cluster) -> None:
    first, second = cluster.status("broken")["attempts"][:LAST]
    assert (first["state"], first["decision"]["choice"]) == ("failed", "again")
    assert (second["state"], second["decision"]["choice"]) == ("failed", "give_up")
    attempt, step = second["origin"]
    assert attempt == 1 and step >= SAVED and step % 2 == 0
    for number, after in ((1, 0), (2, step)):
        for host, rank in (("host1", 0), ("host2", 1)):
            found = of_attempt(cluster, host, number, rank)
            expected = undisturbed(cluster, after=after)
            assert len(found) >= SAVED and list(found.items()) == list(expected.items())[: len(found)]


def test_on_the_same_hosts_nothing_moves_and_nothing_differs(cluster: Cluster) -> None:
    dry = cluster.run("resume", "broken", "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    told = json.loads(dry.stdout)
    assert told["in_place"] == [0, 1] and told["bytes_sent"] == {} and told["from"]["attempt"] == LAST
    step = told["from"]["step"]
    assert step >= 2 * SAVED and step % 2 == 0
    before = [of_attempt(cluster, "host1", attempt, 0) for attempt in range(1, LAST + 1)]
    done = cluster.run("resume", "broken")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"attempt {LAST + 1} goes on from step {step} of attempt {LAST}" in done.stdout
    for host, rank in (("host1", 0), ("host2", 1)):
        found = of_attempt(cluster, host, LAST + 1, rank)
        assert found == undisturbed(cluster, after=step)
    # Of what was before nothing is touched.
    assert [of_attempt(cluster, "host1", attempt, 0) for attempt in range(1, LAST + 1)] == before
    again = cluster.run("resume", "broken")
    assert again.returncode == 2 and f"done all its {STEPS} steps" in again.stderr
    assert collected(cluster, "broken") == collected(cluster, "whole")


def collected(cluster: Cluster, name: str) -> bytes:
    """The weights."""
    out = cluster.folder / f"{name}.ckpt"
    done = cluster.run("collect-ckpt", name, "-o", out)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


@ALL
def test_on_a_spare_it_goes_on_from_replicas(cluster: Cluster) -> None:
    shutil.rmtree(cluster.folder / "hosts/host1/runs" / run_id(cluster))  # its disk was replaced
    words = ("resume", "broken", "--step", str(SAVED), "-i", cluster.inventory, "--hosts", "host[2-3]")
    told = json.loads(cluster.run(*words, "--dry-run", "--json").stdout)
    assert told["from"]["attempt"] <= LAST + 1 and told["from"]["step"] == SAVED
    assert told["in_place"] == [0] and list(told["bytes_sent"]) == ["host3"]
    done = cluster.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    for host, rank in (("host2", 0), ("host3", 1)):
        assert of_attempt(cluster, host, LAST + 2, rank) == undisturbed(cluster, after=SAVED)


@ALL
def test_on_one_host_the_layout_is_another_and_the_batch_the_same(cluster: Cluster) -> None:
    done = cluster.run("resume", "broken", "--step", str(SAVED), "--hosts", "host3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train.batch_size=8" in done.stderr
    found = of_attempt(cluster, "host3", LAST + 3, 0)
    assert found == pytest.approx(undisturbed(cluster, after=SAVED), rel=1e-5)
    shown = cluster.run("resume", "broken", "--step", "5")
    assert shown.returncode == 2 and "no rank has saved step 5" in shown.stderr
