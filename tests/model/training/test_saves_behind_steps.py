"""Real ranks that save behind their steps: all after the same ones, the same files, and an end waits."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.config.settings import Worker, load_settings
from model.training.trainer import train
from model.weights.checkpoint import steps_of
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.core.ends import SAVED_EXIT
from orchestrator.formats.shard_sum import read_sum, sum_of
from orchestrator.testing.waiting import eventually
from tests.model.support.cluster import MODEL, launch, running, tails, write_job

pytestmark = pytest.mark.mindspore

RANKS = range(2)
PARALLEL = {"data_parallel": 2}
RATES = {"hidden_dropout_rate": 0.2, "attention_dropout_rate": 0.1}
SMALL = {"preset": "tiny", "overrides": {"num_layers": 1}}  # which compiles soon
DROPPING = {"preset": "tiny", "overrides": {"num_layers": 1, **RATES}}


def lines(folder: Path, rank: int) -> list[dict[str, Any]]:
    path = folder / f"metrics/rank_{rank}.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def saved(folder: Path, rank: int) -> list[int]:
    return [line["saved"] for line in lines(folder, rank) if "saved" in line]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same six steps of two ranks: saved after each of them, and when rank 0 says so.

    What a deterministic mode orders on an Ascend has one order on a CPU: the same seed gives the same bytes.
    """
    ways: dict[str, dict[str, Any]] = {
        "waits": {"save_steps": 1, "keep": 10},
        "behind": {"save_steps": None, "save_every": 0.001, "async": True, "keep": 10},
    }
    found = {}
    for name, options in ways.items():
        found[name] = tmp_path_factory.mktemp(name)
        mode = {"deterministic": name == "waits"}
        write_job(found[name], parallel=PARALLEL, model=DROPPING, train=mode, checkpoint=options)
        launch(found[name], "train", len(RANKS))
    return found


def test_all_ranks_save_after_the_same_steps(both: dict[str, Path]) -> None:
    steps = [steps_of(both["behind"] / "checkpoint", rank) for rank in RANKS]
    # A millisecond passes in a step, whatever the machine; when that is seen is rank 0's own affair.
    assert len(steps[0]) > 1 and steps[0][0] > 1 and steps[0][-1] == 6
    assert steps == [steps[0]] * len(RANKS)
    assert [saved(both["behind"], rank) for rank in RANKS] == steps
    assert [saved(both["waits"], rank) for rank in RANKS] == [[1, 2, 3, 4, 5, 6]] * len(RANKS)


def test_the_files_are_those_of_saves_that_are_waited_for(both: dict[str, Path]) -> None:
    for rank in RANKS:
        for path in sorted((both["behind"] / f"checkpoint/rank_{rank}").iterdir()):
            other = both["waits"] / f"checkpoint/rank_{rank}" / path.name
            assert other.read_bytes() == path.read_bytes(), path


def test_metrics_tell_how_long_each_save_took(both: dict[str, Path]) -> None:
    for rank in RANKS:
        for name, is_behind in (("waits", False), ("behind", True)):
            found = [line for line in lines(both[name], rank) if "saved" in line]
            assert all(0 < line["stall_s"] <= line["write_s"] for line in found)
            assert any(line["stall_s"] < line["write_s"] for line in found) is is_behind


def test_one_replica_with_the_same_batch_has_the_same_losses(both: dict[str, Path], tmp_path: Path) -> None:
    """The same records in two parts, and the same drops; of more replicas: test_fewer_replicas.py."""
    train_alone = {"batch_size": 8, "gradient_accumulation": 2}
    path = write_job(tmp_path, model=DROPPING, train=train_alone, checkpoint={"save_steps": None})
    train(load_settings(path), Worker(), tmp_path, lambda record: None)
    on_one, on_two = (
        [line["loss"] for line in lines(folder, 0) if "loss" in line] for folder in (tmp_path, both["waits"])
    )
    assert len(on_two) == 6 and len(set(on_two)) == 6
    np.testing.assert_allclose(on_one, on_two, rtol=1e-5)


# What an end waits for, and what stays: test_saver.py. Two ranks that stop, and then write: test_stop.py.
@pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 stops in the midst of saves (test-long)")
def test_a_stop_waits_for_the_write_and_saves_its_own_step(tmp_path: Path) -> None:
    write_job(
        tmp_path,
        parallel={"data_parallel": 2},
        model=SMALL,
        train={"steps": 2000},
        checkpoint={"save_steps": 1, "async": True, "keep": 1},
    )
    with running(tmp_path, [*MODEL, "train", "--config", "worker.yaml"], 2) as started:

        def has_saved() -> bool:
            assert all(process.poll() is None for process in started.values()), tails(tmp_path, started)
            return len(saved(tmp_path, 0)) >= 3

        eventually(has_saved, timeout=300, what="a third checkpoint")
        started["rank_1"].send_signal(signal.SIGTERM)
        codes = [started[f"rank_{rank}"].wait(120) for rank in (0, 1)]
    assert codes == [SAVED_EXIT, SAVED_EXIT], tails(tmp_path, started)
    last = [[line["step"] for line in lines(tmp_path, rank) if "loss" in line][-1] for rank in (0, 1)]
    assert last[0] == last[1] < 2000
    for rank in (0, 1):
        home = tmp_path / f"checkpoint/rank_{rank}"
        assert not [path.name for path in home.iterdir() if path.name.startswith(".")]
        # Nobody has told which step is complete: with one under way, one more stays.
        assert steps_of(tmp_path / "checkpoint", rank) == [last[0] - 2, last[0] - 1, last[0]]
        shards = list(home.glob("*.ckpt"))
        assert all(read_sum(shard) == sum_of(shard) for shard in shards)
        assert (
            int(read_ckpt(max(shards, key=lambda path: path.stat().st_mtime_ns))["step_num"].array())
            == last[0]
        )
