"""Which shards of a rank stay, over the attempts of a run and with what the monitor has told."""

from pathlib import Path

import pytest

from model.weights.kept_shards import remove_old
from orchestrator.core.paths import RunDir
from orchestrator.formats.shard_sum import sum_path
from orchestrator.formats.told_step import read_told_step, write_told_step


def save(folder: Path, rank: int, *steps: int) -> None:
    home = folder / f"rank_{rank}"
    home.mkdir(parents=True, exist_ok=True)
    for step in steps:
        path = home / f"demo_rank_{rank}-1_{step}.ckpt"
        path.write_text("shard")
        sum_path(path).write_text("sum")


def steps(folder: Path, rank: int) -> list[int]:
    return sorted(int(path.stem.rpartition("_")[2]) for path in (folder / f"rank_{rank}").glob("*.ckpt"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "demo")
    run.make(1)
    return run


def test_alone_the_newest_stay_and_the_last_but_one_always(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save(folder, 0, 8, 9, 10)  # 10 sorts before 9 as a text
    remove_old(folder, 0, 2)
    assert steps(folder, 0) == [9, 10]
    assert len(list((folder / "rank_0").iterdir())) == 4  # with their checksums
    remove_old(folder, 0, 1)  # of 10 another rank may have saved nothing yet
    assert steps(folder, 0) == [9, 10]
    remove_old(folder, 0, 5)
    assert steps(folder, 0) == [9, 10]


def test_what_was_told_to_be_complete_stays_and_all_that_is_newer(run: RunDir) -> None:
    folder = run.root / "checkpoint"
    save(folder, 0, 10, 20, 30, 40, 50)
    write_told_step(run.root, 1, 20)
    remove_old(folder, 0, 1)
    assert steps(folder, 0) == [20, 30, 40, 50]  # nobody has told of them: the monitor is away
    write_told_step(run.root, 1, 50)
    remove_old(folder, 0, 1)
    assert steps(folder, 0) == [50]


def test_they_are_counted_over_attempts(run: RunDir) -> None:
    save(run.root / "checkpoint", 0, 10, 20, 30)
    write_told_step(run.root, 1, 30)
    run.make(2)
    first, second = run.attempts / "1/checkpoint", run.root / "checkpoint"
    save(run.attempts / "2/load", 0, 30)
    save(second, 0, 40)
    remove_old(second, 0, 2)
    assert (steps(first, 0), steps(second, 0)) == ([30], [40])
    save(second, 0, 50)
    remove_old(second, 0, 2)
    assert (steps(first, 0), steps(second, 0)) == ([30], [40, 50])  # which may be on no other host
    assert steps(run.attempts / "2/load", 0) == [30]
    write_told_step(run.root, 2, 50)
    remove_old(second, 0, 2)
    assert (steps(first, 0), steps(second, 0)) == ([], [40, 50])
    assert steps(run.attempts / "2/load", 0) == []  # it is not gone back to any more


def test_an_attempt_that_went_back_keeps_what_it_came_from(run: RunDir) -> None:
    first = run.root / "checkpoint"
    save(first, 0, 10, 20, 30)
    write_told_step(run.root, 1, 30)
    run.make(2)
    write_told_step(run.root, 1, 10, back=True)  # as the start of the attempt does
    second = run.root / "checkpoint"
    save(second, 0, 15)
    remove_old(second, 0, 1)
    assert steps(run.attempts / "1/checkpoint", 0) == [10, 20, 30]
    write_told_step(run.root, 2, 15)
    remove_old(second, 0, 1)
    assert (steps(run.attempts / "1/checkpoint", 0), steps(second, 0)) == ([], [15])


def test_ranks_of_another_layout_are_seen_to(run: RunDir) -> None:
    for rank in (0, 1, 2, 3):
        save(run.root / "checkpoint", rank, 10, 20)
    write_told_step(run.root, 1, 20)
    run.make(2)
    second = run.root / "checkpoint"
    for rank in (0, 1):
        save(second, rank, 30)
        remove_old(second, rank, 1)
    assert steps(run.attempts / "1/checkpoint", 3) == [20]  # until a step of the second is complete
    write_told_step(run.root, 2, 30)
    for rank in (0, 1):
        remove_old(second, rank, 1)
    assert [steps(run.attempts / "1/checkpoint", rank) for rank in range(4)] == [[], [], [], []]


def test_what_was_told_last_counts_and_nonsense_does_not(tmp_path: Path) -> None:
    assert read_told_step(tmp_path) is None
    write_told_step(tmp_path, 2, 10)
    write_told_step(tmp_path, 1, 90)
    assert read_told_step(tmp_path) == (2, 10)
    write_told_step(tmp_path, 1, 90, back=True)
    assert read_told_step(tmp_path) == (1, 90)
    for content in ("", "[]", '{"attempt": "x"}', "{" * 100_000):
        (tmp_path / "complete_step.json").write_text(content)
        assert read_told_step(tmp_path) is None
    (tmp_path / "complete_step.json").unlink()
    (tmp_path / "complete_step.json").symlink_to("/etc/passwd")
    assert read_told_step(tmp_path) is None
