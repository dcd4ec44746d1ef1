"""Verbs through the living monitor, and what they do when it dies or is on another machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.monitor_client import newest_record
from orchestrator.control.monitor_process import monitor_pid
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.waiting import eventually

IGNORES_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); {}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster.local(tmp_path)
    yield made
    made.close()


def test_a_stop_whose_monitor_is_killed_in_its_middle_goes_on_without_it(cluster: Cluster) -> None:
    seconds = cluster.sleep[1]
    program = IGNORES_SIGTERM.format(f"time.sleep({seconds})")
    job = cluster.job(["{python}", "-c", program], timeouts={"grace": 4, "prepare": 60})
    assert cluster.launch(job, "--detach").returncode == 0
    (control,) = cluster.controls()
    pid = eventually(lambda: monitor_pid(control))
    argv = cluster.argv("stop")
    with subprocess.Popen(
        argv, env=cluster.env, cwd=cluster.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as stop:
        eventually(lambda: b"a verb stops the run" in control.monitor_log.read_bytes(), what="the stop")
        os.kill(pid, signal.SIGKILL)
        out, err = stop.communicate(timeout=120)
    assert (stop.returncode, out) == (0, f"{control.run_id} stopped\n"), err
    assert err == (
        "orchestrate: the run's monitor died while it stopped the run; the hosts are told from here\n"
    )
    assert cluster.status()["state"] == "stopped"


def test_on_another_machine_with_the_same_home_verbs_say_where_the_monitor_lives(cluster: Cluster) -> None:
    """This machine is the other one: the note says that the monitor is far away, and its socket is silent."""
    assert cluster.launch(cluster.job(cluster.sleep), "--detach").returncode == 0
    (control,) = cluster.controls()
    note = json.loads(control.monitor_note.read_text())
    process = {**note["process"], "boot_id": "00000000-1111-2222-3333-444444444444"}
    control.monitor_note.write_text(json.dumps({**note, "host": "far", "process": process}))
    control.monitor_socket.rename(control.root / "away.sock")
    shown = cluster.run("status")
    assert shown.returncode == 0 and "its monitor lives on far; this is what it wrote last" in shown.stdout
    refused = cluster.run("stop")
    assert refused.returncode == 3 and refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"orchestrate: far: the monitor of {control.run_id} lives on this machine")
    assert newest_record(control) is None and len(cluster.sleepers()) == 4
    (control.root / "away.sock").rename(control.monitor_socket)
    control.monitor_note.write_text(json.dumps(note))
    assert cluster.run("stop").returncode == 0 and not cluster.sleepers()


@pytest.mark.root
def test_a_full_state_directory_is_named_and_keeps_nobody_from_stopping(cluster: Cluster) -> None:
    cluster.state.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(cluster.state)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    filler = cluster.state / "filler"
    try:
        assert cluster.launch(cluster.job(cluster.sleep), "--detach").returncode == 0
        cluster.kill_monitor()
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        stopped = cluster.run("stop")
        (control,) = cluster.controls()
        assert (stopped.returncode, stopped.stdout) == (0, f"{control.run_id} stopped\n"), stopped.stderr
        assert "No space left on device (free space there" in stopped.stderr and not cluster.sleepers()
        shown = cluster.run("status")
        assert shown.returncode == 4 and str(control.root) in shown.stderr
        filler.unlink()
        assert cluster.status()["state"] == "stopped"
    finally:
        filler.unlink(missing_ok=True)
        cluster.close()
        subprocess.run(["umount", "-l", str(cluster.state)], check=True)


def test_a_monitor_that_hangs_holds_up_no_stop_and_what_the_hosts_say_counts(cluster: Cluster) -> None:
    assert cluster.launch(cluster.job(cluster.sleep), "--detach").returncode == 0
    (control,) = cluster.controls()
    pid = eventually(lambda: monitor_pid(control))
    os.kill(pid, signal.SIGSTOP)
    try:
        stopped = cluster.run("stop")
        assert (stopped.returncode, stopped.stdout) == (0, f"{control.run_id} stopped\n"), stopped.stderr
        assert stopped.stderr == (
            "orchestrate: the run's monitor does not answer; the hosts are told from here\n"
            f"orchestrate: the run's monitor (process {pid}) is busy, or hangs: "
            "it has not noted the end of the run\n"
        )
        assert not cluster.sleepers()
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: cluster.status()["state"] == "stopped", what="the record's end")
