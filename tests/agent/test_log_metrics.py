"""Metrics that are made of a worker's log: what is read of it, from which file, and where it is put."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.log_metrics import LogMetrics, LogTail, tokens_of_sample
from orchestrator.agent.mindformers_lines import MindFormersLines
from orchestrator.agent.rank_watch import RankWatch
from orchestrator.core.log_signatures import Meaning, meaning_of, telling_lines
from orchestrator.core.paths import AttemptDir
from orchestrator.core.records import Manifest, Phase, RankStatus, StallKind, WorkerSpec
from orchestrator.core.states import RankState
from orchestrator.testing.agent_host import RUN, AgentHost
from orchestrator.testing.waiting import eventually

NOW = 1_764_155_540.0  # 2025-11-26 11:12:20 UTC
LAUNCH = {"task": "mindformers"}
WHERE = "mindformers/core/callback/callback.py:747"


def said(text: str, second: int = 12, *, to_file: bool = False) -> str:
    clock = f"2025-11-26 11:12:{second:02d},000"
    if to_file:
        return f"[INFO] {clock} [{WHERE}] print_output_info: {text}\n"
    return f"{clock} - mindformers./output/log[{WHERE}] - INFO - {text}\n"


def step(number: int, *, overflow: bool = False) -> str:
    return (
        f"{{ Epoch:[  1/  2], step:[{number:5d}/  100], loss:[8.125000/8.125000], per_step_time: 314ms, "
        f"lr: 1e-05, overflow cond: {overflow}, loss_scale: 1.0, global_norm: [0.9909903]"
    )


class Worker:
    """A run on a host, whose one worker is whoever writes into its files."""

    def __init__(self, folder: Path) -> None:
        self.run = folder
        self.attempt = AttemptDir(folder / "attempts" / "1", folder)
        for name in ("logs", "metrics"):
            (self.attempt.root / name).mkdir(parents=True)
        self.log = self.attempt.log("rank_0")
        self.info = self.attempt.root / "log" / "rank_0" / "info.log"
        self.shared = folder / "output" / "log" / "rank_0" / "info.log"
        self.metrics = self.attempt.metrics(0)

    def start(self) -> LogMetrics:
        spec = WorkerSpec("rank_0", 0, 0, 0, ("x",))
        manifest = Manifest("r", "j", "h", 0.0, (spec,), world_size=2, launch=LAUNCH)
        return LogMetrics(self.attempt, self.run, spec, manifest, clock=lambda: NOW)

    def rows(self) -> list[dict[str, Any]]:
        return (
            [json.loads(line) for line in self.metrics.read_text().splitlines()]
            if self.metrics.exists()
            else []
        )

    def steps(self) -> list[int]:
        return [row["step"] for row in self.rows() if "phase" not in row]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


# Which log, and each line of it once.


def test_lines_become_metrics_as_they_come_and_each_once(worker: Worker) -> None:
    metrics = worker.start()
    metrics.look()
    assert worker.rows() == []
    line = said(step(1))
    append(worker.log, "loading\n" + line[:70])
    metrics.look()
    assert worker.rows() == []
    append(worker.log, line[70:] + said(step(2)))
    for _ in range(3):
        metrics.look()
    assert worker.steps() == [1, 2]
    assert [row["phase"] for row in worker.rows() if "phase" in row] == ["step"]


def test_where_the_output_tells_the_file_is_not_read(worker: Worker) -> None:
    metrics = worker.start()
    for number in (1, 2, 3):
        append(worker.log, said(step(number)))
        append(worker.info, said(step(number), to_file=True))
        metrics.look()
    assert worker.steps() == [1, 2, 3]


def test_the_file_is_read_where_the_output_says_nothing(worker: Worker) -> None:
    metrics = worker.start()
    append(worker.info, said("Build Net For Train", to_file=True) + said(step(1), to_file=True))
    append(worker.log, "a program's own words\n")
    metrics.look()
    assert worker.rows() == []  # the output may be a moment late
    append(worker.info, said(step(2), to_file=True))
    metrics.look()
    append(worker.log, said(step(2)))  # what comes there now was in the file
    append(worker.info, said(step(3), to_file=True))
    metrics.look()
    assert worker.steps() == [1, 2, 3]


def test_an_output_that_is_a_moment_late_is_chosen_all_the_same(worker: Worker) -> None:
    metrics = worker.start()
    append(worker.info, said(step(1), to_file=True))
    metrics.look()
    append(worker.log, said(step(1)))
    metrics.look()
    append(worker.info, said(step(2), to_file=True))
    append(worker.log, said(step(2)))
    metrics.look()
    assert worker.steps() == [1, 2]


def test_of_a_file_of_the_whole_run_only_what_this_attempt_writes(worker: Worker) -> None:
    append(worker.shared, said(step(90), to_file=True))  # by an attempt before
    metrics = worker.start()
    metrics.look()
    metrics.look()
    append(worker.shared, said(step(5), to_file=True))
    metrics.look()
    metrics.look()
    assert worker.steps() == [5]


def test_a_file_that_is_left_for_another_is_read_with_it(worker: Worker) -> None:
    """Until it has read its YAML MindFormers logs below `./output`."""
    metrics = worker.start()
    append(worker.shared, said("Build Net For Train", to_file=True))
    metrics.look()
    metrics.look()
    append(worker.info, said(step(1), to_file=True))
    metrics.look()
    assert worker.steps() == [1]


def test_one_that_ends_at_once_is_read_to_its_end(worker: Worker) -> None:
    metrics = worker.start()
    append(worker.info, "".join(said(step(number), to_file=True) for number in range(1, 6)))
    metrics.look(to_end=True)
    assert worker.steps() == [1, 2, 3, 4, 5]


def test_a_log_that_rotates_is_read_on(worker: Worker) -> None:
    metrics = worker.start()
    append(worker.info, said(step(1), to_file=True))
    metrics.look()
    metrics.look()
    append(worker.info, said(step(2), to_file=True))
    os.rename(worker.info, worker.info.with_name("info.log.1"))
    append(worker.info, said(step(3), to_file=True))
    for _ in range(3):
        metrics.look()
    append(worker.info, said(step(4), to_file=True))
    metrics.look()
    assert worker.steps() == [1, 2, 3, 4]


def test_a_log_that_is_emptied_begins_anew(worker: Worker) -> None:
    metrics = worker.start()
    append(worker.log, said(step(1)) * 3)
    metrics.look()
    worker.log.write_text(said(step(2)))
    metrics.look()
    assert worker.steps() == [1, 2]


# Bounds.


def test_of_a_log_that_floods_no_number_is_guessed_and_that_it_was_is_said(worker: Worker) -> None:
    metrics = worker.start()
    append(worker.log, said(step(1)))
    metrics.look()
    with worker.log.open("ab") as file:
        file.write(said(step(2)).encode())
        file.write(b"noise" * 200 * 1024 * 20 + b"\n")  # 20 MB in a line
        file.write(said(step(3)).encode())
    for _ in range(4):
        metrics.look()
    assert worker.steps() == [1, 3]
    (unseen,) = [row["unseen_bytes"] for row in worker.rows() if "unseen_bytes" in row]
    assert 18_000_000 < unseen < 21_000_000
    append(worker.log, said(step(4)))
    metrics.look()
    assert worker.steps() == [1, 3, 4]


def test_what_is_more_than_one_look_reads_is_read_at_the_next(worker: Worker) -> None:
    metrics = worker.start()
    with worker.log.open("w") as file:
        for number in range(1, 61):
            file.write("x" * 50_000 + "\n" + said(step(number)))
    metrics.look()
    assert 0 < len(worker.steps()) < 60
    for _ in range(4):
        metrics.look()
    assert worker.steps() == list(range(1, 61))


def test_of_lines_that_tell_much_so_many_are_taken_at_a_look(worker: Worker) -> None:
    metrics = worker.start()
    append(worker.log, "".join(said(step(1 + number % 100)) for number in range(2500)))
    counts = []
    for _ in range(4):
        metrics.look()
        counts.append(len(worker.steps()))
    assert counts == [1000, 2000, 2500, 2500]


def test_what_is_passed_over_at_the_end_is_said(worker: Worker) -> None:
    """Of lines that wait when a worker ends the first were gone without a word."""
    metrics = worker.start()
    lines = [said(step(1 + number % 100)) for number in range(12_000)]
    append(worker.log, "".join(lines))
    metrics.look(to_end=True)
    assert len(worker.steps()) == 10_000
    (unseen,) = [row["unseen_bytes"] for row in worker.rows() if "unseen_bytes" in row]
    assert unseen == len("".join(lines[:2000]))


def test_a_line_without_end_takes_no_room(tmp_path: Path) -> None:
    path, tail = tmp_path / "log", LogTail(tmp_path / "log", tmp_path)
    for _ in range(40):
        append(path, "x" * 100_000)
        assert tail.lines() == []
    append(path, said(step(1)) + said(step(2)))  # the first is the end of that line
    assert [line[-30:] for line in tail.lines()] == [said(step(2)).strip()[-30:]]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_read(worker: Worker, kind: str) -> None:
    other = worker.run / "other"
    append(other, said(step(1), to_file=True))
    worker.info.parent.mkdir(parents=True)
    makers = {
        "link": lambda: worker.info.symlink_to(other),
        "pipe": lambda: os.mkfifo(worker.info),
        "folder": worker.info.mkdir,
    }
    makers[kind]()
    metrics = worker.start()
    for _ in range(3):
        assert metrics.look() == []
    assert worker.rows() == []


def test_what_cannot_be_written_is_told_all_the_same(worker: Worker) -> None:
    metrics = worker.start()
    worker.metrics.mkdir()
    append(worker.log, said(step(1)))
    assert [line.get("step") for line in metrics.look()] == [None, 1]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("model:\n  model_config:\n    seq_length: 4096 # of it\n", 4096),
        ("a:\n  seq_length: 8\nb:\n  seq_length: 8\n", 8),
        ("a:\n  seq_length: 8\nb:\n  seq_length: 16\n", None),
        ("seq_length: &length 8\nb:\n  seq_length: *length  # as above\n", 8),
        ("seq_length: &length 8\nb:\n  seq_length: *other\n", None),
        ("seq_length: &length 8\nb:\n  seq_length: 9\n", None),
        ("a: 1\r\nseq_length: 8\r\nb: 2\r\n", 8),
        ("# seq_length: 8\nmax_seq_length: 8\n", None),
        ("seq_length: 0\n", None),
        ("", None),
    ],
)
def test_tokens_of_a_sample_only_where_the_yaml_says_one_number(
    tmp_path: Path, text: str, tokens: int | None
) -> None:
    (tmp_path / "mindformers.yaml").write_text(text)
    assert tokens_of_sample(tmp_path / "mindformers.yaml") == tokens
    assert tokens_of_sample(tmp_path / "none.yaml") is None


# What is made of it.


class Watched:
    """A rank whose log is looked at once a second, as its supervisor does; the clocks are the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watch, self.parser = RankWatch(), MindFormersLines(0, 1, NOW)
        self.status = RankStatus(0, 0, 0, RankState.RUNNING, started=NOW)

    def passes(self, seconds: int, *texts: str) -> tuple[StallKind | None, float | None]:
        for second in range(seconds):
            self.now += 1.0
            lines = (
                [said(text).strip().replace("2025-11-26 11:12:12", "no clock") for text in texts]
                if second == 0
                else []
            )
            for line in self.parser.feed(lines, NOW + self.now):
                self.status = self.watch.after(self.status, line, self.now, NOW + self.now)
            stall = self.watch.stall(self.status, self.now)
        return stall


