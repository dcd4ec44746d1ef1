"""The freeing of disk space on a host: what may go, what may not, and that nothing else does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.content_store import Store
from orchestrator.agent.disk_space import disk_use, remove_run, sweep_store
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Input
from orchestrator.testing.agent_host import AgentHost, sh

LONG_AGO = time.time() - 2 * 86400


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    host = AgentHost(tmp_path / "workdir")
    yield host
    host.close()


def stored(host: AgentHost, *names: str, age: float = LONG_AGO) -> None:
    host.workdir.store.mkdir(parents=True, exist_ok=True)
    for name in names:
        (host.workdir.store / (name * 64)).write_bytes(bytes(10_000))
        os.utime(host.workdir.store / (name * 64), (age, age))


def test_a_run_that_is_over_goes_whole_and_a_link_of_it_is_not_followed(
    host: AgentHost, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(bytes(1 << 20))
    host.launch(sh(f"head -c 300000 /dev/zero > big; ln -s {tmp_path}/precious there"))
    host.wait_over()
    use = disk_use(host.workdir)
    assert [run.run_id for run in use.runs] == ["run-1"] and 300_000 <= use.runs[0].nbytes < 600_000
    assert remove_run(host.workdir, "run-1", dry_run=True) == use.runs[0].nbytes
    assert host.run_dir().root.exists()
    assert remove_run(host.workdir, "run-1", dry_run=False) == use.runs[0].nbytes
    assert list(host.workdir.runs.iterdir()) == []
    assert (tmp_path / "precious" / "file").exists()
    with pytest.raises(AgentError) as caught:
        remove_run(host.workdir, "run-1", dry_run=False)
    assert caught.value.kind == "no_run"


def test_a_run_that_goes_on_and_what_it_reads_stay(host: AgentHost) -> None:
    host.launch(sh("true"))
    host.wait_over()
    source = host.run_dir().root / "checkpoint"
    host.launch(sh(f"echo {source}/rank_0; sleep 300"), run_id="next")
    for run_id, kind, remedy in (
        ("next", "run_active", "`orchestrate stop next` ends it"),
        ("run-1", "run_needed", "wait for next, or stop it"),
    ):
        with pytest.raises(AgentError) as caught:
            remove_run(host.workdir, run_id, dry_run=False)
        assert (caught.value.kind, caught.value.remedy) == (kind, remedy)
    host.tell("stop", "next", reason="")
    host.wait_over("next")
    assert remove_run(host.workdir, "run-1", dry_run=False) > 0


@pytest.mark.parametrize("name", ["..", "../store", "", ".", "a/b"])
def test_nothing_but_a_run_is_removed(host: AgentHost, name: str) -> None:
    stored(host, "a")
    host.workdir.runs.mkdir()
    with pytest.raises(AgentError):
        remove_run(host.workdir, name, dry_run=False)
    assert list(host.workdir.store.iterdir()) and host.workdir.runs.exists()


def test_a_damaged_run_can_be_removed(host: AgentHost) -> None:
    (host.workdir.runs / "half").mkdir(parents=True)
    (host.workdir.runs / "half" / "manifest.json").write_text("{")
    assert remove_run(host.workdir, "half", dry_run=False) > 0
    assert list(host.workdir.runs.iterdir()) == []


def test_contents_that_no_run_was_given_go(host: AgentHost) -> None:
    stored(host, "a", "b", "c")
    stored(host, "d", age=time.time())
    host.launch(sh("true"), inputs=())
    host.wait_over()
    manifest = host.manifest(sh("true"), inputs=(Input("inputs/x", "a" * 64),))
    from orchestrator.core.codec import dumps

    host.run_dir().attempt.manifest.write_text(dumps(manifest))
    Store(host.workdir.store).missing(["b" * 64])  # a launch that has just asked will come for it
    assert sweep_store(host.workdir, dry_run=True) == sweep_store(host.workdir)
    assert sorted(path.name[0] for path in host.workdir.store.iterdir()) == ["a", "b", "d"]
    stored(host, "b")
    sweep_store(host.workdir, without=["run-1"])
    assert sorted(path.name[0] for path in host.workdir.store.iterdir()) == ["d"]
