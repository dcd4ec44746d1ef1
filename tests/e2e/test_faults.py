"""What befalls hosts and control nodes, on real processes over real sshd: told rightly, nothing is left."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.monitor_process import monitor_pid
from orchestrator.testing.local_cluster import Cluster, eventually
from orchestrator.testing.ssh_cluster import inventory_of
from orchestrator.testing.sshd import Sshd
from tests.e2e.meeting_job import LONG, TIMEOUTS, diagnosed, meeting_job, steps_made, what_is_left


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of little more than a host must have."""
    if os.geteuid() != 0:
        pytest.skip("mounts a file system")
    path = tmp_path / "disk"
    path.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(path)]
    if subprocess.run(argv, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    return filler


@pytest.mark.root
def test_a_host_whose_disk_fills_is_named_and_the_reason(
    tmp_path: Path, disk: Path, servers: list[Sshd]
) -> None:
    data = inventory_of(tmp_path, servers)
    data["hosts"][1]["workdir"] = str(disk / "work")
    cluster = Cluster(tmp_path, data)
    try:
        with cluster.launching(meeting_job(cluster, "none")) as launch:
            eventually(lambda: min(steps_made(cluster), default=0) > 3, what="steps")
            fill(disk)
            out, _ = launch.communicate(timeout=120)
        assert launch.returncode == 1, out
        # There was no room in its log for why.
        assert re.search(r"Cause: rank [23] on node3 exited with code 1 ", out)
        found, text = diagnosed(cluster)
        assert found["cause"]["kind"] == "disk_full" and found["cause"]["certainty"] != "unknown"
        assert found["cause"]["culprit"]["host"] == "node3" and found["cause"]["culprit"]["rank"] in (2, 3)
        assert "Cause: no space left on the disk: node3" in text and "To go on: orchestrate resume " in text
        assert what_is_left(cluster) == {}
        # Its devices are free: what needs no room runs there as soon as there is some.
        (disk / "filler").unlink()
        again = cluster.launch(cluster.job(["true"]))
        assert again.returncode == 0, again.stderr
    finally:
        (disk / "filler").unlink(missing_ok=True)
        cluster.close()


@pytest.mark.root
def test_a_control_node_whose_disk_fills_ends_no_run(remote: Cluster, disk: Path) -> None:
    remote.state = disk
    remote.env = {**remote.env, "XDG_STATE_HOME": str(disk)}
    with remote.launching(meeting_job(remote, "none", steps=60)) as launch:
        eventually(lambda: min(steps_made(remote), default=0) > 3, what="steps")
        filler = fill(disk)
        out, err = launch.communicate(timeout=120)
    assert launch.returncode == 0, out + err
    assert "Traceback" not in err
    assert remote.status()["state"] == "succeeded"  # from the monitor, which has not written it yet
    filler.unlink()
    (control,) = remote.controls()
    eventually(lambda: monitor_pid(control) is None, what="the end of the monitor")
    status = remote.run("status")
    assert status.returncode == 0 and " succeeded " in status.stdout
    assert what_is_left(remote) == {}


def is_away(cluster: Cluster) -> bool:
    return bool(cluster.status()["hosts"]["node3"]["error"])


def test_a_host_that_was_away_for_a_while_is_no_news(remote: Cluster, servers: list[Sshd]) -> None:
    with remote.launching(meeting_job(remote, "none", steps=100)) as launch:
        eventually(lambda: min(steps_made(remote), default=0) > 3, what="steps")
        servers[1].vanish()
        eventually(lambda: is_away(remote), what="that it is away")
        shown = remote.run("status").stdout
        assert "nothing is known of node3 since " in shown and "it hangs" not in shown
        servers[1].start_again()
        out, err = launch.communicate(timeout=120)
    assert launch.returncode == 0, out + err
    assert remote.status()["recovered"] == [] and what_is_left(remote) == {}


def test_a_host_that_comes_back_after_it_was_lost_ends_what_is_left_there(
    remote: Cluster, servers: list[Sshd]
) -> None:
    job = remote.job(remote.sleep, timeouts=TIMEOUTS)
    with remote.launching(job) as launch:
        remote.wait_until_running()
        servers[1].vanish()
        out, _ = launch.communicate(timeout=120)
    assert launch.returncode == 1
    assert "Cause: rank 2 on node3 was lost: " in out
    assert "workers may be left on node3, lost before the run ended; not stopped yet" in out
    assert len(remote.sleepers()) == 2
    found, text = diagnosed(remote)
    assert found["cause"]["kind"] == "host_lost" and found["cause"]["culprit"]["host"] == "node3"
    assert found["unreachable"].keys() == {"node3"} and "node3: it cannot be asked" in text
    servers[1].start_again()
    eventually(lambda: not remote.sleepers(), what="the end of what was left")
    eventually(lambda: "may be left" not in remote.run("status").stdout, what="that it is known")
    assert remote.run("status").returncode == 1
    again = remote.launch(remote.job(["true"]))
    assert again.returncode == 0, again.stderr


def test_stop_while_a_host_vanishes_says_what_may_be_left_and_ends_it_later(
    remote: Cluster, servers: list[Sshd]
) -> None:
    """Its workers take their time to end, and before that it is away."""
    flag = remote.folder / "told"
    program = f"trap 'touch {flag}' TERM; while true; do {' '.join(remote.sleep)} & wait; done"
    job = remote.job(["sh", "-c", program], timeouts={**TIMEOUTS, "grace": 10})
    launched = remote.launch(job, "--detach")
    assert launched.returncode == 0, launched.stderr
    remote.wait_until_running()
    with subprocess.Popen(
        remote.argv("stop"),
        env=remote.env,
        cwd=remote.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stop:
        eventually(flag.exists, what="that the workers are told")
        servers[1].vanish()
        out, err = stop.communicate(timeout=120)
    assert "Traceback" not in err
    assert stop.returncode == 3, (stop.returncode, out, err)
    servers[1].start_again()
    eventually(lambda: not remote.sleepers(), what="the end of what was left")
    eventually(lambda: remote.status()["state"] == "stopped", what="stopped")
    assert remote.run("status").returncode == 5


# A Python whose clock is ahead, and that of all that it starts; options but -c and -m are left out.
_AHEAD = """\
#!{python} -IS
import runpy, sys, time
real, real_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: real() + {ahead}, lambda: real_ns() + {ahead} * 10**9
sys.executable, words = {path!r}, sys.argv[1:]
while words[0] not in ("-c", "-m") and words[0].startswith("-"):
    words.pop(0)
if words[0] == "-c":
    sys.argv[:] = ["-c", *words[2:]]
    exec(compile(words[1], "<string>", "exec"))
elif words[0] == "-m":
    sys.argv[:] = words[1:]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
else:
    sys.argv[:] = words
    runpy.run_path(words[0], run_name="__main__")
"""


@pytest.mark.parametrize("ahead", [3, pytest.param(-3, marks=LONG)])
def test_clocks_that_differ_and_victims_that_end_first_mislead_nobody(
    tmp_path: Path, servers: list[Sshd], ahead: int
) -> None:
    python = tmp_path / "python3"
    python.write_text(_AHEAD.format(python=sys.executable, ahead=ahead, path=str(python)))
    python.chmod(0o755)
    data = inventory_of(tmp_path, servers)
    data["hosts"][1]["python"] = str(python)
    cluster = Cluster(tmp_path, data)
    try:
        result = cluster.launch(meeting_job(cluster, "fail", victim=2))
        assert result.returncode == 1, result
        status = cluster.status()
        assert status["hosts"]["node3"]["clock"]["seconds"] == pytest.approx(ahead, abs=0.5)
        assert "Cause: not certain, probably rank 2 on node3 " in result.stdout, result.stdout
        ends = {rank["rank"]: rank for host in status["hosts"].values() for rank in host["status"]["ranks"]}
        assert "failed" in {ends[0]["state"], ends[1]["state"]} and ends[2]["state"] == "stopped"
        found, text = diagnosed(cluster)
        cause = found["cause"]
        assert (cause["kind"], cause["culprit"]["rank"]) == ("program_error", 2), cause
        assert "ValueError: the batch has another shape" in text
        assert cause["victims"] == ["rank_0", "rank_1", "rank_3"]
        # The agent that was asked last has the host's Python, too, and ends when it is hung up on.
        eventually(lambda: what_is_left(cluster) == {}, what="nothing is left")
    finally:
        cluster.close()