def test_neither_a_compilation_nor_a_save_is_taken_for_a_stall() -> None:
    rank = Watched()
    assert rank.passes(4000, "Model Compiling, Please Wait a Moment...........") == (None, None)
    assert rank.status.phase is Phase.COMPILE
    for number in range(1, 11):
        assert rank.passes(2, step(number)) == (None, None)
    assert rank.status.phase is Phase.STEP and rank.watch.pace.median == 2.0
    assert rank.passes(900, "......Saving ckpt......", "step_num: 10") == (None, None)
    assert rank.status.phase is Phase.SAVE
    rank.passes(1, "Finish saving ckpt of epoch 1 step 10 using 899.000 seconds")
    assert (rank.status.phase, rank.status.saved, rank.status.save_write) == (Phase.STEP, 10, 899.0)
    assert rank.status.saving == pytest.approx(900, abs=2)
    assert rank.passes(59, step(11)) == (None, None)
    assert rank.passes(5)[0] is StallKind.NO_STEP


def test_a_save_without_an_end_ends_with_the_next_step() -> None:
    rank = Watched()
    rank.passes(1, step(1))
    rank.passes(300, "......Saving ckpt......")
    rank.passes(1, step(2))
    assert (rank.status.phase, rank.status.saved) == (Phase.STEP, None)
    assert rank.status.saving == pytest.approx(300, abs=2)


