"""Clusters that are taken down after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster


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
