"""Discovery of the devices of many SSH hosts, next to a bare connection to the same hosts.

The hosts are the stand-ins of the tests behind one sshd: each call of a tool is a process of its own, on the
cores that the control node has, too.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from bench.loopback import CLIENT_CONFIG, PYTHON
from bench.report import Goal, Sample, Series, measure
from orchestrator.ascend.discovery import discover
from orchestrator.config.inventory import Host
from orchestrator.config.inventory_file import load_inventory
from orchestrator.hosts.fleet import fleet_of
from orchestrator.hosts.open_transport import open_transport
from orchestrator.testing.standin_cluster import FakeCluster

__all__ = ["Discovery"]

FAN_OUT = 32  # the fleet's own


class Discovery:
    """So many hosts of eight devices; what is measured opens its connections and closes them."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.hosts = hosts
        self._cluster = FakeCluster(folder, hosts, names=False)
        path = folder / "inventory.yaml"
        path.write_text(yaml.safe_dump(self._cluster.inventory(python=PYTHON)))
        self._inventory = load_inventory(path)
        sshd = self._cluster.sshd
        self._client_config = folder / "client_config"
        self._client_config.write_text(
            CLIENT_CONFIG.format(
                port=sshd.port, user=sshd.user, key=sshd.key_path, known_hosts=self._cluster.known_hosts
            )
        )
        self.bare = Series("bare connection, `true`")
        self.found = Series("discovery, 8 devices a host")
        self._measured: list[tuple[Series, Callable[[], Sample | None]]] = [
            (self.bare, self._connect),
            (self.found, self._discover),
        ]
        if shutil.which("clush"):
            self._measured.append((Series("clush -w HOSTS true"), self._run_clush))

    def warm_up(self) -> None:
        """What only the first of all pays: byte code, the page cache, the agent on the hosts."""
        self._connect()
        self._discover()

    def measure(self) -> None:
        """Everything once, each on a machine where nothing of the one before is left."""
        for series, work in self._measured:
            self._settle()
            series.samples.append(_timed(work))

    def _connect(self) -> None:
        with ThreadPoolExecutor(max_workers=FAN_OUT) as pool:
            codes = list(pool.map(self._run_true, self._inventory.hosts))
        if any(codes):
            raise RuntimeError("`true` has failed")

    def _run_true(self, host: Host) -> int:
        with open_transport(host, self._inventory.ssh) as transport:
            return transport.run(["true"]).exit_code

    def _discover(self) -> None:
        with fleet_of(self._inventory.hosts, self._inventory.ssh) as fleet:
            found = discover(fleet).raise_on_error()
        devices = [device for host in found.values() for device in host.devices]
        if len(devices) != self.hosts * 8 or {device.source for device in devices} != {"hccn_tool"}:
            raise RuntimeError("discovery has not found every device")

    def _run_clush(self) -> Sample:
        listed = ",".join(self._cluster.addresses.values())
        config = f"-F {self._client_config}"
        return measure(["clush", "-S", "-f", str(FAN_OUT), "-o", config, "-w", listed, "true"])

    def _settle(self, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while self._cluster.sshd.connections():
            if time.monotonic() > deadline:
                raise RuntimeError("connections are still open")
            time.sleep(0.05)

    def goal(self) -> Goal:
        return Goal("discovery / bare connection", self.found.wall / self.bare.wall, 1.3)

    def series(self) -> list[Series]:
        return [series for series, _ in self._measured]

    def close(self) -> None:
        self._cluster.close()


def _timed(work: Callable[[], Sample | None]) -> Sample:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    sample = work()  # a process of its own has measured itself
    return sample or Sample(time.perf_counter() - wall, time.process_time() - cpu)
