"""A disk with no space left: refused in words, nothing half-made, and no running worker is hurt."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.ends import StopKind
from orchestrator.core.errors import AgentError
from orchestrator.testing.agent_host import AgentHost, sh
from orchestrator.testing.waiting import eventually
from tests.agent.small_disk import host_on_small_disk

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[AgentHost]:
    """A host whose workdir is on a file system of a megabyte and a half; the agent takes a third of it."""
    with host_on_small_disk(tmp_path / "disk", "1536k") as host:
        yield host


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


def test_a_full_disk_keeps_no_supervisor_from_saying_what_becomes_of_a_run(
    small: AgentHost, tmp_path: Path
) -> None:
    """To the end, whose tails fit the slot, and which its own file tells."""
    small.launch(sh(f"while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done; exit 3"), sh("sleep 300"))
    eventually(lambda: small.status().phase == "committed")
    fill(small)
    (tmp_path / "go").touch()
    status = small.wait_over()
    assert [str(rank.state) for rank in status.ranks] == ["failed", "stopped"]
    end = status.ranks[0].end
    assert end is not None and (end.exit_code, status.failed_first) == (3, 0)


def test_what_fits_no_slot_of_a_full_disk_is_said_without_tails(small: AgentHost, tmp_path: Path) -> None:
    go = tmp_path / "go"
    line = "x" * 780
    talk = f"i=0; while [ $i -lt 20 ]; do echo {line}; i=$((i+1)); done"
    wait = f"while [ ! -e '{go}' ]; do sleep 0.05; done; exit 3"
    small.launch(*[sh(f"{talk}; {wait}")] * 3)
    eventually(
        lambda: all(small.run_dir().attempt.log(f"rank_{rank}").stat().st_size > 15000 for rank in range(3))
    )
    fill(small)
    go.touch()
    status = small.wait_over()
    assert {rank.end.exit_code for rank in status.ranks if rank.end and str(rank.state) == "failed"} == {3}
    assert all(rank.end is not None and rank.end.tail == () for rank in status.ranks)
    assert [path.name for path in small.run_dir().root.glob(".status*")] == []


def test_the_obituary_is_written_on_a_full_disk_too(small: AgentHost) -> None:
    small.launch(sh("sleep 300"))
    supervisor = small.status().supervisor
    fill(small)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    status = small.wait_over()
    assert status.stop is not None and status.stop.kind is StopKind.SUPERVISOR_ENDED
    assert [str(rank.state) for rank in status.ranks] == ["failed"]
