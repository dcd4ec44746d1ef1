"""Going on where a run has stopped, what stops a run, and how good its checkpoint is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from model.config.load_config import load_config
from model.config.settings import Worker, load_settings
from model.data.dataset import load_data
from model.errors import ModelError, TrainingError
from model.inference.evaluate import evaluate
from model.network.build import build
from model.training.metrics import StepRecord
from model.training.resume import common_step
from model.training.stop_request import StopRequest
from model.training.trainer import train
from model.weights.checkpoint import load_whole, newest_shard, steps_of
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.config.worker_config import Data
from tests.model.support.cluster import ROOT, run_alone, write_job

pytestmark = pytest.mark.mindspore
DEMO = ROOT / "jobs/data/demo.json"
# Everything that has a state: dropout, a dynamic loss scale, schedule, the place in the second epoch.
OPTIONS: dict[str, Any] = {
    "data": {"limit": 30, "seq_length": 64},
    "model": {
        "preset": "tiny",
        "overrides": {"hidden_dropout_rate": 0.1, "attention_dropout_rate": 0.1, "num_layers": 1},
    },
    "train": {"batch_size": 8, "loss_scale": "dynamic", "loss_scale_window": 2, "device_tflops": 0.1},
}


class Told(StopRequest):
    """A request that comes while step `after` + 1 is computed, without a signal; with 0, the first."""

    def __init__(self, after: int = 0) -> None:
        super().__init__()
        self.after, self.asked = after, not after

    def listen(self) -> None:
        pass

    def also(self, report: Callable[[StepRecord], None]) -> Callable[[StepRecord], None]:
        def both(record: StepRecord) -> None:
            self.asked = record.step >= self.after
            report(record)

        return both


def run(folder: Path, stop: Told | None = None, **sections: Any) -> list[StepRecord]:
    """One rank in this process, with OPTIONS."""
    merged = {name: {**values, **sections.pop(name, {})} for name, values in OPTIONS.items()}
    seen: list[StepRecord] = []
    settings = load_settings(write_job(folder, **merged, **sections))
    report = seen.append if stop is None else stop.also(seen.append)
    train(settings, Worker(), folder, report, stop=stop)
    return seen


@dataclass(frozen=True)
class WholeRun:
    folder: Path
    records: list[StepRecord]

    @property
    def checkpoint(self) -> Path:
        return newest_shard(self.folder / "checkpoint", 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> WholeRun:
    """Six steps without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    return WholeRun(folder, run(folder))


def test_a_resumed_run_ends_where_the_whole_run_ends(whole, tmp_path):
    (tmp_path / "from/rank_0").mkdir(parents=True)
    shutil.copy(whole.folder / "checkpoint/rank_0/mindformers_rank_0-1_3.ckpt", tmp_path / "from/rank_0")
    with pytest.raises(ModelError, match=r"data\.tokenizer: is missing, .* beside .*from"):
        run(tmp_path / "rest", checkpoint={"load": str(tmp_path / "from"), "resume": True})
    shutil.copy(whole.folder / "model/tokenizer.json", tmp_path / "from")
    # That it is told to stop in the last of all steps makes no difference.
    seen = run(tmp_path / "rest", Told(5), checkpoint={"load": str(tmp_path / "from"), "resume": True})
    assert [record.step for record in seen] == [4, 5, 6]
    assert steps_of(tmp_path / "rest/checkpoint", 0) == [6]
    for first, second in zip(whole.records[3:], seen, strict=True):
        assert (first.loss, first.lr, first.grad_norm) == (second.loss, second.lr, second.grad_norm)
        assert first.loss_scale == second.loss_scale and second.mfu > 0
    assert whole.records[0].loss_scale < whole.records[-1].loss_scale
    last = newest_shard(tmp_path / "rest/checkpoint", 0)
    assert last.read_bytes() == whole.checkpoint.read_bytes()


def test_a_run_that_was_told_to_stop_goes_on_as_if_it_had_not_been(whole, tmp_path):
    """In a step saved for this alone, then in one that is saved anyway: from there another test goes on."""
    seen = run(tmp_path / "first", Told(1))
    assert [record.step for record in seen] == [1, 2]
    assert steps_of(tmp_path / "first/checkpoint", 0) == [2]
    seen += run(
        tmp_path / "rest", Told(), checkpoint={"load": str(tmp_path / "first/checkpoint"), "resume": True}
    )
    assert [record.step for record in seen] == [1, 2, 3]
    assert steps_of(tmp_path / "rest/checkpoint", 0) == [3]
    for first, second in zip(whole.records[:3], seen, strict=True):
        assert (first.step, first.loss, first.lr) == (second.step, second.loss, second.lr)
        assert (first.grad_norm, first.loss_scale) == (second.grad_norm, second.loss_scale)
    undisturbed = whole.folder / "checkpoint/rank_0/mindformers_rank_0-1_3.ckpt"
    assert newest_shard(tmp_path / "rest/checkpoint", 0).read_bytes() == undisturbed.read_bytes()


def test_what_cannot_be_resumed_says_why(whole, tmp_path):
    load, tokenizer = {"load": str(whole.folder / "checkpoint")}, whole.folder / "model/tokenizer.json"
    with pytest.raises(ModelError, match=r"train: asks for 6 steps, but the checkpoint has done 6"):
        run(tmp_path, checkpoint=load)
    with pytest.raises(ModelError, match=r"was in epoch 2 after step 6, but with this data .* it is 5"):
        run(tmp_path, checkpoint=load, train={"steps": 7}, data={"limit": 10})
    with pytest.raises(ModelError, match=r"ckpt: is one whole file, which holds no rank's optimizer"):
        load = {"load": str(whole.checkpoint), "resume": True}
        run(tmp_path, checkpoint=load, data={"tokenizer": str(tokenizer)})
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelError, match=r"none: holds no shard of rank 0"):
        run(tmp_path, checkpoint={"load": str(tmp_path / "none")}, data={"tokenizer": str(tokenizer)})


