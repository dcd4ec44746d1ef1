from __future__ import annotations

import resource

import mindspore as ms
import numpy as np
import pytest

from model.config.load_config import load_config
from model.errors import ModelError
from model.network.build import build, initialise
from model.parallel.mesh import Place, Strategy, cut
from model.training.optimizer import AdamW
from model.weights.checkpoint import (
    Progress,
    load_rank,
    load_rank_weights,
    load_whole,
    newest_shard,
    save_shard,
)
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt, write_safetensors
from orchestrator.core.errors import CheckpointError

CONFIG = load_config("tiny", {"vocab_size": 32, "num_layers": 3})
HOME = Place(0, 0, 0, 0)


def network(seed, strategy=Strategy(), place=HOME):  # noqa: B008  (frozen)
    cells = build(CONFIG, strategy, place)
    initialise(cells, CONFIG, seed, strategy, place)
    return cells


def arrays(cells):
    return {item.name: item.asnumpy() for item in cells.get_parameters()}


def test_a_shard_comes_back_with_moments_and_progress(tmp_path):
    first = network(1)
    weights = list(first.get_parameters())
    moments = list(AdamW(weights).adam_m)
    moments[0].set_data(ms.Tensor(np.full(moments[0].shape, 0.5, np.float32)))
    path = save_shard(tmp_path, "demo", 0, [*weights, *moments], Progress(2, 40), keep=5)
    assert path == tmp_path / "rank_0/demo_rank_0-2_40.ckpt"
    second = network(2)
    empty = list(AdamW(list(second.get_parameters())).adam_m)
    assert load_rank(path, list(second.get_parameters()), empty) == Progress(2, 40)
    for name, value in arrays(first).items():
        np.testing.assert_array_equal(arrays(second)[name], value)
    assert empty[0].asnumpy().min() == 0.5
    stored = ms.load_checkpoint(str(path))
    np.testing.assert_array_equal(stored[weights[0].name].asnumpy(), weights[0].asnumpy())
    assert int(stored["global_step"].asnumpy()) == 40


def test_only_the_newest_are_kept(tmp_path):
    weights = list(network(1).get_parameters())
    for step in (8, 9, 10):  # 10 sorts before 9 as a text
        save_shard(tmp_path, "demo", 0, weights, Progress(1, step), keep=2)
    kept = ("demo_rank_0-1_9.ckpt", "demo_rank_0-1_10.ckpt")
    names = {path.name for path in (tmp_path / "rank_0").iterdir()}
    assert names == {*kept, *(f"{name}.sum" for name in kept)}
    assert newest_shard(tmp_path, 0).name == "demo_rank_0-1_10.ckpt"
    with pytest.raises(ModelError, match="rank_1: holds no shard of this rank"):
        newest_shard(tmp_path, 1)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_whole_file_is_cut_for_the_place(tmp_path, suffix):
    full = arrays(network(1))
    path = tmp_path / f"whole.{suffix}"
    (write_ckpt if suffix == "ckpt" else write_safetensors)(path, full.items())
    strategy = Strategy(model_parallel=2)
    place = strategy.place(1)
    part = network(2, strategy, place)
    load_whole(path, list(part.get_parameters()), strategy, place)
    for name, value in arrays(part).items():
        np.testing.assert_array_equal(value, cut(name, full[name], strategy, place))


def test_bfloat16_weights_go_out_and_in_with_their_bits(tmp_path):
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    stored = ms.Parameter(ms.Tensor(values, ms.bfloat16), name="w")
    path = save_shard(tmp_path, "demo", 0, [stored], Progress(1, 1), keep=1)
    assert read_ckpt(path)["w"].dtype == "BFloat16"
    loaded = ms.Parameter(ms.Tensor(np.zeros(3, np.float32)), name="w")
    load_whole(path, [loaded])
    np.testing.assert_array_equal(loaded.asnumpy(), values)


def test_every_name_that_does_not_fit_is_listed(tmp_path):
    full = arrays(network(1))
    for layer in range(3):
        del full[f"blocks.{layer}.layernorm1.gamma"]
    full["classifier.weight"] = np.zeros(3, np.float32)
    full["ln_f.beta"] = np.zeros(3, np.float32)
    full["adam_m.ln_f.beta"] = np.zeros(3, np.float32)  # no weight: not missed, not extra
    path = tmp_path / "whole.ckpt"
    write_ckpt(path, full.items())
    with pytest.raises(ModelError) as caught:
        load_whole(path, list(network(2).get_parameters()))
    text = str(caught.value)
    assert "3 missing: blocks.[0-2].layernorm1.gamma" in text
    assert "1 extra: classifier.weight" in text
    assert "1 of another shape: ln_f.beta [3] for [64]" in text
    assert "\n" not in text


def test_what_mindformers_keeps_beside_the_weights_is_left(tmp_path):
    """What collect-ckpt leaves out is no name too many here: one table says what is no weight."""
    full = arrays(network(1))
    beside = ["scale_sense", "beta1_power", "beta2_power", "epoch_size", "batch_num", "momentum", "lr"]
    beside += ["loss_scale", "last_overflow_iterator_step", "learning_rate", "weight_decay", "global_step"]
    beside += ["blocks.0.key_past", "blocks.0.value_past"]  # parameters of a network with use_past
    beside += [f"{kind}.ln_f.beta" for kind in ("moments", "accum", "stat", "moment1", "adam_m")]
    path = tmp_path / "mf.ckpt"
    write_ckpt(path, [*full.items(), *((name, np.zeros(1, np.float32)) for name in beside)])
    cells = network(2)
    load_whole(path, list(cells.get_parameters()))
    for name, value in arrays(cells).items():
        np.testing.assert_array_equal(value, full[name])
    load_rank_weights(path, list(network(2).get_parameters()))


def test_a_full_disk_leaves_the_shard_before(tmp_path):
    weights = list(network(1).get_parameters())
    first = save_shard(tmp_path, "demo", 0, weights, Progress(1, 1), keep=1)
    before = first.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"1_2\.ckpt: cannot be written: File too large"):
            save_shard(tmp_path, "demo", 0, weights, Progress(1, 2), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name, f"{first.name}.sum"]
    assert first.read_bytes() == before


def test_the_loss_scale_comes_back(tmp_path):
    weights = list(network(1).get_parameters())
    progress = Progress(2, 40, loss_scale=1024.0, good_steps=7)
    path = save_shard(tmp_path, "demo", 0, weights, progress, keep=5)
    assert load_rank(path, weights, []) == progress
    load_whole(path, weights)  # no weight: not missed, not extra


def test_files_that_are_none(tmp_path):
    weights = list(network(1).get_parameters())
    good = save_shard(tmp_path, "demo", 0, weights, Progress(1, 1), keep=1).read_bytes()
    for content in (good[: len(good) // 2], b"PK\x03\x04" + good[:500], b""):
        (tmp_path / "bad.ckpt").write_bytes(content)
        with pytest.raises((CheckpointError, ModelError)) as caught:
            load_rank(tmp_path / "bad.ckpt", weights, [])
        assert str(caught.value).startswith(str(tmp_path / "bad.ckpt")) and "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="there is no such checkpoint file"):
        load_whole(tmp_path / "none.ckpt", weights)
    (tmp_path / "bad.ckpt").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError):
        load_whole(tmp_path / "bad.ckpt", weights)
