"""Clusters that are taken down after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Cluster]:
    """Two local hosts with two devices each."""
    cluster = Cluster.local(tmp_path)
    yield cluster
    cluster.close()
