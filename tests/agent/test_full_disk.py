"""A disk with no space left: refused in words, nothing half-made, and no running worker is hurt."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.errors import AgentError
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.waiting import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[AgentHost]:
    """A host whose workdir is on a file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        host = AgentHost(disk / "work")
        try:
            yield host
        finally:
            host.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(host: AgentHost) -> Path:
    path = host.workdir.root / "filler"
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    return path


def test_a_push_that_does_not_fit_leaves_nothing(small: AgentHost) -> None:
    data = os.urandom(2 << 20)
    sha256 = hashlib.sha256(data).hexdigest()
    with pytest.raises(AgentError) as caught:
        small.session.call("push", payload=data, sha256=sha256, size=len(data))
    assert str(caught.value) == (
        f"here: {small.workdir.root}: No space left on device (free space there, or choose another workdir)"
    )
    assert os.listdir(small.workdir.store) == []
    assert small.session.call("missing", hashes=[sha256]) == [sha256]


def test_a_run_that_does_not_fit_is_not_half_made(small: AgentHost) -> None:
    fill(small)
    with pytest.raises(AgentError, match="No space left on device"):
        small.prepare(small.manifest(sh("true")))
    assert not small.run_dir().root.exists()


def test_a_run_outlives_a_disk_that_is_full_for_a_while(small: AgentHost, tmp_path: Path) -> None:
    small.launch(sh(f"while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done"))
    eventually(lambda: small.status().phase == "committed")
    filler = fill(small)
    # It writes every second while it can; filled again for what it may have let go of meanwhile.
    eventually(lambda: fill(small) and time.time() - small.status().updated > 1.5)
    assert small.status(RUN).phase == "committed"
    filler.unlink()
    (tmp_path / "go").touch()
    assert [str(rank.state) for rank in small.wait_over().ranks] == ["succeeded"]