def test_a_step_whose_gradients_overflowed_is_told() -> None:
    rank = Watched()
    rank.passes(1, step(1, overflow=True))
    assert rank.status.progress["skipped"] is True
    rank.passes(1, step(2))
    assert "skipped" not in rank.status.progress


def test_that_a_loss_is_none_names_the_program() -> None:
    """Versions to 1.3.0 end with it (core/callback/callback.py, `_get_loss_output`)."""
    log = "ValueError: The current value of loss is NaN, terminate training."
    assert meaning_of(telling_lines(log)) is Meaning.CULPRIT


PROGRAM = """
    import logging, sys, time
    log = logging.Logger("mindformers./output/log")
    out = logging.StreamHandler(sys.stdout)
    out.setFormatter(logging.Formatter(
        "%(asctime)s - %(name)s[mindformers/core/callback/callback.py:747] - %(levelname)s - %(message)s"))
    log.addHandler(out)
    log.info(".........Model Compiling, Please Wait a Moment...........")
    for n in range(1, 7):
        done = (n - 1) // 3
        log.info("{ Epoch:[%3d/%3d], step:[%5d/%5d], loss:[%5.6f/%5.6f], per_step_time: %dms, lr: %s, "
                 "overflow cond: %s, loss_scale: %s, global_norm: %s",
                 1 + done, 2, n - 3 * done, 3, 9 - n, 9 - n, 10, 1e-5, False, 1.0, "[0.5]")
        if n == 3:
            log.info("......Saving ckpt......")
            log.info("step_num: 3")
            log.info("Finish saving ckpt of epoch 1 step 3 using 0.010 seconds")
        if n == 4 and sys.argv[1] == "waits":
            time.sleep(300)
    log.info(".........Training Over!.............")
"""


