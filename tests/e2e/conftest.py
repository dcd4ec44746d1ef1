"""Clusters that are taken down after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.ssh_cluster import ADDRESSES, inventory_of
from orchestrator.testing.sshd import Sshd


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Cluster]:
    """Two local hosts with two devices each."""
    cluster = Cluster.local(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def local_with(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster of local hosts of the given number and with the given keys."""
    made: list[Cluster] = []

    def make(**keys: Any) -> Cluster:
        made.append(Cluster.local(tmp_path, **keys))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Sshd]]:
    """Two sshds with keys of their own."""
    started = [Sshd(tmp_path / f"sshd{index}") for index in (0, 1)]
    yield started
    for server in started:
        server.stop()


@pytest.fixture
def remote(tmp_path: Path, servers: list[Sshd]) -> Iterator[Cluster]:
    """Two hosts over SSH: 127.0.0.2 on the first sshd and 127.0.0.3 on the second."""
    cluster = Cluster(tmp_path, inventory_of(tmp_path, servers))
    yield cluster
    cluster.close()


@pytest.fixture
def hosts_at(tmp_path: Path, servers: list[Sshd]) -> Iterator[Callable[..., Cluster]]:
    """Makes two hosts over SSH at the given addresses; `aliases` are what the ssh config says of names."""
    made: list[Cluster] = []

    def make(*addresses: str, **aliases: str) -> Cluster:
        data = inventory_of(tmp_path, servers)
        for index, address in enumerate(addresses):
            host = data["hosts"][index]
            host |= {"address": address, "device_ips": f"10.20.{index}.[1-2]"}
        lines = [f"Host {alias}\n  HostName {name}\n" for alias, name in aliases.items()]
        (tmp_path / "ssh_config").write_text("".join(lines))
        known = [server.known_hosts({*ADDRESSES, *addresses}) for server in servers]
        data["ssh"]["known_hosts"] = [str(path) for path in known]
        made.append(Cluster(tmp_path, data))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()