def test_ranks_agree_on_the_newest_step_that_all_have(tmp_path):
    def gathered(*rows):
        table = np.full((len(rows), 16), -1, np.float32)
        for index, row in enumerate(rows):
            table[index, : len(row)] = row
        place = SimpleNamespace(rank=0)
        return SimpleNamespace(place=place, gather=lambda own: np.vstack([own[None], table]))

    (tmp_path / "rank_0").mkdir()
    for step in (9, 10):
        (tmp_path / f"rank_0/x_rank_0-1_{step}.ckpt").touch()
    assert common_step(tmp_path, gathered([9, 10], [8, 9])) == 9
    with pytest.raises(ModelError, match=r"holds no step that all ranks have; the newest are 10, 8"):
        common_step(tmp_path, gathered([8]))
    with pytest.raises(ModelError, match=r"holds no shard of rank 1, 2"):
        common_step(tmp_path, gathered([], []))
    # What distribute-ckpt has cut for the ranks is of step 0, and is there all the same.
    (tmp_path / "cut/rank_0").mkdir(parents=True)
    (tmp_path / "cut/rank_0/x_rank_0-0_0.ckpt").touch()
    assert common_step(tmp_path / "cut", gathered([0])) == 0


def of_mindformers(network, rows: np.ndarray, eos: int) -> tuple[float, int]:
    """The loss of MindFormers' bloom.py over rows (n, S + 1), in NumPy, and how many tokens it counts."""
    tokens, labels = rows[:, :-1], np.abs(rows[:, 1:])
    counted = (tokens != eos) * (tokens > 0)
    logits = network(ms.Tensor(np.abs(tokens))).asnumpy().astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(chances, labels[..., None], -1)[..., 0]
    return float((losses * counted).sum() / counted.sum()), int(counted.sum())


def test_shards_can_also_start_a_new_training_whose_loss_can_be_that_of_mindformers(whole, tmp_path):
    no_dropout = {"overrides": {"num_layers": 1}}
    load = {"load": str(whole.folder / "checkpoint"), "resume": False}
    options = {
        "checkpoint": load,
        "model": no_dropout,
        "data": {"tokenizer": str(whole.folder / "model/tokenizer.json")},
    }
    (record,) = run(tmp_path, **options, train={"steps": 1, "loss_mask": "input"})
    assert record.step == 1 and record.loss < whole.records[0].loss - 0.3
    config = load_config("tiny", {"num_layers": 1})
    network = build(config).set_train(False)
    load_whole(whole.checkpoint, list(network.get_parameters()))
    settings = load_settings(tmp_path / "worker.yaml")
    dataset, _ = load_data(settings, config)
    rows = dataset.ids[dataset.rows(1, 8, settings.train.seed)]
    assert record.loss == pytest.approx(of_mindformers(network, rows, config.eos_token_id)[0], rel=1e-5)
    given = replace(
        Data(seq_length=None), path=str(DEMO), limit=30, tokenizer=str(whole.folder / "model/tokenizer.json")
    )
    found = evaluate(
        whole.checkpoint, given, config_file=whole.folder / "model/config.yaml", loss_mask="input"
    )
    expected, tokens = of_mindformers(network, dataset.ids, config.eos_token_id)
    assert found.loss == pytest.approx(expected, rel=1e-5) and (found.tokens, found.records) == (tokens, 30)
    assert found.perplexity == pytest.approx(np.exp(expected), rel=1e-4)


def test_evaluate_from_the_command_line(whole, tmp_path):
    model = whole.folder / "model"
    words = ["--checkpoint", str(whole.checkpoint), "--data", str(DEMO), "--limit", "21"]
    done = run_alone(
        tmp_path, "evaluate", *words, "--config", str(model / "config.yaml"),
        "--tokenizer", str(model / "tokenizer.json"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    data = Data(path=str(DEMO), seq_length=None, limit=21, tokenizer=str(model / "tokenizer.json"))
    found = evaluate(whole.checkpoint, data, config_file=model / "config.yaml", batch_size=21)
    assert told["loss"] == pytest.approx(found.loss, rel=1e-5) and told["records"] == 21
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json beside the checkpoint"):
        evaluate(whole.checkpoint, replace(data, tokenizer=None))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_good(tmp_path):
    rates = {"learning_rate": 1e30, "lr_end": 1e30, "clip_grad": 0, "warmup_steps": 0, "loss_scale": None}
    told = r"rank 0: step (\d) gave a loss of .*the last checkpoint is of step (\d)"
    with pytest.raises(TrainingError, match=told) as caught:
        run(tmp_path, train=rates, checkpoint={"save_steps": 1})
    failed, good = map(int, re.search(told, str(caught.value)).groups())
    assert good == failed - 1 == steps_of(tmp_path / "checkpoint", 0)[-1]
    last = read_ckpt(newest_shard(tmp_path / "checkpoint", 0))
    assert all(np.isfinite(tensor.array()).all() for tensor in last.values())
    lines = (tmp_path / "metrics/rank_0.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, failed))
