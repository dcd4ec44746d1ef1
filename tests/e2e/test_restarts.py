"""Runs that go on by themselves: crashes, crash loops, a monitor killed meanwhile, a stop in between."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.monitor_process import monitor_pid
from orchestrator.testing.local_cluster import Cluster, eventually
from tests.e2e.trainings import losses, write_training

Make = Callable[..., Cluster]
KILLS = 10
STEPS = 20 * KILLS
# It writes when it began, and fails where the test has said so.
PROGRAM = """\
import os, pathlib, sys, time
home, rank = pathlib.Path.cwd(), os.environ["RANK"]
again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
with open(home / f"began_{rank}", "a") as file:
    file.write(f"{again} {time.time()}\\n")
fails = pathlib.Path(os.environ["FAILS"])
deadline = time.monotonic() + 600
while time.monotonic() < deadline:
    if (fails / "all").exists() or (fails / f"{rank}_{again}").exists():
        sys.exit(10 + again)
    if (fails / "done").exists():
        sys.exit(0)
    time.sleep(0.05)
"""


def program(cluster: Cluster, **restart: Any) -> Path:
    """A job whose ranks fail where `fails/<rank>_<restarts>` is, and are done where `done` is."""
    (cluster.folder / "program.py").write_text(PROGRAM)
    (cluster.folder / "fails").mkdir()
    return cluster.job(
        ["{python}", "program.py"],
        devices_per_host=1,
        sync=["program.py"],
        env={"FAILS": str(cluster.folder / "fails")},
        restart={"max": 3, **restart},
    )


def fail(cluster: Cluster, rank: str, restarts: int) -> None:
    (cluster.folder / "fails" / f"{rank}_{restarts}").touch()


def began(cluster: Cluster, host: str, rank: int) -> list[int]:
    """By how many starts before, each start of this rank."""
    paths = list(cluster.folder.glob(f"hosts/{host}/runs/*/began_{rank}"))
    return [int(line.split()[0]) for path in paths for line in path.read_text().splitlines()]


def attempts(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.status()["attempts"]
    return found


def test_a_crash_is_followed_by_the_next_attempt_and_the_end_is_that_of_the_run(local_with: Make) -> None:
    cluster = local_with(devices="0")
    job = program(cluster)
    with cluster.launching(job) as launch:
        eventually(lambda: began(cluster, "host2", 1) == [0], timeout=60, what="the first start")
        for file in (job, cluster.inventory, cluster.folder / "program.py"):  # the hosts have what they need
            file.unlink()
        fail(cluster, "1", 0)
        eventually(lambda: began(cluster, "host1", 0) == [0, 1], timeout=60, what="the second start")
        (cluster.folder / "fails/done").touch()
        out, err = launch.communicate(timeout=120)
    assert launch.returncode == 0, out + err
    first, second = attempts(cluster)
    assert (first["state"], second["state"]) == ("failed", "succeeded")
    assert (first["decision"]["choice"], first["decision"]["ground"]) == ("again", "crash")
    assert first["decision"]["host"] == "host2" and first["cause"]["rank"] == 1
    assert first["ended"] <= second["started"]
    assert not cluster.sleepers()


def test_a_crash_loop_ends_by_itself(local_with: Make) -> None:
    cluster = local_with(devices="0")
    job = program(cluster, max=50)
    (cluster.folder / "fails/all").touch()
    result = cluster.launch(job)
    assert result.returncode == 1, result.stderr
    ended = attempts(cluster)
    assert ended[-1]["decision"]["choice"] == "give_up"
    assert 2 <= len(ended) <= 4
    assert cluster.status()["state"] == "failed"


def test_a_policy_of_zero_ends_with_the_first_failure(local_with: Make) -> None:
    cluster = local_with(devices="0")
    job = program(cluster, max=0)
    (cluster.folder / "fails/all").touch()
    result = cluster.launch(job)
    assert result.returncode == 1, result.stderr
    assert len(attempts(cluster)) == 1


def test_a_monitor_that_is_killed_leaves_its_decision_to_the_next_one(local_with: Make) -> None:
    """Whenever it dies, the next one finds where the run is, and it goes on once."""
    cluster = local_with(devices="0")
    with cluster.launching(program(cluster), "--detach") as launch:
        assert launch.wait(120) == 0
    eventually(lambda: began(cluster, "host2", 1) == [0], timeout=60, what="the first start")
    for restarts in range(2):
        fail(cluster, "1", restarts)
        time.sleep(random.Random(restarts).uniform(0.0, 0.6))
        control = cluster.controls()[0]
        if (pid := monitor_pid(control)) is not None:
            os.kill(pid, signal.SIGKILL)
        # Who looks starts another one.
        eventually(
            lambda: cluster.status()["state"] and began(cluster, "host2", 1)[-1] == restarts + 1,  # noqa: B023
            timeout=120,
            what=f"start {restarts + 2}",
        )
    (cluster.folder / "fails/done").touch()
    eventually(lambda: cluster.status()["state"] == "succeeded", timeout=60, what="the end")
    for host, rank in (("host1", 0), ("host2", 1)):
        assert began(cluster, host, rank) == [0, 1, 2], "no attempt is begun twice, and none left out"


def test_a_person_stops_a_run_that_is_about_to_go_on(local_with: Make) -> None:
    cluster = local_with(devices="0")
    with cluster.launching(program(cluster, max=9), "--detach") as launch:
        assert launch.wait(120) == 0
    eventually(lambda: began(cluster, "host1", 0) == [0], timeout=60, what="the first start")
    fail(cluster, "0", 0)
    stopped = cluster.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    state = eventually(
        lambda: (found := cluster.status()["state"]) in ("stopped", "failed") and found,
        timeout=60,
        what="the end",
    )
    assert state in ("stopped", "failed")  # it may have failed before it was stopped
    count = len(attempts(cluster))
    time.sleep(1.0)
    assert cluster.status()["state"] == state and len(attempts(cluster)) == count, "nothing starts any more"


# The bundled model.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts, and an undisturbed training on them."""
    cluster = Cluster.local(tmp_path_factory.mktemp("restarts"), hosts=3, devices="0")
    whole = cluster.launch(training(cluster, "whole"))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    yield cluster
    cluster.close()


