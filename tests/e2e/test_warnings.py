"""What the checks before a start doubt reaches whoever launches, once, and stands beside a cause."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from orchestrator.control.run_record import read_record
from orchestrator.testing.local_cluster import Cluster

DOUBT = "host1: the scheduler is to listen at 203.0.113.1, which is no address of the host itself"


@pytest.fixture
def doubtful(local_with: Callable[..., Cluster]) -> Cluster:
    """Hosts that listen where they cannot: of no matter to a command that meets nobody."""
    cluster = local_with(hosts=2)
    text = cluster.inventory.read_text()
    assert "name: host[1-2]" in text
    cluster.inventory.write_text(
        text.replace("name: host[1-2]", "name: host[1-2]\n  address: 203.0.113.[1-2]")
    )
    return cluster


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if DOUBT in line]


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_launch_tells_what_the_checks_doubt(doubtful: Cluster, detach: tuple[str, ...]) -> None:
    job = doubtful.job(["true"], networking={"mode": "dynamic"})
    done = doubtful.launch(job, *detach)
    assert done.returncode == 0, done.stdout + done.stderr
    assert warnings(done.stderr) == [f"orchestrate: warning: {DOUBT}"]
    assert warnings(done.stdout) == []
    again = doubtful.run("attach")
    assert again.returncode == 0 and warnings(again.stdout + again.stderr) == []
    assert DOUBT in json.loads(doubtful.run("status", "--json").stdout)["warnings"]


def test_a_failure_shows_them_beside_its_cause(doubtful: Cluster) -> None:
    job = doubtful.job(["false"], networking={"mode": "dynamic"})
    done = doubtful.launch(job)
    assert done.returncode != 0 and "Cause: " in done.stdout
    assert warnings(done.stderr) == [f"orchestrate: warning: {DOUBT}"]
    for shown in (done.stdout, doubtful.run("attach").stdout, doubtful.run("status").stdout):
        lines = [line.strip() for line in shown.splitlines()]
        assert lines[lines.index("Doubtful before the start:") + 1] == f"| {DOUBT}"


def test_a_record_without_them_is_read(doubtful: Cluster) -> None:
    """As earlier versions have written it."""
    doubtful.launch(doubtful.job(["true"], networking={"mode": "dynamic"}))
    control = doubtful.controls()[-1]
    data = json.loads(control.record.read_text())
    assert data.pop("warnings")
    control.record.write_text(json.dumps(data))
    assert read_record(control).warnings == ()
