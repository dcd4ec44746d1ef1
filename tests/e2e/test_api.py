"""The Python interface: a run from its plan to its logs, and the errors that are documented."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.core.errors import CheckpointError, ConfigError, RunNotFound, UsageError
from orchestrator.core.states import RunState
from orchestrator.testing.local_cluster import Cluster
from tests.fixtures.written import restore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster.local(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(made.state))
    yield made
    made.close()


def test_a_run_from_its_launch_to_its_logs(cluster: Cluster) -> None:
    job = cluster.job(["sh", "-c", "echo rank $RANK_ID of $SHOWN"], env={"SHOWN": "one"})
    run = api.launch(job, cluster.inventory, {"env.SHOWN": "four"})
    records = list(api.watch(run))
    assert records[-1].state is RunState.SUCCEEDED and records[-1].exit_code == 0
    assert all(not record.state.is_terminal for record in records[:-1])
    lines = list(api.logs(run))
    assert sorted((line.label, line.text) for line in lines) == [
        (f"rank_{rank}", f"rank {rank} of four") for rank in range(4)
    ]
    assert [line.text for line in api.logs(run.run_id, ranks=[2])] == ["rank 2 of four"]
    assert api.status() == records[-1] and [one.run_id for one in api.runs()] == [run.run_id]
    # What the command line says of it is the same.
    assert json.loads(cluster.run("status", "--json").stdout)["state"] == "succeeded"


def test_a_run_is_stopped_and_stopping_it_again_is_no_error(cluster: Cluster) -> None:
    run = api.launch(cluster.job(cluster.sleep), cluster.inventory)
    next(record for record in api.watch(run) if record.state is RunState.RUNNING)
    record = api.stop(run, "enough")
    assert record.state is RunState.STOPPED and not cluster.sleepers()
    reasons = {rank.end.reason.text for rank in record.ranks() if rank.end and rank.end.reason}
    assert reasons == {"enough"}
    assert api.stop(run).state is RunState.STOPPED


def test_planning_touches_no_host(cluster: Cluster) -> None:
    planned = api.plan(cluster.job(["true"]), cluster.inventory)
    assert planned.plan.world_size == 4 and planned.job.task == "command"
    assert not (cluster.folder / "hosts").exists() and api.runs() == []


def test_what_is_asked_wrongly_is_refused_with_the_documented_errors(cluster: Cluster) -> None:
    with pytest.raises(RunNotFound):
        api.status()
    with pytest.raises(ConfigError, match="trian"):
        api.launch(cluster.job(["true"]), cluster.inventory, {"trian.steps": 3})
    run = api.launch(cluster.job(["true"]), cluster.inventory)
    assert list(api.watch(run))[-1].state is RunState.SUCCEEDED
    with pytest.raises(UsageError, match="no rank of this run fits"):
        list(api.logs(run, ranks=[99]))


def test_a_checkpoint_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a training that an earlier version has left; the file is the one that the command line writes."""
    restore(ROOT / "tests/fixtures/afcecfb", tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    planned = api.collect_dry_run("train")
    assert planned.choice.step == 4 and not (tmp_path / "out.ckpt").exists()
    collected = api.collect("train", tmp_path / "out.ckpt")
    assert collected.path == tmp_path / "out.ckpt" and collected.choice.step == 4
    argv = [sys.executable, "-m", "orchestrator", "collect-ckpt", "train", "-o", str(tmp_path / "cli.ckpt")]
    subprocess.run(argv, check=True, capture_output=True)
    assert (tmp_path / "out.ckpt").read_bytes() == (tmp_path / "cli.ckpt").read_bytes()
    with pytest.raises(CheckpointError):
        api.collect("fine", tmp_path / "none.ckpt")
    assert not (tmp_path / "none.ckpt").exists()


def test_hosts_are_checked(cluster: Cluster) -> None:
    report = api.check(cluster.inventory)
    assert report.exit_code == 0 and report.errors == {}


def test_the_notebook_in_examples_runs(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    notebook = json.loads((ROOT / "examples/drive_a_run.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    scope: dict[str, object] = {}
    for cell in cells:
        cell = cell.replace("jobs/demo.yaml", str(cluster.job(["echo", "step"])))
        cell = cell.replace("inventory/local.yaml", str(cluster.inventory))
        exec(cell, scope)
    record = scope["record"]
    assert isinstance(record, api.RunRecord) and record.state is RunState.SUCCEEDED