def training(cluster: Cluster, name: str, **keys: Any) -> Path:
    """Two replicas, one on each of two hosts."""
    sections = {
        "hosts": "host[1-2]",
        "parallel": {"data_parallel": 2},
        "model": {"preset": "tiny", "overrides": {"num_layers": 1}},
        "train": {"steps": STEPS, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 2},
        "checkpoint": {"save_steps": 2, "keep": 4},
    }
    return write_training(cluster, name, **{**sections, **keys})


def workers(cluster: Cluster, name: str) -> list[int]:
    """The processes that run, as the record tells."""
    status = cluster.status(name)
    ranks = [rank for host in status["hosts"].values() for rank in (host["status"] or {"ranks": []})["ranks"]]
    return [rank["process"]["pid"] for rank in ranks if rank["state"] == "running" and rank["process"]]


def has_ended(cluster: Cluster, name: str) -> bool:
    return cluster.status(name)["state"] in ("succeeded", "failed", "stopped")


# Killed twice, at steps that are waited for, with the same weights in the end: test_resume.py.
@pytest.mark.mindspore
@pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 kills a training ten times (test-long)")
def test_a_training_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_one(
    trained: Cluster,
) -> None:
    """Bit for bit; ranks and monitors are killed, in a save, in a restart, whenever it happens to be."""
    chance = random.Random(15)
    job = training(trained, "killed", restart={"max": 100})
    with trained.launching(job, "--detach") as launch:
        assert launch.wait(120) == 0, launch.stderr
    for kill in range(KILLS):
        eventually(lambda: workers(trained, "killed") or has_ended(trained, "killed"), timeout=300)
        before = workers(trained, "killed")
        if kill:  # the first at once, others some steps later
            begin = max(losses(trained, "killed"), default=0)
            eventually(
                lambda: (
                    max(losses(trained, "killed"), default=0) > begin + 2  # noqa: B023
                    or has_ended(trained, "killed")
                ),
                timeout=300,
                what="steps",
            )
        if not before:
            break  # on a fast machine it is done before all have been killed
        time.sleep(chance.uniform(0.0, 0.3))
        (control,) = (each for each in trained.controls() if each.run_id.startswith("killed-"))
        if chance.random() < 0.3 and (monitor := monitor_pid(control)) is not None:
            os.kill(monitor, signal.SIGKILL)
        with_luck = chance.choice(before)
        try:
            os.kill(with_luck, signal.SIGKILL)
        except ProcessLookupError:
            continue
    eventually(lambda: trained.status("killed")["state"] == "succeeded", timeout=600, what="the end")
    assert len(trained.status("killed")["attempts"]) > 1
    assert losses(trained, "killed") == losses(trained, "whole")
    files = {}
    for name in ("whole", "killed"):
        out = trained.folder / f"{name}.ckpt"
        collected = trained.run("collect-ckpt", name, "-o", out)
        assert collected.returncode == 0, collected.stderr
        files[name] = out.read_bytes()
    assert files["whole"] == files["killed"]
