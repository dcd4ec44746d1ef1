"""Paths, and files that are replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from orchestrator.core.paths import ControlDir, RunDir, Workdir, atomic_write, state_root


def test_a_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    atomic_write(path, "ünïcode")
    assert path.read_text() == "ünïcode" and stat.S_IMODE(path.stat().st_mode) == 0o600
    atomic_write(path, b"new", mode=0o644)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    (target / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        atomic_write(target, b"a file cannot take the place of a folder")
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(target) == ["full"]


def test_a_reader_sees_whole_files_only(tmp_path: Path) -> None:
    path, over = tmp_path / "x", threading.Event()
    atomic_write(path, b"a" * 10_000)

    def write() -> None:
        while not over.is_set():
            atomic_write(path, b"a" * 10_000)
            atomic_write(path, b"b" * 20_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            assert path.read_bytes() in (b"a" * 10_000, b"b" * 20_000)
    finally:
        over.set()
        writer.join()


def test_a_run_directory_is_private_and_made_once(tmp_path: Path) -> None:
    run = Workdir(tmp_path / "deep" / "work").run("run-1")
    run.make()
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        run.make()


def test_names_in_a_run_directory() -> None:
    run = RunDir(Path("/w/runs/r"))
    assert run.log("rank_3") == Path("/w/runs/r/logs/rank_3.log")
    assert run.metrics(3) == Path("/w/runs/r/metrics/rank_3.jsonl")
    assert Workdir("/w").run("r").root == run.root
    assert ControlDir(Path("/s/runs/r")).run_id == "r"


def test_a_home_directory_in_a_workdir_is_expanded() -> None:
    assert Workdir("~/x").root == Path.home() / "x"


def test_where_the_control_node_keeps_its_runs(tmp_path: Path) -> None:
    before = os.environ.get("XDG_STATE_HOME")
    try:
        os.environ["XDG_STATE_HOME"] = str(tmp_path)
        assert state_root() == tmp_path / "orchestrate"
        del os.environ["XDG_STATE_HOME"]
        assert state_root() == Path.home() / ".local/state/orchestrate"
    finally:
        if before is not None:
            os.environ["XDG_STATE_HOME"] = before
