"""A host whose workdir is on a small file system of its own, which fills."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.testing.agent_host import AgentHost

__all__ = ["host_on_small_disk"]


@contextmanager
def host_on_small_disk(disk: Path, size: str) -> Iterator[AgentHost]:
    """`size` as of `mount`, such as `1m`. The test is skipped where nobody may mount."""
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True
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
