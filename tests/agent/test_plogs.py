"""CANN's logs of a run: listed and read without following anything out of the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.agent.plogs import list_plogs, read_plog
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.make()
    return made


def write(run: RunDir, name: str, text: str = "EI0006") -> Path:
    path = run.plogs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_of_all_ranks_are_listed_and_read(run: RunDir) -> None:
    assert list_plogs(run) == []
    write(run, "rank_0/debug/plog/plog-7_20260101.log", "0123456789")
    write(run, "scheduler/run/plog/plog-8_20260101.log")
    assert list_plogs(run) == [
        {"path": "rank_0/debug/plog/plog-7_20260101.log", "size": 10},
        {"path": "scheduler/run/plog/plog-8_20260101.log", "size": 6},
    ]
    assert read_plog(run, "rank_0/debug/plog/plog-7_20260101.log", 4) == b"6789"
    assert read_plog(run, "rank_0/debug/plog/plog-7_20260101.log", 99) == b"0123456789"


def test_links_and_odd_names_are_passed_over(run: RunDir, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    write(run, "rank_0/a.log")
    (run.plogs / "rank_0" / "link.log").symlink_to(secret)
    (run.plogs / "rank_1").symlink_to(tmp_path)
    os.mkfifo(run.plogs / "rank_0" / "pipe.log")
    write(run, "rank_0/.hidden")
    write(run, "rank_0/two words")
    assert [entry["path"] for entry in list_plogs(run)] == ["rank_0/a.log"]
    for path in ("rank_0/link.log", "rank_1/secret", "rank_0/gone.log"):
        assert read_plog(run, path, 99) == b""
    for path in ("../secret", "/etc/passwd", "rank_0/../../manifest.json", "", "rank_0/two words"):
        with pytest.raises(AgentError, match="no name of a log"):
            read_plog(run, path, 99)
    for path in ("rank_0/pipe.log", "rank_0"):
        with pytest.raises(AgentError, match="is no file"):
            read_plog(run, path, 99)
