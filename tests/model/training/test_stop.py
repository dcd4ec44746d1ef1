"""Two real ranks in training, and signals: SIGUSR1 shows where they are, SIGTERM to one stops both.

They save behind their steps, so that their end has a write to wait for.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model.weights.checkpoint import steps_of
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.core.ends import SAVED_EXIT
from orchestrator.formats.shard_sum import read_sum, sum_of
from orchestrator.testing.waiting import eventually
from tests.model.support.cluster import MODEL, running, tails, write_job

pytestmark = pytest.mark.mindspore
STEPS = 2000


def metrics(folder: Path, rank: int) -> list[dict[str, Any]]:
    """The whole lines of a rank's file."""
    path = folder / f"metrics/rank_{rank}.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def steps(folder: Path, rank: int) -> list[int]:
    return [line["step"] for line in metrics(folder, rank) if "phase" not in line]


@dataclass(frozen=True)
class Stopped:
    """What two ranks left, of which the second was sent SIGUSR1 and then SIGTERM."""

    folder: Path
    codes: Mapping[str, int]
    shown: int  # the newest step when the stacks had been shown

    @property
    def last(self) -> int:
        return steps(self.folder, 0)[-1]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    small = {"preset": "tiny", "overrides": {"num_layers": 1}}
    write_job(
        folder,
        parallel={"data_parallel": 2},
        model=small,
        train={"steps": STEPS},
        checkpoint={"save_steps": STEPS, "async": True},
    )
    log = folder / "rank_1.log"
    with running(folder, [*MODEL, "train", "--config", "worker.yaml"], 2) as started:

        def are_on(step: int) -> bool:
            assert all(process.poll() is None for process in started.values()), tails(folder, started)
            return steps(folder, 0)[-1:] >= [step]

        eventually(lambda: are_on(2), timeout=300, what="a second step")
        started["rank_1"].send_signal(signal.SIGUSR1)
        eventually(lambda: "Current thread 0x" in log.read_text(), what="the stacks")
        shown = steps(folder, 0)[-1]
        eventually(lambda: are_on(shown + 1), what="another step")
        started["rank_1"].send_signal(signal.SIGTERM)
        ranks = ("rank_0", "rank_1")
        return Stopped(folder, {rank: ended(started[rank], folder) for rank in ranks}, shown)


def ended(process: subprocess.Popen[bytes], folder: Path) -> int:
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        pytest.fail(tails(folder, ("rank_0", "rank_1")))


def test_all_ranks_stop_after_the_same_step_and_say_that_they_have_saved(stopped: Stopped) -> None:
    assert stopped.codes == {"rank_0": SAVED_EXIT, "rank_1": SAVED_EXIT}, tails(stopped.folder, stopped.codes)
    assert steps(stopped.folder, 0) == steps(stopped.folder, 1) == list(range(1, stopped.last + 1))
    assert stopped.last < STEPS
    for rank in (0, 1):
        told = f"stopped by SIGTERM after step {stopped.last}, of which a checkpoint is saved\n"
        assert (stopped.folder / f"rank_{rank}.log").read_text().endswith(told)
        assert not (stopped.folder / f"done/rank_{rank}").exists(), "its work is not done"


def test_the_checkpoint_of_that_step_is_there_on_all(stopped: Stopped) -> None:
    for rank in (0, 1):
        assert steps_of(stopped.folder / "checkpoint", rank) == [stopped.last]
        (shard,) = (stopped.folder / f"checkpoint/rank_{rank}").glob("*.ckpt")
        found = read_ckpt(shard)
        assert int(found["step_num"].array()) == stopped.last and "adam_v.ln_f.gamma" in found
        assert read_sum(shard) == sum_of(shard)
        assert not [path.name for path in shard.parent.iterdir() if path.name.startswith(".")]


def test_stacks_are_shown_and_the_run_goes_on(stopped: Stopped) -> None:
    log = (stopped.folder / "rank_1.log").read_text()
    # Nearly always in a step; where exactly, is chance.
    assert re.search(r'trainer\.py", line \d+ in run', log)
    assert stopped.last > stopped.shown
    assert "thread 0x" not in (stopped.folder / "rank_0.log").read_text()


def test_phases_are_told_in_their_order(stopped: Stopped) -> None:
    for rank in (0, 1):
        found = metrics(stopped.folder, rank)
        told = [(line["phase"], line["can"]) for line in found if "phase" in line]
        early, late = ["stacks"], ["stacks", "save"]
        begin = [("import", early), ("init", early), ("compile", early)]
        assert told == [*begin, ("step", late), ("save", late), ("step", late)]
        assert [line.get("saved") for line in found if "phase" in line][-1] == stopped.last
        assert [line["step"] for line in found if line.get("phase") == "save"] == [stopped.last]
        first = next(number for number, line in enumerate(found) if "phase" not in line)
        assert found[first - 1]["phase"] == "step" and found[first]["step"] == 1
        assert [line["time"] for line in found] == sorted(line["time"] for line in found)


def test_a_rank_tells_how_long_it_computed_itself(stopped: Stopped) -> None:
    for rank in (0, 1):
        first, *others = [line for line in metrics(stopped.folder, rank) if "phase" not in line]
        assert "compute_s" not in first, "it compiled"
        assert all(0 < line["compute_s"] <= line["step_time_s"] for line in others) and others
