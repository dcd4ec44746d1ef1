"""Workers build a second family's network through the register: logits, training, answers, on MindSpore."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from model.config.load_config import load_config
from model.config.settings import Worker, load_settings
from model.errors import ModelError
from model.inference.cached_attention import PlainReader
from model.inference.evaluate import evaluate
from model.inference.load_model import open_model
from model.inference.mindir import export_graphs
from model.inference.sampling import Sampling
from model.network.build import NETWORKS, build, initialise
from model.parallel.mesh import Place, Strategy
from model.training.trainer import Trainer, train
from model.weights.checkpoint import load_whole
from orchestrator.checkpoint.files.strategy_files import read_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.config.worker_config import Data
from orchestrator.transfer.convert import plan_combine, write
from tests.families.toy import TOY, ToyConfig
from tests.families.toy_network import ToyNetwork
from tests.model.support.cluster import start, tails, write_job

pytestmark = pytest.mark.mindspore
TEXTS = ["what color is the sky?", "what color is the grass?", "what is up?", "what is down?"]


@pytest.fixture(autouse=True, scope="module")
def network() -> Iterator[None]:
    """As a row of `model/network/build.py` would put it there."""
    NETWORKS["toy"] = ToyNetwork
    yield
    del NETWORKS["toy"]


def expected_logits(weights: Mapping[str, np.ndarray], ids: np.ndarray, config: ToyConfig) -> np.ndarray:
    """The toy in NumPy, (S,) -> (S, V), by names that are written down here."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weights[f"model.{name}.weight"]

    x, length = weights["model.embedding.word_embedding.embedding_table"][ids], len(ids)
    for block in range(config.num_layers):
        name = f"layers.{block}"
        parts = (
            *(f"attention.{part}" for part in ("wq", "wk", "wv", "projection")),
            "output.up",
            "output.projection",
        )
        w = {part: weights[f"model.{name}.{part}.weight"] for part in parts}
        y = norm(x, f"{name}.norm1")
        q = (y @ w["attention.wq"].T).reshape(length, 4, 8)
        k, v = ((y @ w[f"attention.w{one}"].T).reshape(length, 2, 8) for one in "kv")
        heads = []
        for head in range(4):  # two heads of queries to one of keys
            scores = q[:, head] @ k[:, head // 2].T / np.sqrt(8)
            scores[np.triu_indices(length, 1)] = -np.inf
            chances = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(chances / chances.sum(-1, keepdims=True) @ v[:, head // 2])
        x = x + np.concatenate(heads, -1) @ w["attention.projection"]
        y = np.maximum(norm(x, f"{name}.norm2") @ w["output.up"].T, 0)
        x = x + y @ w["output.projection"]
    return norm(x, "ln_f") @ weights["lm_head.weight"].T


def test_the_network_has_the_names_and_shapes_of_the_table_and_computes_what_numpy_does() -> None:
    config = load_config("toy_tiny")
    net = build(config)
    initialise(net, config, 7, Strategy(), Place(0, 0, 0, 0))
    weights = {item.name: item.asnumpy() for item in net.get_parameters()}
    assert {name: value.shape for name, value in weights.items()} == config.shapes()
    assert sum(value.size for value in weights.values()) == config.parameter_count
    ids = np.random.default_rng(3).integers(0, config.vocab_size, 12).astype(np.int32)
    logits = net(ms.Tensor(ids[None])).asnumpy()[0]
    np.testing.assert_allclose(logits, expected_logits(weights, ids, config), atol=1e-4, rtol=1e-4)


def test_a_stage_has_its_blocks_under_their_numbers_and_only_its_own_table() -> None:
    config = load_config("toy_tiny")
    strategy = Strategy(model_parallel=2, pipeline_stage=2, family=TOY)
    first, last = (
        {item.name: item.shape for item in build(config, strategy, strategy.place(rank)).get_parameters()}
        for rank in (0, 3)
    )
    table, head = "model.embedding.word_embedding.embedding_table", "lm_head.weight"
    assert first[table] == (192, 32) == last[head]
    assert table not in last and head not in first
    assert first["model.layers.1.attention.wk.weight"] == (8, 32)
    assert {name.split(".")[2] for name in first if ".layers." in name} == {"0", "1"}
    assert {name.split(".")[2] for name in last if ".layers." in name} == {"2"}
    assert strategy.tied_ranks(strategy.place(0)) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    """A few steps of `train` as a worker makes them, and the whole checkpoint of its shard."""
    folder = tmp_path_factory.mktemp("toy")
    records = [{"instruction": text, "input": "", "output": "it is"} for text in TEXTS]
    (folder / "records.json").write_text(json.dumps(records))
    (folder / "worker.yaml").write_text(
        "task: finetune\nmodel: {preset: toy_tiny}\n"
        f"data: {{path: {folder}/records.json, seq_length: 32, template: none}}\n"
        "train: {steps: 6, batch_size: 4, learning_rate: 0.01, lr_schedule: constant, recompute: true}\n"
    )
    trainer = train(load_settings(folder / "worker.yaml"), Worker(), folder, lambda record: None)
    write(plan_combine(folder / "checkpoint", folder / "strategy"), folder / "model/toy.ckpt")
    return folder, trainer


def test_a_worker_trains_it_and_leaves_what_the_table_says(trained: tuple[Path, Trainer]) -> None:
    folder, trainer = trained
    losses = [json.loads(line)["loss"] for line in (folder / "metrics/rank_0.jsonl").read_text().splitlines()]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.5
    layouts = read_strategy(folder / "strategy/ckpt_strategy_rank_0.ckpt").layouts
    assert {name for name in layouts if not name.startswith("adam_")} == set(trainer.config.shapes())
    whole = read_ckpt(folder / "model/toy.ckpt")
    for item in trainer.weights:
        assert whole[item.name].array().tobytes() == item.asnumpy().tobytes()
    assert (folder / "model/config.yaml").read_text().startswith("family: toy\n")


def test_the_checkpoint_answers_and_is_evaluated(trained: tuple[Path, Trainer]) -> None:
    folder, trainer = trained
    model = open_model(folder / "model/toy.ckpt")
    ids = model.tokenizer.encode(TEXTS[0])
    (answer,) = model.generator.generate([ids], Sampling(4))
    assert isinstance(model.generator._reader, PlainReader)  # it has no network with a cache
    weights, text = {item.name: item.asnumpy() for item in trainer.weights}, list(ids)
    for token in answer:
        assert token == expected_logits(weights, np.array(text), model.config)[-1].argmax()
        text.append(token)
    found = evaluate(folder / "model/toy.ckpt", Data(path=str(folder / "records.json"), seq_length=32))
    assert found.records == 4 and np.isfinite(found.loss)
    with pytest.raises(ModelError, match="Toy has no network with a cache"):
        export_graphs(model.generator.network, model.config, folder / "a", folder / "b")


def test_four_ranks_train_it_as_one_does(tmp_path: Path) -> None:
    """Two model-parallel ranks, which a vocabulary of 383 does not divide over, in each of two stages."""
    chosen = {"preset": "toy_tiny", "overrides": {"num_layers": 2, "vocab_size": 383, "seq_length": 64}}
    alone, four = tmp_path / "alone", tmp_path / "four"
    settings = load_settings(write_job(alone, model=chosen, train={"steps": 3}))
    train(settings, Worker(), alone, lambda record: None)
    degrees = {"model_parallel": 2, "pipeline_stage": 2, "micro_batch_num": 2}
    write_job(four, parallel=degrees, model=chosen, train={"steps": 3})
    command = [sys.executable, "-m", "tests.families.toy_worker", "train", "--config", "worker.yaml"]
    codes = start(four, command, 4)
    assert set(codes.values()) == {0}, tails(four, codes)
    losses, wholes = [], []
    for folder, last in ((alone, 0), (four, 3)):
        lines = (folder / f"metrics/rank_{last}.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if "phase" not in line])
        write(plan_combine(folder / "checkpoint", folder / "strategy"), folder / "whole.ckpt")
        wholes.append({name: tensor.array() for name, tensor in read_ckpt(folder / "whole.ckpt").items()})
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert set(wholes[1]) == set(wholes[0]) and wholes[0]["lm_head.weight"].shape == (383, 32)
    for name, value in wholes[0].items():
        np.testing.assert_allclose(wholes[1][name], value, atol=1e-4, err_msg=name)


def test_a_checkpoint_of_another_family_does_not_fit(trained: tuple[Path, Trainer]) -> None:
    folder, _ = trained
    bloom = build(load_config("tiny"))
    with pytest.raises(ModelError, match=r"model\.layers\.\[0-2\]\.attention\.wk\.weight"):
        load_whole(folder / "model/toy.ckpt", list(bloom.get_parameters()))


def test_a_table_without_a_network_is_told() -> None:
    made = NETWORKS.pop("toy")
    try:
        with pytest.raises(ModelError, match="there is no network of family toy"):
            build(load_config("toy_tiny"))
    finally:
        NETWORKS["toy"] = made
