"""Two real hosts for what is compared with a simulation, and one run on them under the real monitor.

`near` is a folder of this machine. `far` is a network namespace with an sshd of its own, whose link goes down
and whose processes can be killed all at once; its workdir is a small file system that can be filled.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.monitor import Monitor
from orchestrator.control.run_record import RunRecord
from orchestrator.control.runs import make_control_dir
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.simulation.faults import Fault
from orchestrator.testing.local_cluster import processes_with
from orchestrator.testing.sshd import Sshd, why_no_sshd
from orchestrator.testing.waiting import eventually
from tests.simulation import gang_worker

__all__ = ["WHY_NOT", "RealHosts", "real_hosts"]

WHY_NOT = why_no_sshd() or (
    "" if os.geteuid() == 0 and shutil.which("ip") else "needs root and `ip` for network namespaces"
)
_NET = f"10.213.{80 + os.getpid() % 150}"  # two of these tests may run at a time
_FAR, _OURS = f"{_NET}.2", f"{_NET}.1"
_NUMBERS = itertools.count()
_WORKER = str(Path(gang_worker.__file__))


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class RealHosts:
    """The hosts, and what befalls `far` and the ranks."""

    def __init__(self, folder: Path, space: str, disk: Path) -> None:
        self.folder = folder
        self.gang = folder / "gang"
        self.gang.mkdir()
        self._space, self._disk = space, disk
        self._prefix = ["ip", "netns", "exec", space]
        self._sshd = Sshd(folder / "far", prefix=self._prefix, address=_FAR)
        self._is_off = False
        (folder / "ssh_config").touch()

    def inventory(self) -> dict[str, Any]:
        known = self._sshd.known_hosts([_FAR])
        ssh = {
            "connect_timeout": 2,
            "known_hosts": [str(known)],
            "config_file": str(self.folder / "ssh_config"),
        }
        far = {
            "name": "far",
            "address": _FAR,
            "port": self._sshd.port,
            "user": self._sshd.user,
            "key": str(self._sshd.key_path),
            "python": sys.executable,
            "workdir": str(self._disk / "work"),
        }
        near = {"name": "near", "transport": "local", "workdir": str(self.folder / "near")}
        return {"ssh": ssh, "defaults": {"devices": "0-1"}, "hosts": [near, far]}

    def command(self, world: int, steps: int, term: float) -> list[str]:
        """The argv of every worker."""
        told = "{run_dir}/metrics/rank_{rank}.jsonl"
        argv = [sys.executable, "-S", _WORKER, "{rank}", str(world), str(self.gang), told]
        return [*argv, str(steps), str(term)]

    def workers(self) -> dict[int, int]:
        """The pid of every rank whose worker lives."""
        found = processes_with(f"{_WORKER} ")
        return {
            int(line.split(f"{_WORKER} ")[1].split()[0]): pid
            for pid, line in found.items()
            if str(self.gang) in line
        }

    # What befalls them.

    def befall(self, fault: Fault) -> None:
        """Have it happen now, as `Cluster.apply` of the simulation does."""
        {
            "kill": self._kill,
            "partition": lambda fault: self._set_link("down"),
            "power_off": self._power_off,
            "fill_disk": self._fill_disk,
            "return": self._return,
        }[fault.kind](fault)

    def _kill(self, fault: Fault) -> None:
        pid = self.workers().get(fault.rank or 0)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _power_off(self, fault: Fault) -> None:
        """The link first; then nobody there lives to see another end."""
        self._set_link("down")
        self._is_off = True
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in _ip("netns", "pids", self._space).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), number)

    def _fill_disk(self, fault: Fault) -> None:
        with (self._disk / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass

    def _return(self, fault: Fault) -> None:
        self._set_link("up")
        if self._is_off:
            self._is_off = False
            self._sshd.stop()
            self._sshd = Sshd(self.folder / "far", prefix=self._prefix, address=_FAR, port=self._sshd.port)

    def _set_link(self, state: str) -> None:
        _ip("-n", self._space, "link", "set", "inside", state)

    # One run.

    def keeping(self, run_id: str) -> set[str]:
        """The hosts that have a folder of this run."""
        places = {"near": self.folder / "near", "far": self._disk / "work"}
        return {name for name, place in places.items() if (place / "runs" / run_id).exists()}

    def run(self, plan: LaunchPlan, told: Callable[[RunRecord], bool], limit: float) -> None:
        """The real monitor, until it has nothing more to do or `told` says that it is enough."""

        def hear(record: RunRecord) -> None:
            if told(record):
                raise KeyboardInterrupt  # as a monitor that is told to end

        control = make_control_dir(plan, self.folder / "state")
        monitor = Monitor(control, told=hear)
        thread = threading.Thread(target=lambda: monitor.run(watch_only=False), daemon=True)
        thread.start()
        thread.join(limit)
        assert not thread.is_alive(), "the real run does not end"

    def close(self) -> None:
        for pid in _ip("netns", "pids", self._space).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self._sshd.stop()
        eventually(lambda: not self._end_workers(), what="the end of all workers")

    def _end_workers(self) -> dict[int, int]:
        left = self.workers()
        for pid in left.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


@contextlib.contextmanager
def real_hosts(folder: Path) -> Iterator[RealHosts]:
    """The two hosts, for one run. Skips the test where this machine does not allow them."""
    number = next(_NUMBERS)
    space, link = f"real{os.getpid()}-{number}", f"re{os.getpid() % 100000}-{number}"
    disk = folder / "disk"
    disk.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        try:
            _ip("netns", "add", space)
            stack.callback(_ip, "netns", "delete", space)
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(disk)],
                check=True,
                capture_output=True,
            )
            stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"not allowed here: {error.stderr}")
        _ip("link", "add", link, "type", "veth", "peer", "name", "inside", "netns", space)
        stack.callback(_ip, "link", "delete", link)
        _ip("addr", "add", f"{_OURS}/24", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", space, "addr", "add", f"{_FAR}/24", "dev", "inside")
        _ip("-n", space, "link", "set", "inside", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        # Known for good: who is away answers nothing, and nobody says in its place that it is not there.
        mac = json.loads(_ip("-j", "-n", space, "link", "show", "inside"))[0]["address"]
        _ip("neigh", "replace", _FAR, "lladdr", mac, "dev", link, "nud", "permanent")
        hosts = RealHosts(folder, space, disk)
        stack.callback(hosts.close)
        yield hosts
