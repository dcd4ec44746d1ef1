"""Twelve Ascend hosts of eight devices, connected once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.control.check import needs_without_job
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.preflight.checks import run_checks
from orchestrator.preflight.gather_facts import gather
from orchestrator.preflight.host_facts import Needs
from orchestrator.preflight.report import Report
from orchestrator.testing.standin_cluster import FakeCluster
from orchestrator.testing.standin_facts import HostFacts, host_facts

HOSTS = 12


class Twelve:
    """The cluster, and the checks over connections that are kept."""

    def __init__(self, cluster: FakeCluster, fleet: Fleet, inventory: Inventory) -> None:
        self.cluster = cluster
        self.fleet = fleet
        self.inventory = inventory
        self.needs: Needs = needs_without_job(inventory)
        self._changed: dict[str, int] = {}

    def sound(self, name: str) -> HostFacts:
        return host_facts(self.cluster.names().index(name))

    def become(self, name: str, facts: HostFacts) -> None:
        self._changed[name] = self.cluster.names().index(name)
        self.cluster.become(name, facts)

    def check(self, timeout: float = 10.0) -> Report:
        facts, errors = gather(self.needs, self.fleet, timeout=timeout)
        return run_checks(self.needs, facts, errors)

    def mend(self) -> None:
        for name, index in self._changed.items():
            self.cluster.become(name, host_facts(index))
        self._changed.clear()


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twelve]:
    folder = tmp_path_factory.mktemp("twelve")
    cluster = FakeCluster(folder, HOSTS)
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump(cluster.inventory()))
    inventory = load_inventory(path)
    with fleet_of(inventory.hosts, inventory.ssh) as fleet:
        yield Twelve(cluster, fleet, inventory)
    cluster.close()


@pytest.fixture
def twelve(connected: Twelve) -> Iterator[Twelve]:
    """All sound; sound again afterwards."""
    yield connected
    connected.mend()
