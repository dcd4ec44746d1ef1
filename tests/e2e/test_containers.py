"""A job in containers, by the command line: checked, launched, failed, gone on with, nothing left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing.container_host import IMAGE, MOUNT, PYTHON, containers, runtime_ready, why_not
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.waiting import eventually

pytestmark = pytest.mark.root
PROGRAM = """\
import os, sys
attempt, rank = os.environ["ORCHESTRATE_ATTEMPT"], os.environ["RANK"]
open(f"seen_{rank}_{attempt}", "w").write(str(os.getpid()))
print("attempt", attempt, "in a container:", not os.path.exists("/usr/bin/apt-get"), flush=True)
sys.exit(3 if (rank, attempt) == ("1", "1") else 0)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if why_not():
        pytest.skip(why_not())
    container = {"image": IMAGE, "runtime": "podman", "mounts": [MOUNT]}
    with runtime_ready():
        cluster = Cluster.local(tmp_path, devices="0", container=container)
        yield cluster
        cluster.close()
        runs = {path.name for path in tmp_path.glob("hosts/*/runs/*")}
        left = "no container is left, nor a record of one"
        eventually(lambda: not any(map(containers, runs)), timeout=30.0, what=left)


def test_a_run_that_fails_in_its_containers_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(PROGRAM)
    job = cluster.job(
        ["{python}", "work.py"],
        sync=["work.py"],
        devices_per_host=1,
        container={"python": PYTHON},
        restart={"max": 1},
    )
    dry = cluster.launch(job, "--dry-run")
    assert dry.returncode == 0 and f"in a container of {IMAGE} (podman)" in dry.stdout.replace("\n", " ")
    checked = cluster.run("check", "--job", job, "-i", cluster.inventory)
    rows = [" ".join(line.split()) for line in checked.stdout.splitlines()]
    assert any("image" in row and "Python 3" in row for row in rows) or checked.returncode == 0, (
        checked.stdout
    )
    result = cluster.launch(job)
    assert result.returncode == 0, result.stdout + result.stderr
    told = sorted(cluster.run("logs").stdout.splitlines())
    assert told == [f"[rank {rank}] attempt 2 in a container: True" for rank in (0, 1)]
    seen = {path.name for path in tmp_path.glob("hosts/host*/runs/*/seen_*")}
    assert {"seen_0_1", "seen_1_1", "seen_0_2", "seen_1_2"} >= seen >= {"seen_1_1", "seen_0_2", "seen_1_2"}


def test_an_image_that_is_missing_is_found_before_anything_starts(cluster: Cluster) -> None:
    job = cluster.job(["true"], devices_per_host=1, container={"image": "localhost/none:1"})
    checked = cluster.run("check", "--job", job, "-i", cluster.inventory)
    assert checked.returncode == 4
    assert "no image localhost/none:1" in " ".join(checked.stdout.split())
