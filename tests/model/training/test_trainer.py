from __future__ import annotations

import functools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from model.config.load_config import load_config
from model.config.prompt_templates import wrap
from model.config.settings import Worker, load_settings
from model.data.tokenizer import load_tokenizer
from model.errors import ModelError
from model.inference.generate import Generator
from model.inference.sampling import Sampling
from model.network.build import build
from model.training.trainer import Trainer, train
from model.weights.checkpoint import load_whole, newest_shard
from orchestrator.checkpoint.files.strategy_files import read_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.checkpoint.host_files import LocalFiles
from orchestrator.transfer.collect import Collection, collect
from tests.model.support.cluster import ROOT, launch, write_job

pytestmark = pytest.mark.mindspore
REAL_DATA = ROOT / ".." / "shared" / "data" / "alpaca_en_demo.json"


@dataclass(frozen=True)
class FinishedRun:
    """A run directory as the workers left it."""

    folder: Path

    def metrics(self, rank: int) -> list[dict[str, Any]]:
        """The lines that tell of a step."""
        lines = (self.folder / f"metrics/rank_{rank}.jsonl").read_text().splitlines()
        return [found for found in map(json.loads, lines) if "phase" not in found]

    def losses(self, rank: int) -> list[float]:
        return [line["loss"] for line in self.metrics(rank)]