def program(how: str) -> tuple[str, ...]:
    return (sys.executable, "-u", "-c", textwrap.dedent(PROGRAM), how)


def test_a_supervisor_tells_of_such_a_worker_as_of_any(host: AgentHost) -> None:
    host.launch(program("waits"), program("waits"), launch=LAUNCH, world_size=2)
    eventually(lambda: [rank.progress.get("step") for rank in host.status().ranks] == [4, 4], 15, "steps")
    rank = host.status().ranks[1]
    assert (rank.phase, rank.saved, rank.progress["total_steps"]) == (Phase.STEP, 3, 6)
    assert (rank.progress["loss"], rank.progress["lr"], rank.progress["grad_norm"]) == (5.0, 1e-5, 0.5)
    assert rank.started is not None and 0 <= rank.progress["time"] - rank.started < 60
    host.tell("stop")
    host.wait_over()


def test_what_it_logs_at_its_end_is_in_its_metrics(host: AgentHost) -> None:
    host.launch(program("ends"), launch=LAUNCH, world_size=1)
    assert [str(rank.state) for rank in host.wait_over().ranks] == ["succeeded"]
    assert host.status().ranks[0].progress["step"] == 6
    rows = [json.loads(line) for line in host.run_dir(RUN).attempt.metrics(0).read_text().splitlines()]
    assert [row["step"] for row in rows if "phase" not in row] == [1, 2, 3, 4, 5, 6]
    assert [row["phase"] for row in rows if "phase" in row] == ["compile", "step", "save", "step"]


def test_another_task_is_not_read_so(host: AgentHost) -> None:
    host.launch(program("ends"), launch={"task": "command"})
    host.wait_over()
    assert not host.run_dir(RUN).attempt.metrics(0).exists()
