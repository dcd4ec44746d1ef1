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
    path = run.attempt.plogs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_of_all_ranks_are_listed_and_read(run: RunDir) -> None:
    assert list_plogs(run) == {"files": [], "left": {}}
    write(run, "rank_0/debug/plog/plog-7_20260101.log", "0123456789")
    write(run, "scheduler/run/plog/plog-8_20260101.log")
    assert list_plogs(run) == {
        "files": [
            {"path": "rank_0/debug/plog/plog-7_20260101.log", "size": 10},
            {"path": "scheduler/run/plog/plog-8_20260101.log", "size": 6},
        ],
        "left": {},
    }
    assert read_plog(run, "rank_0/debug/plog/plog-7_20260101.log", 4) == b"6789"
    assert read_plog(run, "rank_0/debug/plog/plog-7_20260101.log", 99) == b"0123456789"


def test_links_and_odd_names_are_counted_and_not_followed(run: RunDir, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    write(run, "rank_0/a.log")
    (run.attempt.plogs / "rank_0" / "link.log").symlink_to(secret)
    (run.attempt.plogs / "rank_1").symlink_to(tmp_path)
    os.mkfifo(run.attempt.plogs / "rank_0" / "pipe.log")
    write(run, "rank_0/.hidden")
    write(run, "rank_0/two words")
    write(run, ".odd/a.log")
    write(run, "rank_0/1/2/3/4/5/a.log")
    write(run, "rank_0/1/2/3/4/5/6/a.log")
    found = list_plogs(run)
    assert sorted(entry["path"] for entry in found["files"]) == ["rank_0/1/2/3/4/5/a.log", "rank_0/a.log"]
    assert found["left"] == {"rank_0": 5, "rank_1": 1, "": 1}
    # An empty log would say that there was nothing to say.
    for path in ("rank_0/link.log", "rank_1/secret", "rank_0/gone.log", "rank_0/a.log/b", "rank_9/a.log"):
        with pytest.raises(AgentError, match="cannot be read"):
            read_plog(run, path, 99)
    for path in ("../secret", "/etc/passwd", "rank_0/../../manifest.json", "", "rank_0/two words"):
        with pytest.raises(AgentError, match="no name of a log"):
            read_plog(run, path, 99)
    for path, what in {"rank_0/pipe.log": "a named pipe", "rank_0": "a folder"}.items():
        with pytest.raises(AgentError, match=f"cannot be read: it is {what}"):
            read_plog(run, path, 99)


def test_of_too_many_every_label_has_its_newest(run: RunDir) -> None:
    """The scheduler's, last by name, tell why nobody met; so do those of the rank that came last."""
    for index in range(6):
        for label in ("rank_0", "rank_10", "rank_2"):
            path = write(run, f"{label}/debug/plog/plog-{index}_20260101.log")
            os.utime(path, (1000 - index, 1000 - index))
    write(run, "scheduler/debug/plog/plog-1_20260101.log")
    found = list_plogs(run, most=9)
    taken: dict[str, list[str]] = {}
    for entry in found["files"]:
        label, _, name = entry["path"].partition("/")
        taken.setdefault(label, []).append(name.rpartition("/")[2][:6])
    assert taken.pop("scheduler") == ["plog-1"]
    assert taken == {
        "rank_0": ["plog-0", "plog-1", "plog-2"],
        "rank_10": ["plog-0", "plog-1", "plog-2"],
        "rank_2": ["plog-0", "plog-1"],
    }
    assert found["left"] == {"rank_0": 3, "rank_10": 3, "rank_2": 4}
    # In turn, so that a bound on bytes does not go by names either.
    assert {entry["path"].partition("/")[0] for entry in found["files"][:4]} == {*taken, "scheduler"}