DEGREES = {"data_parallel": 2, "model_parallel": 2}
PARALLEL = {**DEGREES, "optimizer_shard": True, "use_seq_parallel": True}
# Most of the time is that of compiling, which each layer adds to.
MODEL = {"preset": "tiny", "overrides": {"hidden_act": "gelu", "num_layers": 1}}
WEIGHTS = 21


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Six steps on dp2 x mp2, four real processes that share the moments and cut the sequence."""
    folder = tmp_path_factory.mktemp("four")
    write_job(folder, parallel=PARALLEL, model=MODEL)
    launch(folder, "train", 4)
    return FinishedRun(folder)


@dataclass(frozen=True)
class AloneRun(FinishedRun):
    trainer: Trainer


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> AloneRun:
    """The same job in this process, with the batch of both replicas."""
    folder = tmp_path_factory.mktemp("alone")
    settings = load_settings(write_job(folder, model=MODEL, train={"batch_size": 8}))
    return AloneRun(folder, train(settings, Worker(), folder, lambda record: None))


def merge(folder: Path, output: Path, with_optimizer: bool = False) -> None:
    files = {rank: folder / f"strategy/ckpt_strategy_rank_{rank}.ckpt" for rank in range(4)}
    strategies = {rank: read_strategy(path) for rank, path in files.items()}
    source = LocalFiles({"here": folder / "checkpoint"})
    collect(source, ["here"], Collection(strategies, 4, with_optimizer=with_optimizer), output)


@pytest.fixture(scope="module")
def collected(four_ranks, tmp_path_factory):
    """The four shards as one file, with config and tokenizer beside it."""
    out = tmp_path_factory.mktemp("collected") / "demo.ckpt"
    merge(four_ranks.folder, out)
    for name in ("config.yaml", "tokenizer.json"):
        shutil.copy(four_ranks.folder / "model" / name, out.parent)
    return out


def whole_network(path):
    config = load_config(path.parent / "config.yaml")
    network = build(config)
    load_whole(path, list(network.get_parameters()))
    return network.set_train(False), config


def test_four_ranks_lose_what_one_process_loses(four_ranks, alone):
    for rank in range(4):
        np.testing.assert_allclose(four_ranks.losses(rank), alone.losses(0), rtol=1e-4)
    assert alone.losses(0)[-1] < alone.losses(0)[0] - 0.5


def test_metrics_have_what_the_monitor_reads(four_ranks):
    lines = four_ranks.metrics(3)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    always = {"step", "total_steps", "loss", "lr", "tokens_per_s", "step_time_s", "time", "grad_norm"}
    assert set(lines[0]) == always and lines[0]["grad_norm"] > 0
    assert lines[0]["lr"] == pytest.approx(2.5e-3) and lines[-1]["total_steps"] == 6


def test_the_collected_file_gives_the_logits_of_one_process(collected, alone):
    network, config = whole_network(collected)
    single = build(config)
    load_whole(newest_shard(alone.folder / "checkpoint", 0), list(single.get_parameters()))
    ids = ms.Tensor(np.random.default_rng(0).integers(4, 512, (1, 64)).astype(np.int32))
    expected = single.set_train(False)(ids).asnumpy()
    np.testing.assert_allclose(network(ids).asnumpy(), expected, rtol=1e-3, atol=1e-3)


def test_four_ranks_have_the_moments_of_one_process(four_ranks, alone, tmp_path):
    # Adam hardly feels a gradient of twice the size, so losses alone would not show one: its moments do.
    merge(four_ranks.folder, tmp_path / "all.ckpt", with_optimizer=True)
    merged, single = read_ckpt(tmp_path / "all.ckpt"), read_ckpt(newest_shard(alone.folder / "checkpoint", 0))
    moments = [name for name in single if name.startswith(("adam_m.", "adam_v."))]
    assert len(moments) == 2 * WEIGHTS
    for name in moments:
        if name.endswith("dense2.bias"):
            continue  # a bias of all keys shifts whole rows of scores: its true gradient is 0, the rest noise
        expected = single[name].array()
        np.testing.assert_allclose(
            merged[name].array(), expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max(), err_msg=name
        )


def test_replicas_hold_the_same_weights_and_shards_differ(four_ranks):
    shards = [read_ckpt(newest_shard(four_ranks.folder / "checkpoint", rank)) for rank in range(4)]
    own = set()
    for name, tensor in shards[0].items():
        if bytes(tensor.data) != bytes(shards[2][name].data):
            own.add(name)
        whole_on_all = tensor.dims == alone_dims(name)
        assert not whole_on_all or bytes(tensor.data) == bytes(shards[1][name].data), name
    assert len(own) > WEIGHTS and all(name.startswith(("adam_m.", "adam_v.")) for name in own), own
    cut_name = "blocks.0.output.mapping.weight"
    assert shards[0][cut_name].dims == (64, 128) and shards[1][cut_name].dims == (64, 128)
    assert bytes(shards[0][cut_name].data) != bytes(shards[1][cut_name].data)


def alone_dims(name):
    """The dims of the whole tensor."""
    bare = name.removeprefix("adam_m.").removeprefix("adam_v.")
    return whole_dims().get(bare, ())


@functools.cache
def whole_dims():
    return {item.name: tuple(item.shape) for item in build(load_config("tiny")).get_parameters()}


def test_mindspore_itself_merges_the_shards_the_same_way(four_ranks, collected, tmp_path):
    source = tmp_path / "source"
    for rank in range(4):
        shard = newest_shard(four_ranks.folder / "checkpoint", rank)
        (source / f"rank_{rank}").mkdir(parents=True)
        shutil.copy(shard, source / f"rank_{rank}")
    strategy = str(four_ranks.folder / "strategy/ckpt_strategy_rank_0.ckpt")
    ms.transform_checkpoints(str(source), str(tmp_path / "out"), "whole", strategy, None)
    (merged,) = (tmp_path / "out").glob("rank_0/*.ckpt")
    theirs, ours = ms.load_checkpoint(str(merged)), read_ckpt(collected)
    weights = [name for name in theirs if name.startswith(("embedding.", "blocks.", "ln_f."))]
    assert len(weights) == WEIGHTS
    for name in weights:
        np.testing.assert_array_equal(theirs[name].asnumpy(), ours[name].array())


# Of two replicas alone it is also what test_saves_behind_steps.py compares.
@pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 trains on four ranks twice (test-long)")
def test_the_same_seed_gives_the_same_bytes(four_ranks, tmp_path):
    # What a deterministic mode orders on an Ascend has one order on a CPU.
    write_job(tmp_path, parallel=PARALLEL, model=MODEL, train={"deterministic": True})
    launch(tmp_path, "train", 4)
    for rank in range(4):
        first = newest_shard(four_ranks.folder / "checkpoint", rank)
        assert newest_shard(tmp_path / "checkpoint", rank).read_bytes() == first.read_bytes()


def test_predict_over_four_ranks_answers_like_one_process(collected, tmp_path):
    prompts = ["What colour is milk?", "What is the capital of Peru?", "Hello"]
    write_job(
        tmp_path,
        task="predict",
        parallel=DEGREES,
        model=MODEL,
        checkpoint={"load": str(collected)},
        predict={"prompts": prompts, "max_new_tokens": 5},
    )
    launch(tmp_path, "predict", 4)
    network, config = whole_network(collected)
    tokenizer = load_tokenizer(collected.parent / "tokenizer.json", config)
    ids = [tokenizer.encode(wrap(prompt)) for prompt in prompts]
    texts = [tokenizer.decode(new) for new in Generator(network, config, 3).generate(ids, Sampling(5))]
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "answers").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [path.name for path in sorted((tmp_path / "answers").iterdir())] == [
        "rank_0.jsonl",
        "rank_2.jsonl",
    ]
    assert {line["index"]: (line["prompt"], line["text"]) for line in lines} == dict(
        enumerate(zip(prompts, texts, strict=True))
    )


def test_draws_depend_on_the_seed_alone(collected):
    network, config = whole_network(collected)
    generator = Generator(network, config, 2)
    options = Sampling(max_new_tokens=8, temperature=1.0, top_k=50, seed=3)
    pair = generator.generate([[9, 8, 7], [5, 6]], options)
    assert generator.generate([[5, 6]], options)[0] == pair[1]
    with pytest.raises(ModelError, match="a prompt of 64 tokens leaves no room in seq_length 64"):
        generator.generate([[5] * 64], options)
    full = generator.generate([[5] * 62], Sampling(max_new_tokens=8))[0]
    assert len(full) <= 2


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the Alpaca records are not on this machine")
def test_real_records_are_learned(tmp_path):
    path = write_job(
        tmp_path,
        data={"path": str(REAL_DATA), "limit": 64, "seq_length": 128},
        train={"steps": 20, "batch_size": 8, "learning_rate": 1e-2},
    )
    losses = []
    train(load_settings(path), Worker(), tmp_path, lambda record: losses.append(record.loss))
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.8
