"""Launches that must not succeed: one clear line, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator.control.monitor_process import monitor_pid
from orchestrator.control.run_record import read_record
from orchestrator.core.errors import RunNotFound
from orchestrator.core.states import RunState
from orchestrator.testing.local_cluster import Cluster, Result
from orchestrator.testing.waiting import eventually

Make = Callable[..., Cluster]


def assert_refused(cluster: Cluster, result: Result, code: int, *words: str) -> None:
    """One line per problem on stderr, no traceback, and nothing on any host."""
    assert result.returncode == code, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr + result.stdout
    # What this machine is warned of (little shared memory, say), and what was assumed, stands before.
    said = result.stderr.strip().splitlines()
    lines = [line for line in said if ": warning: " not in line and ": note: " not in line]
    assert len(lines) == 1 and lines[0].startswith("orchestrate: "), lines
    for word in words:
        assert word in lines[0], lines[0]
    assert cluster.run_dirs() == []
    assert not cluster.sleepers()


def test_unknown_key_in_the_job(local: Cluster) -> None:
    job = local.job(local.sleep, trian={"steps": 1})
    assert_refused(local, local.launch(job), 2, "job.yaml:", "trian", "did you mean")
    assert local.controls() == []


def test_more_ranks_than_devices(local: Cluster) -> None:
    result = local.launch(local.job(local.sleep, devices_per_host=8), "--set", "host_count=1")
    assert_refused(local, result, 2, "8", "host1", "2 device")


def test_wrong_product(local: Cluster) -> None:
    job = local.job(local.sleep, parallel={"data_parallel": 3})
    assert_refused(local, local.launch(job), 2, "= 3", "2 hosts × 2 devices_per_host = 4")


def test_missing_job_and_missing_inventory(local: Cluster) -> None:
    assert_refused(local, local.launch(local.folder / "none.yaml"), 2, "none.yaml", "o such file")
    local.inventory.unlink()
    assert_refused(local, local.run("launch", local.job(local.sleep)), 2, "no inventory given")


def test_missing_python_on_a_host(local_with: Make) -> None:
    cluster = local_with(hosts=1, python="/opt/nowhere/python")
    result = cluster.launch(cluster.job(cluster.sleep))
    assert_refused(cluster, result, 4, "host1: no Python at `/opt/nowhere/python`", "python:")


def test_missing_mindspore_on_a_host(tmp_path: Path, local_with: Make) -> None:
    bare = tmp_path / "bare"
    os.system(f"{sys.executable} -m venv --without-pip {bare}")
    cluster = local_with(hosts=1, python=str(bare / "bin" / "python"))
    data = tmp_path / "data.json"
    data.write_text("[]")
    job = tmp_path / "tune.yaml"
    job.write_text(
        yaml.safe_dump(
            {
                "name": "tune",
                "task": "finetune",
                "devices_per_host": 1,
                "parallel": {},
                "model": {"preset": "tiny"},
                "data": {"path": "data.json"},
                "train": {"steps": 1},
            }
        )
    )
    result = cluster.launch(job)
    assert_refused(cluster, result, 4, "mindspore is not installed for", "pip install mindspore")


def test_missing_path_on_the_hosts(local: Cluster) -> None:
    local.job(local.sleep)
    text = (Path(__file__).parents[2] / "jobs" / "finetune_7.1b.yaml").read_text()
    data = {**yaml.safe_load(text), "parallel": {"data_parallel": 4}, "devices_per_host": 2}
    data.update({"host_count": 2, "networking": {"mode": "dynamic"}})
    job = local.folder / "big.yaml"
    job.write_text(yaml.safe_dump({**data, "model": {"preset": "tiny"}}))
    result = local.launch(job)
    assert result.returncode == 4
    assert "/data/alpaca/alpaca_data.json does not exist" in result.stderr
    assert local.run_dirs() == []


def test_program_that_does_not_exist_on_the_host(local: Cluster) -> None:
    result = local.launch(local.job(["no-such-program"]))
    assert result.returncode == 4
    assert "cannot start no-such-program: No such file or directory" in result.stderr
    assert local.run_dirs() == []


def test_port_in_use(local: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        job = local.job(local.sleep, networking={"mode": "dynamic", "port": port})
        result = local.launch(job)
    assert_refused(local, result, 4, f"host1: port {port} is in use", "networking.port")


def test_workdir_without_write_access(tmp_path: Path, local_with: Make) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cluster = local_with(hosts=1)
    data = yaml.safe_load(cluster.inventory.read_text())
    data["defaults"]["workdir"] = str(blocked / "{name}")
    cluster.inventory.write_text(yaml.safe_dump(data))
    assert_refused(cluster, cluster.launch(cluster.job(cluster.sleep)), 4, "host1: cannot use the workdir")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_no_space_on_a_host(tmp_path: Path, local_with: Make) -> None:
    small = tmp_path / "small"
    small.mkdir()
    assert os.system(f"mount -t tmpfs -o size=1M tmpfs {small}") == 0
    try:
        cluster = local_with(hosts=1, workdir=str(small / "{name}"))
        result = cluster.launch(cluster.job(cluster.sleep))
        assert_refused(cluster, result, 4, "host1: no space", "workdir:")
    finally:
        os.system(f"umount {small}")


def slow_python(folder: Path, delay: float) -> Path:
    """An interpreter that takes its time, so that a launch can be caught in its middle."""
    path = folder / "slow-python"
    path.write_text(f'#!/bin/sh\nsleep {delay}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def test_ctrl_c_during_the_launch_undoes_it(tmp_path: Path, local_with: Make) -> None:
    cluster = local_with(python=str(slow_python(tmp_path, 5)))
    with cluster.launching(cluster.job(cluster.sleep)) as launch:
        eventually(lambda: cluster.controls() and monitor_pid(cluster.controls()[0]))
        launch.send_signal(signal.SIGINT)
        _, err = launch.communicate(timeout=120)
    assert launch.returncode == 5
    assert "interrupted" in err
    # Where the machine is slow the launch says that it is not undone yet, and the monitor goes on undoing it.
    eventually(lambda: cluster.status()["state"] == "failed", timeout=60, what="the undone launch")
    eventually(lambda: cluster.run_dirs() == [], what="the undone hosts")


@pytest.mark.parametrize("phase", ["pushing files", "preparing", "starting", "prepared"])
def test_a_control_node_killed_at_any_moment_leaves_nothing(local_with: Make, phase: str) -> None:
    """Hosts on which the launch has begun undo it by themselves when its lease runs out."""
    cluster = local_with()
    job = cluster.job(cluster.sleep, timeouts={"grace": 1, "prepare": 3})
    with cluster.launching(job) as launch:
        eventually(lambda: cluster.controls() and _has_come_to(cluster, phase), timeout=60, what=phase)
        if (pid := monitor_pid(cluster.controls()[0])) is not None:
            os.kill(pid, signal.SIGKILL)
        launch.kill()
    # Until the lease is over nobody can tell what becomes of it.
    eventually(lambda: cluster.status()["state"] != "preparing", what="the verdict")
    # The kill came after the last commit, or the next monitor made up for it: the run is whole, and lives on.
    eventually(lambda: not _says_running(cluster) or len(cluster.sleepers()) == 4, what="what is said to run")
    if not _says_running(cluster):
        # It came between two commits, perhaps: then the one that was committed is ended by the next monitor.
        cluster.run("attach")
        eventually(lambda: not cluster.sleepers(), timeout=60, what="no worker left")
        assert cluster.status()["state"] in ("failed", "stopped")


def _says_running(cluster: Cluster) -> bool:
    return set(cluster.states().values()) == {"running"}


def _has_come_to(cluster: Cluster, phase: str) -> bool:
    if phase == "prepared":
        # The phase is short: to have come a little further will do.
        return any(cluster.folder.glob("hosts/*/runs/*/status.json"))
    try:
        record = read_record(cluster.controls()[0])
    except RunNotFound:
        return False  # it is just being made
    return record.phase == phase or record.state is RunState.RUNNING
