"""A small cluster for tests: an inventory, a state directory of its own, and the CLI as real processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from orchestrator.control.monitor_process import monitor_pid
from orchestrator.control.runs import known_runs
from orchestrator.core.paths import ControlDir
from orchestrator.testing.waiting import eventually

__all__ = ["Cluster", "Result", "eventually", "processes_with"]

TIMEOUT = 300.0
Result = subprocess.CompletedProcess[str]


def processes_with(text: str) -> dict[int, str]:
    """Every process whose command line holds `text`, except this one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if text in line:
                found[int(entry.name)] = line
    return found


class Cluster:
    """Hosts in a folder, and `orchestrate` run against them as a person would run it."""

    def __init__(self, folder: Path, inventory: dict[str, Any]) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.inventory = folder / "inventory.yaml"
        self.inventory.write_text(yaml.safe_dump(inventory))
        # A command line of its own for every cluster, so that nobody else's process is taken for ours.
        self.sleep = ["sleep", f"3{secrets.randbelow(10**7):07d}"]
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.state), "COLUMNS": "100"}

    @classmethod
    def local(cls, folder: Path, hosts: int = 2, devices: str = "0-1", **entry: Any) -> Cluster:
        """Hosts that are folders of this machine."""
        defaults = {"workdir": str(folder / "hosts" / "{name}"), "devices": devices, **entry}
        listed = [{"name": f"host[1-{hosts}]"}]
        return cls(folder, {"transport": "local", "defaults": defaults, "hosts": listed})

    def job(self, command: Sequence[str], name: str = "job", **keys: Any) -> Path:
        """A job file with `task: command`."""
        path = self.folder / f"{name}.yaml"
        data = {
            "name": name,
            "task": "command",
            "devices_per_host": 2,
            "command": list(command),
            "networking": {"mode": "none"},
            "timeouts": {"grace": 2, "prepare": 60},
        }
        path.write_text(yaml.safe_dump({**data, **keys}))
        return path

    def argv(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *map(str, words)]

    def run(self, *words: str | Path, timeout: float = TIMEOUT) -> Result:
        """Run `orchestrate` to its end."""
        return subprocess.run(
            self.argv(*words),
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def launch(self, job: Path, *words: str, timeout: float = TIMEOUT) -> Result:
        return self.run("launch", job, "-i", self.inventory, *words, timeout=timeout)

    @contextmanager
    def launching(self, job: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`orchestrate launch` under way; killed at the end if it is still there."""
        process = subprocess.Popen(
            self.argv("launch", job, "-i", self.inventory, *words),
            env=self.env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def controls(self) -> list[ControlDir]:
        return sorted(known_runs(self.state / "orchestrate"), key=lambda control: control.root)

    def status(self, *words: str) -> Any:
        """`status --json` as data."""
        result = self.run("status", "--json", *words)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def states(self) -> dict[int, str]:
        """The state of every rank."""
        hosts = self.status()["hosts"].values()
        return {
            rank["rank"]: rank["state"]
            for host in hosts
            for rank in (host["status"] or {"ranks": []})["ranks"]
        }

    def wait_until_running(self, ranks: int = 4) -> None:
        eventually(
            lambda: bool(self.controls()) and list(self.states().values()) == ["running"] * ranks,
            what="running",
        )

    def kill_monitor(self) -> None:
        """SIGKILL the newest run's monitor, as a crash of the control node would."""
        control = self.controls()[-1]
        pid = eventually(lambda: monitor_pid(control), what="a monitor")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: monitor_pid(control) is None)

    def sleepers(self) -> dict[int, str]:
        """The workers of jobs that run `sleep` of this cluster."""
        return processes_with(" ".join(self.sleep))

    def run_dirs(self) -> list[Path]:
        """Run directories on all hosts."""
        return sorted(self.folder.glob("hosts/*/runs/*"))

    def close(self) -> None:
        """End whatever a test has left running, by the recorded identities."""
        for control in self.controls():
            if (pid := monitor_pid(control)) is not None:
                os.kill(pid, signal.SIGKILL)
            self.run("stop", control.run_id)
        eventually(lambda: not self.sleepers(), what="the end of all workers")
