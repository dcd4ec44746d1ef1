"""Content that is pushed: streamed, only where it is missing, and refused where a file has changed."""

from __future__ import annotations

import hashlib
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.errors import AgentError, OrchestrateError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.agent_zip import agent_bundle
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.push_content import (
    ContentFile,
    Pushed,
    content_files,
    push_missing,
    small_contents,
)
from orchestrator.hosts.session import Session


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    transport = LocalTransport("here")
    transport.connect()
    bundle = agent_bundle()
    workdir = str(tmp_path / "work")
    opened = Agent(Session(transport, python=sys.executable, workdir=workdir, bundle=bundle, timeout=60))
    yield opened
    opened.close()


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_only_what_is_missing_is_sent_and_counted(tmp_path: Path, agent: Agent) -> None:
    small, large = os.urandom(100), os.urandom(3 << 20)
    sources = {
        written(tmp_path / name, data): ContentFile(tmp_path / name)
        for name, data in (("small", small), ("large", large), ("empty", b""))
    }
    total = len(small) + len(large)
    counted: list[int] = []
    assert push_missing(agent, sources, timeout=60, count=counted.append) == Pushed(total, 0)
    assert sum(counted) == total and max(counted) <= 1 << 20
    for sha256, source in sources.items():
        assert (tmp_path / "work/store" / sha256).read_bytes() == b"".join(source)
    counted.clear()
    assert push_missing(agent, sources, timeout=60, count=counted.append) == Pushed(0, total)
    assert sum(counted) == total


def test_what_is_small_together_comes_along(tmp_path: Path) -> None:
    data = {"train.py": b"print('hello')", "empty": b"", "config.yaml": b"a: 1"}
    paths = {written(tmp_path / name, each): tmp_path / name for name, each in data.items()}
    assert small_contents(content_files(paths)) == {
        hashlib.sha256(each).hexdigest(): each for each in data.values()
    }
    paths[written(tmp_path / "large", bytes(1 << 14))] = tmp_path / "large"
    assert small_contents(content_files(paths)) == {}
    assert small_contents({}) == {}


def test_a_small_file_that_has_changed_is_named(tmp_path: Path) -> None:
    sha256 = written(tmp_path / "data", b"before")
    (tmp_path / "data").write_bytes(b"behind")
    with pytest.raises(OrchestrateError, match="data: has changed") as caught:
        small_contents({sha256: ContentFile(tmp_path / "data")})
    assert caught.value.remedy == "launch again"


def test_of_what_is_gone_nothing_comes_along(tmp_path: Path) -> None:
    sha256 = written(tmp_path / "data", b"data")
    (tmp_path / "data").unlink()
    assert small_contents(content_files({sha256: tmp_path / "data"}, may_be_gone=True)) == {}


def test_a_large_file_is_never_in_memory(tmp_path: Path, agent: Agent) -> None:
    path, size = tmp_path / "data.mindrecord", 64 << 20
    with path.open("wb") as file:
        file.truncate(size)
    sources = {ContentFile(path).sha256(): ContentFile(path)}
    tracemalloc.start()
    try:
        assert push_missing(agent, sources, timeout=60) == Pushed(size, 0)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize("change", [-1, 0, 1])
def test_a_file_that_has_changed_is_named(tmp_path: Path, agent: Agent, size: int, change: int) -> None:
    path = tmp_path / "data"
    sha256 = written(path, bytes(size))
    sources = {sha256: ContentFile(path)}
    path.write_bytes(b"\1" * (size + change))
    with pytest.raises(OrchestrateError, match="has changed since it was read for this launch") as caught:
        push_missing(agent, sources, timeout=60)
    assert (caught.value.where, caught.value.remedy) == (str(path), "launch again")
    assert not (tmp_path / "work/store" / sha256).exists()


def test_a_file_that_changed_before_the_push_is_named(tmp_path: Path, agent: Agent) -> None:
    sha256 = written(tmp_path / "data", b"before")
    (tmp_path / "data").write_bytes(b"behind")
    with pytest.raises(OrchestrateError, match="data: has changed") as caught:
        push_missing(agent, {sha256: ContentFile(tmp_path / "data")}, timeout=60)
    assert not isinstance(caught.value, AgentError)
    assert agent.missing([sha256]) == [sha256]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(OrchestrateError, match="none: cannot be read: No such file"):
        ContentFile(tmp_path / "none")


def test_a_file_that_is_gone_costs_only_who_lacks_it(tmp_path: Path, agent: Agent) -> None:
    had, lacked = (written(tmp_path / name, name.encode()) for name in ("had", "lacked"))
    sources = {had: tmp_path / "had", lacked: tmp_path / "lacked"}
    push_missing(agent, content_files({had: sources[had]}), timeout=60)
    for path in sources.values():
        path.unlink()
    with pytest.raises(OrchestrateError, match="had: cannot be read"):
        content_files(sources)
    assert push_missing(agent, content_files({had: sources[had]}, may_be_gone=True), timeout=60).sent == 0
    with pytest.raises(OrchestrateError, match="lacked: cannot be read: No such file"):
        push_missing(agent, content_files(sources, may_be_gone=True), timeout=60)
