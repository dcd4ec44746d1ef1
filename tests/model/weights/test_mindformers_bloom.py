"""Checkpoints that MindFormers 1.0.2's own Bloom has saved give its logits and its loss here.

The files and how they were made: `tests/model/support/references/make_mindformers.py`.
"""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from model.config.load_config import load_config
from model.data.dataset import Dataset
from model.errors import ModelError
from model.network.build import build
from model.network.loss import LossCell
from model.weights.checkpoint import load_rank, load_whole
from model.weights.convert import convert
from orchestrator.checkpoint.files.tensor_files import read_ckpt, read_safetensors, write_ckpt

FILES = Path(__file__).parents[1] / "support/references/mindformers"
SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 48, "seq_length": 12}
# Its residual and its head are float16, whatever the configuration says.
EOS = 2
CLOSE = {"atol": 5e-4, "rtol": 0}


@pytest.fixture(scope="module")
def values():
    with np.load(FILES / "values.npz") as stored:
        found = dict(stored)
    found["logits"] = found["logits"][found["ids"][:, :-1] != EOS]
    return found


def network():
    return build(load_config("tiny", {**SIZES, "hidden_act": "gelu"})).set_train(False)


def loaded(path):
    cells = network()
    load_whole(path, list(cells.get_parameters()))
    return cells


def logits(cells, ids):
    """At all positions but those of eos, which MindFormers' attention leaves out: nothing is learnt there."""
    return cells(ms.Tensor(np.abs(ids[:, :-1]))).asnumpy()[ids[:, :-1] != EOS]


def loss(cells, ids):
    data = Dataset(ids, EOS, "input")
    batch = data.take(np.arange(len(ids)), int(data.counts.sum()))
    given = (ms.Tensor(batch.tokens), ms.Tensor(batch.labels), ms.Tensor(batch.weights))
    return float(LossCell(cells).set_train(False)(*given).asnumpy())


def test_what_its_network_saves_gives_its_logits_and_its_loss(values):
    stored = read_ckpt(FILES / "bloom.ckpt")
    assert "blocks.0.key_past" in stored  # what a network with use_past holds beside its weights
    cells = loaded(FILES / "bloom.ckpt")
    assert {item.name for item in cells.get_parameters()} == {n for n in stored if "_past" not in n}
    np.testing.assert_allclose(logits(cells, values["ids"]), values["logits"], **CLOSE)
    assert loss(cells, values["ids"]) == pytest.approx(values["loss"].item(), abs=5e-4)


def test_what_its_training_saves_gives_its_loss(values):
    stored = read_ckpt(FILES / "trained.ckpt")
    assert {"scale_sense", "learning_rate", "epoch_num", "loss_scale"} < stored.keys()
    assert loss(loaded(FILES / "trained.ckpt"), values["ids"]) == pytest.approx(
        values["trained_loss"].item(), abs=5e-4
    )


def prefixed(path, **more):
    """As its conversion writes weights whose keys had the prefix."""
    held = {n: t for n, t in read_ckpt(FILES / "bloom.ckpt").items() if "_past" not in n}
    write_ckpt(path, {**{f"transformer.{name}": tensor for name, tensor in held.items()}, **more}.items())
    return held


@pytest.mark.parametrize("head", ["head.weight", "transformer.head.weight"])
def test_the_prefix_and_the_table_again_are_read(tmp_path, values, caplog, head):
    table = read_ckpt(FILES / "bloom.ckpt")["embedding.word_embedding.embedding_table"]
    prefixed(tmp_path / "belle.ckpt", **{head: table})
    cells = loaded(tmp_path / "belle.ckpt")
    assert "head.weight is the embedding again and is left out" in caplog.text
    np.testing.assert_allclose(logits(cells, values["ids"]), values["logits"], **CLOSE)


def test_a_head_that_is_not_the_table_is_refused(tmp_path):
    table = read_ckpt(FILES / "bloom.ckpt")["embedding.word_embedding.embedding_table"].array().copy()
    table[-1, -1] += 1
    prefixed(tmp_path / "other.ckpt", **{"head.weight": table})
    with pytest.raises(ModelError, match=r"head\.weight is not embedding\.word_embedding\.embedding_table a"):
        loaded(tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match=r"head\.weight is not the embedding again"):
        convert(tmp_path / "other.ckpt", tmp_path / "hf", config=config_file(tmp_path))


def config_file(folder):
    path = folder / "config.yaml"
    lines = [f"{key}: {value}" for key, value in {**SIZES, "hidden_act": "gelu"}.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_all_of_them_become_the_same_weights_of_huggingface(tmp_path):
    config, table = config_file(tmp_path), "embedding.word_embedding.embedding_table"
    held = prefixed(tmp_path / "belle.ckpt", **{"head.weight": read_ckpt(FILES / "bloom.ckpt")[table]})
    plain = convert(FILES / "bloom.ckpt", tmp_path / "plain", config=config)
    with_head = convert(tmp_path / "belle.ckpt", tmp_path / "with_head", config=config)
    assert plain.notes == () and with_head.notes == ("head.weight is the embedding again and is left out",)
    one, other = (read_safetensors(folder / "model.safetensors") for folder in (plain.path, with_head.path))
    assert one.keys() == other.keys()
    assert all(one[name].array().tobytes() == other[name].array().tobytes() for name in one)
    (tmp_path / "again").mkdir()  # beside the config that is ours another one would not be written
    back = convert(with_head.path, tmp_path / "again" / "back.ckpt")
    assert set(read_ckpt(back.path)) == set(held)


def test_a_training_goes_on_from_a_shard_with_the_prefix(tmp_path):
    """Weights, moments and how far it was, from a shard as versions before 0.2 wrote it."""
    cells = network()
    weights = list(cells.get_parameters())
    moments = [
        ms.Parameter(ms.Tensor(np.full(item.shape, 7, np.float32)), name=f"{kind}.{item.name}")
        for kind in ("adam_m", "adam_v")
        for item in weights
    ]
    stored = {f"transformer.{item.name}": np.full(item.shape, 3, np.float32) for item in weights}
    stored |= {
        f"{kind}.transformer.{item.name}": np.full(item.shape, number, np.float32)
        for number, kind in enumerate(("adam_m", "adam_v"), 4)
        for item in weights
    }
    stored |= {name: np.array(9, np.int32) for name in ("epoch_num", "step_num", "global_step")}
    write_ckpt(tmp_path / "old.ckpt", stored.items())
    progress = load_rank(tmp_path / "old.ckpt", weights, moments)
    assert progress.step == 9
    for item in (*weights, *moments):
        expected = {"adam_m": 4, "adam_v": 5}.get(item.name.partition(".")[0], 3)
        assert set(item.asnumpy().ravel()) == {expected}, item.name
