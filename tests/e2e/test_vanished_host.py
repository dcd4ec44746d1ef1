"""A host that vanishes from the network: a namespace of its own, whose link goes down during a run."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent import host_runs
from orchestrator.agent.device_locks import busy_devices
from orchestrator.agent.processes import is_alive
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.ends import StopKind
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import Manifest, WorkerSpec
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.testing.agent_host import processes_in
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.sshd import Sshd, why_no_sshd
from orchestrator.testing.waiting import eventually

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and `ip` for network namespaces"
    ),
]

# A network for each process that runs tests, of this suite and of another one on this machine.
NET = f"10.{214 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw9')[2:]) % 20}.{os.getpid() % 250}"
FAR = f"{NET}.2"

_NUMBERS = itertools.count()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[Sshd, str]]:
    """An sshd in a network namespace, reached over a pair of virtual links, and our end's name."""
    # Another name each time: the kernel takes a link down some time after its namespace is gone.
    number = next(_NUMBERS)
    name, link = f"orch{os.getpid()}-{number}", f"or{os.getpid() % 100000}-{number}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "inside", "netns", name)
        ip("addr", "add", f"{NET}.1/24", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{FAR}/24", "dev", "inside")
        ip("-n", name, "link", "set", "inside", "up")
        ip("-n", name, "link", "set", "lo", "up")
        with Sshd(tmp_path / "far", prefix=["ip", "netns", "exec", name], address=FAR) as server:
            yield server, link
        ip("link", "delete", link)
    finally:
        ip("netns", "delete", name)


def unreachable(status: dict[str, Any]) -> dict[str, Any] | None:
    """One and the same status, if it says that the far host cannot be reached."""
    return status if status["hosts"]["far"]["error"] else None


def test_a_vanished_host_is_unreachable_then_lost_and_the_others_are_stopped(
    tmp_path: Path, far: tuple[Sshd, str]
) -> None:
    far_sshd, link = far
    (tmp_path / "ssh_config").touch()
    hosts = [
        {
            "name": "far",
            "address": FAR,
            "port": far_sshd.port,
            "user": far_sshd.user,
            "key": str(far_sshd.key_path),
            "python": sys.executable,
            "workdir": str(tmp_path / "hosts" / "far"),
        },
        {"name": "near", "transport": "local", "workdir": str(tmp_path / "hosts" / "near")},
    ]
    ssh = {"known_hosts": [str(far_sshd.known_hosts([FAR]))], "config_file": str(tmp_path / "ssh_config")}
    cluster = Cluster(
        tmp_path, {"ssh": {**ssh, "connect_timeout": 2}, "defaults": {"devices": "0-1"}, "hosts": hosts}
    )
    job = cluster.job(cluster.sleep, timeouts={"unreachable": 5, "lost": 15, "grace": 2, "prepare": 30})
    try:
        with cluster.launching(job) as launch:
            cluster.wait_until_running()
            ip("link", "set", link, "down")
            seen = eventually(lambda: unreachable(cluster.status()), timeout=60, what="unreachable")
            assert seen["state"] == "running", "no verdict before the grace period is over"
            out, _ = launch.communicate(timeout=600)
        assert launch.returncode == 1
        assert "on far was lost" in out
        near = [rank["state"] for rank in cluster.status()["hosts"]["near"]["status"]["ranks"]]
        assert near == ["stopped", "stopped"]
        # The far workers could not be told; once the host is back, stop finds and ends them.
        assert len(cluster.sleepers()) == 2
        ip("link", "set", link, "up")
        assert cluster.run("stop").returncode == 0
        eventually(lambda: not cluster.sleepers(), what="no worker left")
    finally:
        cluster.close()


def far_host(far_sshd: Sshd, folder: Path) -> Fleet:
    """A fleet of the far host alone."""
    host = Host(
        name="far",
        address=FAR,
        port=far_sshd.port,
        user=far_sshd.user,
        key=str(far_sshd.key_path),
        python=sys.executable,
        workdir=str(folder / "far"),
    )
    (folder / "ssh_config").touch()
    known = (str(far_sshd.known_hosts([FAR])),)
    return fleet_of(
        [host], SshOptions(known_hosts=known, config_file=str(folder / "ssh_config"), connect_timeout=5)
    )


def test_an_attempt_on_a_host_that_is_cut_off_ends_with_its_lease(
    tmp_path: Path, far: tuple[Sshd, str]
) -> None:
    far_sshd, link = far
    run = Workdir(tmp_path / "far").run("r1")
    workers = tuple(
        WorkerSpec(f"rank_{rank}", rank, rank, rank, ("/bin/sh", "-c", "exec sleep 300")) for rank in (0, 1)
    )
    manifest = Manifest(
        "r1", "job", "far", time.time(), workers, devices=(0, 1), grace=1.0, monitor_lease=4.0, holds=3600.0
    )
    locks = Workdir(tmp_path / "far").locks
    try:
        with far_host(far_sshd, tmp_path) as fleet:
            fleet.each(lambda agent: agent.prepare(manifest, "a: 1\n", None)).raise_on_error()
            fleet.each(lambda agent: agent.start("r1")).raise_on_error()
            fleet.each(lambda agent: agent.commit("r1")).raise_on_error()
            until = time.monotonic() + 6.0  # longer than the lease: it is renewed
            while time.monotonic() < until:
                told = fleet.each(lambda agent: agent.renew("r1")).raise_on_error()
                assert told["far"].phase == "committed"
                time.sleep(0.2)
            pids = processes_in(run.root)
            assert len(pids) == 2
            ip("link", "set", link, "down")
            # Its files are on this machine's disk, whatever the network is.
            eventually(lambda: host_runs.status(run).is_over, timeout=60, what="over by its lease")
        status = host_runs.status(run)
        assert status.stop is not None and status.stop.kind is StopKind.LEASE_ENDED
        assert [str(rank.state) for rank in status.ranks] == ["stopped", "stopped"]
        assert not processes_in(run.root)
        # Its devices wait for the run's next attempt, and for nobody else.
        assert status.held == (0, 1) and busy_devices(locks, (0, 1)) == [0, 1]
        ip("link", "set", link, "up")
        with far_host(far_sshd, tmp_path) as fleet:
            found = fleet.each(lambda agent: agent.status("r1")).raise_on_error()["far"]
            assert found.is_over and found.held == (0, 1)
            fleet.each(lambda agent: agent.release("r1")).raise_on_error()
        assert busy_devices(locks, (0, 1)) == []
    finally:
        end_what_is_left(run)


def end_what_is_left(run: RunDir) -> None:
    for pid in processes_in(run.root):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(AgentError):
        status = host_runs.recorded(run)
        for process in (status.supervisor, status.guardian):
            if process is not None and is_alive(process):
                os.kill(process.pid, signal.SIGKILL)
