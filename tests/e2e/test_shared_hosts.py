"""Two runs on one host: each has devices of its own, and a third one is told who has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing.local_cluster import Cluster


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Cluster]:
    """One host with eight devices."""
    cluster = Cluster.local(tmp_path, hosts=1, devices="0-7")
    yield cluster
    cluster.close()


def test_two_runs_get_disjoint_devices_and_a_third_one_is_refused(host: Cluster) -> None:
    echo = ["sh", "-c", f"echo device $DEVICE_ID; exec {' '.join(host.sleep)}"]
    used = []
    for name in ("one", "two"):
        launched = host.launch(host.job(echo, name, devices_per_host=4), "--detach")
        assert launched.returncode == 0, launched.stderr
        ranks = host.status(name)["hosts"]["host1"]["status"]["ranks"]
        used.append([rank["device_id"] for rank in ranks])
        said = sorted(host.run("logs", name).stdout.splitlines())
        assert said == [f"[rank {rank}] device {device}" for rank, device in enumerate(used[-1])]
    assert used == [[0, 1, 2, 3], [4, 5, 6, 7]]
    refused = host.launch(host.job(echo, "three", devices_per_host=1), "--detach")
    assert refused.returncode == 4 and "in use" in refused.stderr
