"""Paths, and files that are replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from orchestrator.core.paths import ControlDir, Workdir, atomic_write, state_root


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


def test_names_in_a_run_directory(tmp_path: Path) -> None:
    run = Workdir(tmp_path).run("r")
    attempt = run.make()
    assert run.root == tmp_path / "runs/r" and attempt.root == run.root / "attempts/1"
    assert attempt.log("rank_3") == attempt.root / "logs/rank_3.log"
    assert attempt.metrics(3) == attempt.root / "metrics/rank_3.jsonl"
    assert run.status == run.root / "status.json"
    assert ControlDir(Path("/s/runs/r")).run_id == "r"


def test_what_workers_write_by_its_old_name_is_in_their_attempt(tmp_path: Path) -> None:
    run = Workdir(tmp_path).run("r")
    attempt = run.make(answers=True, rank_table=True)
    for name in ("logs", "metrics", "strategy", "checkpoint", "model", "done", "answers"):
        (run.root / name / "x").write_text(name)
        assert (attempt.root / name / "x").read_text() == name
    for name in ("manifest.json", "worker.yaml", "rank_table.json"):
        (attempt.root / name).write_text(name)
        assert (run.root / name).read_text() == name
    run.supervisor_log.write_text("said")
    assert (run.root / "supervisor.log").read_text() == "said"
    targets = [os.readlink(path) for path in run.root.rglob("*") if path.is_symlink()]
    assert len(targets) == 12 and not any(target.startswith("/") for target in targets)


def test_another_attempt_takes_the_place_of_the_first_and_gives_it_back(tmp_path: Path) -> None:
    run = Workdir(tmp_path).run("r")
    run.make()
    (run.root / "checkpoint/step").write_text("of 1")
    run.supervisor_log.write_text("begun\n")
    run.make(2)
    assert (run.number, run.attempt.root.name) == (2, "2")
    assert os.listdir(run.root / "checkpoint") == [] and run.supervisor_log.read_text() == "begun\n"
    with pytest.raises(FileExistsError):
        run.make(2)
    run.discard(2)
    assert run.number == 1 and (run.root / "checkpoint/step").read_text() == "of 1"
    assert not (run.attempts / "2").exists()
    run.discard(1)
    assert not run.root.exists()


def test_a_run_of_an_older_version_is_its_own_attempt(tmp_path: Path) -> None:
    run = Workdir(tmp_path).run("r")
    (run.root / "checkpoint").mkdir(parents=True)
    assert run.number is None and run.attempt.root == run.root
    assert run.attempt.checkpoint == run.root / "checkpoint"
    assert run.attempt.manifest == run.root / "manifest.json"
    assert ControlDir(run.root).plan == run.root / "plan.json"
    run.discard(run.number)
    assert not run.root.exists()


def test_a_folder_that_a_program_has_put_in_the_place_of_a_link_counts(tmp_path: Path) -> None:
    run = Workdir(tmp_path).run("r")
    attempt = run.make()
    assert attempt.checkpoint == attempt.root / "checkpoint"
    (run.root / "checkpoint").unlink()
    (run.root / "checkpoint").mkdir()
    assert run.attempt.checkpoint == run.root / "checkpoint"
    # So does a link to elsewhere, which whoever reads it refuses: to take the empty folder would be silent.
    (run.root / "strategy").unlink()
    (run.root / "strategy").symlink_to(tmp_path)
    assert run.attempt.strategy == run.root / "strategy"


@pytest.mark.parametrize("name", ["0", "2/../..", "/tmp", "..", "", "²", "1" * 40])
def test_the_attempt_in_force_is_a_number_or_none(tmp_path: Path, name: str) -> None:
    run = Workdir(tmp_path).run("r")
    run.make()
    (run.attempts / "current").unlink()
    if name:
        (run.attempts / "current").symlink_to(name)
    assert run.number is None and run.attempt.root == run.root


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
