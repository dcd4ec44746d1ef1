"""A run with a spare, as a person has it: on three hosts that are folders of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.spare_holder import SpareFolder
from orchestrator.control.monitor_process import monitor_pid
from orchestrator.core.paths import Workdir
from orchestrator.testing.agent_host import processes_in
from orchestrator.testing.local_cluster import TIMEOUT, Cluster, eventually

RESTART = {"max": 2, "spares": "idle", "lease": "10m"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three hosts; the last one is of the group `idle`."""
    defaults = {"workdir": str(tmp_path / "hosts" / "{name}"), "devices": "0-1"}
    hosts = [{"name": "host[1-3]"}]
    listed = {"transport": "local", "defaults": defaults, "hosts": hosts, "groups": {"idle": ["host3"]}}
    made = Cluster(tmp_path, listed)
    yield made
    made.close()


def _spare(cluster: Cluster, run_id: str) -> Any:
    return cluster.status(run_id)["spares"].get("host3", {})


def _folders(cluster: Cluster) -> list[Path]:
    return sorted(cluster.folder.glob("hosts/*/spares/*"))


def test_a_run_with_a_spare(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.job(cluster.sleep, restart=RESTART)
    dry = cluster.launch(job, "--dry-run")
    assert "spares host3, which are checked and prepared at launch" in dry.stdout, dry.stderr
    launched = cluster.launch(job, "--detach")
    assert launched.returncode == 0, launched.stderr
    assert "note: hosts: all leaves out host3, which stand ready (restart.spares)" in launched.stderr
    (control,) = cluster.controls()
    run_id = control.run_id
    eventually(lambda: _spare(cluster, run_id).get("state") == "ready", TIMEOUT, "the spare is ready")
    shown = cluster.run("status", run_id)
    assert "spares  host3 ready" in shown.stdout.splitlines()
    held = SpareFolder(Workdir(tmp_path / "hosts/host3"), run_id)
    assert held.devices() == (0, 1)

    # Another launch on it finds its devices in use, and by whom.
    alone = cluster.job(cluster.sleep, "other", hosts="host3")
    refused = cluster.launch(alone, "--detach")
    assert refused.returncode == 4 and "host3" in refused.stderr, refused.stderr

    # The next monitor has it, too.
    os.kill(eventually(lambda: monitor_pid(control), what="a monitor"), signal.SIGKILL)
    eventually(lambda: monitor_pid(control) is None)
    eventually(lambda: _spare(cluster, run_id).get("state") == "ready" and monitor_pid(control), TIMEOUT)
    assert held.devices() == (0, 1)

    stopped = cluster.run("stop", run_id)
    assert stopped.returncode == 0, stopped.stderr
    eventually(lambda: not _folders(cluster), TIMEOUT, "nothing of the spare is left")
    assert not cluster.sleepers() and not processes_in(tmp_path / "hosts")
    launched = cluster.launch(alone, "--detach")
    assert launched.returncode == 0, launched.stderr
    for each in cluster.controls():  # of the one that was refused there is nothing to stop
        assert cluster.run("stop", each.run_id).returncode == 0


def test_a_spare_that_is_no_good_is_said_and_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    other = cluster.job(cluster.sleep, "other", hosts="host3")
    assert cluster.launch(other, "--detach").returncode == 0
    (first,) = (control.run_id for control in cluster.controls())
    go = tmp_path / "go"
    job = cluster.job(["sh", "-c", f"while [ ! -e '{go}' ]; do sleep 0.2; done"], restart=RESTART)
    with cluster.launching(job) as launch:
        eventually(lambda: len(cluster.controls()) == 2, TIMEOUT, "a second run")
        (run_id,) = (control.run_id for control in cluster.controls() if control.run_id != first)
        eventually(lambda: _spare(cluster, run_id).get("state") == "unfit", TIMEOUT, "the spare is unfit")
        go.touch()
        _, stderr = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 0, stderr
    said = "warning: spare host3 unfit: 0 of its 2 devices are free, and 2 are wanted"
    assert stderr.count(said) == 1, stderr
    assert not _folders(cluster)
    cluster.run("stop", first)
