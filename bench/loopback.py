"""N hosts on one machine: one sshd of our own, and an address of 127.0.0.0/8 for each host."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.report import Sample, cpu_seconds, measure
from orchestrator.control.monitor_process import monitor_pid
from orchestrator.control.run_record import read_record
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RankState
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.sshd import Sshd

__all__ = ["CLIENT_CONFIG", "PYTHON", "SECONDS", "Launches", "Loopback", "end_sleepers"]

# How long the job sleeps: longer than any launch here takes, and not for ever should the bench be killed.
SECONDS = "120"
# The hosts' interpreter, the same for all that is measured; no virtual environment, as on a bare host.
PYTHON = os.path.realpath(sys.executable)

CLIENT_CONFIG = """\
Host *
    Port {port}
    User {user}
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""


class Loopback:
    """The sshd, its clients' configuration and the hosts' addresses."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.addresses = [f"127.0.{1 + index // 250}.{1 + index % 250}" for index in range(count)]
        self.sshd = Sshd(folder / "sshd", config=["Subsystem sftp internal-sftp"])  # for scp
        self.known_hosts = self.sshd.known_hosts(self.addresses)
        self.config = folder / "ssh_config"
        self.config.write_text(
            CLIENT_CONFIG.format(
                port=self.sshd.port,
                user=self.sshd.user,
                key=self.sshd.key_path,
                known_hosts=self.known_hosts,
            )
        )

    def inventory(self, folder: Path, count: int) -> dict[str, Any]:
        """The first `count` hosts, with work directories in `folder`."""
        defaults = {
            "port": self.sshd.port,
            "user": self.sshd.user,
            "key": str(self.sshd.key_path),
            "workdir": str(folder / "hosts" / "{name}"),
            "devices": "0",
            "python": PYTHON,
        }
        hosts = [
            {"name": f"host{index:03d}", "address": address}
            for index, address in enumerate(self.addresses[:count], start=1)
        ]
        ssh = {"config_file": str(self.config), "known_hosts": [str(self.known_hosts)], "connect_timeout": 30}
        return {"transport": "ssh", "ssh": ssh, "defaults": defaults, "hosts": hosts}

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until no connection is open: what one measurement leaves must not slow the next one down."""
        deadline = time.monotonic() + timeout
        while self.sshd.connections():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(self.sshd.connections())} connections are still open")
            time.sleep(0.05)

    def __enter__(self) -> Loopback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sshd.kill_connections()
        self.sshd.stop()


class Launches:
    """`orchestrate launch` onto hosts with work directories of their own; all is ended on the way out."""

    def __init__(self, loopback: Loopback, folder: Path, count: int) -> None:
        folder.mkdir()
        self._count = count
        self._cluster = Cluster(folder, loopback.inventory(folder, count))
        self._job = self._cluster.job(["sleep", SECONDS], devices_per_host=1)

    def launch(self) -> Sample:
        """One launch to the moment it returns; its CPU is that of the command and of the monitor by then."""
        argv = self._cluster.argv("launch", self._job, "-i", self._cluster.inventory, "--detach")
        command = measure(argv, env=self._cluster.env, cwd=self._cluster.folder)
        control = self._newest()
        pid = monitor_pid(control)
        monitor_cpu = cpu_seconds(pid) if pid is not None else 0.0
        ranks = read_record(control).ranks()
        running = [rank for rank in ranks if rank.state is RankState.RUNNING]
        if pid is None or len(running) != self._count:
            raise RuntimeError(f"{len(running)} of {self._count} ranks run, monitor {pid}")
        return Sample(command.wall, command.cpu + monitor_cpu)

    def stop(self) -> None:
        """End the newest run as a user would, and wait until its monitor is gone."""
        measure(self._cluster.argv("stop"), env=self._cluster.env, cwd=self._cluster.folder)
        control, deadline = self._newest(), time.monotonic() + 30
        while monitor_pid(control) is not None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _newest(self) -> ControlDir:
        return max(self._cluster.controls(), key=lambda control: control.plan.stat().st_mtime_ns)

    def __enter__(self) -> Launches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._cluster.close()


def end_sleepers(root: Path) -> None:
    """End what the shell loop started: by the pid it wrote down, if that is still the process it was."""
    for note in root.glob("*/pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(note.read_text())
            if os.path.samefile(f"/proc/{pid}/cwd", note.parent):
                os.kill(pid, signal.SIGTERM)
