from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing.sshd import Sshd, why_no_sshd
from orchestrator.testing.transport_hosts import Target


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for all tests of the session; what breaks it starts its own."""
    if reason := why_no_sshd():
        print(reason)
        pytest.skip(reason)
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def target(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A host that can be reached; the keys and the agent of whoever runs the tests are out of the way."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Target.on(sshd, tmp_path)
