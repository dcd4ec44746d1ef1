"""A host per test, under a path that needs care; taken down afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing.agent_host import AgentHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    """A host whose workdir has blanks, quotes and letters beyond ASCII in its name."""
    host = AgentHost(tmp_path / "wörk dir's 用户")
    yield host
    host.close()
