"""Names with a prefix, of older versions and of MindFormers' conversion, are read everywhere as own names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.checkpoint.cut.own_names import changed_names, under_own_names
from orchestrator.checkpoint.files.strategy_files import (
    Strategy,
    read_strategy,
    with_own_names,
    write_strategy,
)
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt, write_safetensors
from orchestrator.checkpoint.open_checkpoint import find_weights, open_checkpoint
from orchestrator.core.errors import CheckpointError
from orchestrator.transfer.convert import plan_combine, plan_split, plan_transform, write
from orchestrator.transfer.inspect import diff, inspect
from tests.golden.saved import OTHER_CUT, save_ranks, save_strategies, weights, with_prefix

TABLE, GAMMA = "embedding.word_embedding.embedding_table", "blocks.0.layernorm1.gamma"


def test_parameters_and_their_moments_lose_the_prefix_and_nothing_else_does() -> None:
    given = ["transformer." + TABLE, "adam_m.transformer." + GAMMA, "moments.transformer.ln_f.beta"]
    given += ["global_step", "transformer.head.weight", "transformer.blocks.0.key_past", "blocks.1.x"]
    assert list(under_own_names(dict.fromkeys(given))) == [
        TABLE,
        "adam_m." + GAMMA,
        "moments.ln_f.beta",
        "global_step",
        "head.weight",
        "transformer.blocks.0.key_past",  # no weight, so it is left out whatever it is called
        "blocks.1.x",
    ]
    assert changed_names([TABLE, "adam_m." + GAMMA, "global_step"]) == {}


@pytest.mark.parametrize(
    "stranger",
    ["transformer.position_embedding.table", "transformer.wte.weight", "transformer.blocks.0.lora_a"],
)
def test_another_network_with_the_prefix_keeps_its_names(stranger: str) -> None:
    assert changed_names(["transformer." + TABLE, stranger]) == {}


def test_huggingface_names_stay() -> None:
    assert changed_names(["transformer.ln_f.weight", "transformer.h.0.input_layernorm.weight"]) == {}


def test_a_parameter_with_the_prefix_and_without_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds ln_f\.beta twice, with a prefix before its name"):
        changed_names(["ln_f.beta", "transformer.ln_f.beta"])


def old(path: Path) -> None:
    """The file, or every file below the folder, as a version before 0.2 wrote it."""
    for file in [path] if path.is_file() else sorted(path.rglob("*.ckpt")):
        if file.name.startswith("ckpt_strategy"):
            known = read_strategy(file)
            layouts = {with_prefix(name): layout for name, layout in known.layouts.items()}
            write_strategy(file, Strategy(known.stage, layouts))
            continue
        held = {with_prefix(name): tensor for name, tensor in read_ckpt(file).items()}
        write_ckpt(file, held.items())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of eight ranks of before, and in `other` the strategies of today for four."""
    save_ranks(tmp_path / "run", "float32")
    old(tmp_path / "run")
    save_strategies(tmp_path / "other", OTHER_CUT)
    shard = tmp_path / "run/checkpoint/rank_0/mindformers_rank_0-1_20.ckpt"
    assert "adam_m.transformer." + TABLE in read_ckpt(shard)
    return tmp_path


def test_an_older_run_is_combined_inspected_and_transformed(run: Path) -> None:
    write(plan_combine(run / "run", None, with_optimizer=True), run / "all.ckpt")
    whole = read_ckpt(run / "all.ckpt")
    assert {f"adam_v.{name}" for name in weights()} < whole.keys()
    for name, value in weights().items():
        np.testing.assert_array_equal(whole[name].array(), value)
    rows = {row.name: row for row in inspect(run / "run").rows}
    assert rows[TABLE].shape == (96, 16) and rows[TABLE].cut == (2, 1)
    write(plan_transform(run / "run", None, run / "other", with_optimizer=True), run / "cut")
    write(plan_split(run / "all.ckpt", run / "other", with_optimizer=True), run / "split")
    for rank in range(4):
        (one,) = (run / f"cut/rank_{rank}").iterdir()
        (other,) = (run / f"split/rank_{rank}").iterdir()
        assert diff(one, other) == [] and "adam_m." + TABLE in read_ckpt(one)


def test_an_older_whole_file_is_split_and_is_the_same_as_one_of_today(run: Path) -> None:
    write(plan_combine(run / "run", None, with_optimizer=True), run / "all.ckpt")
    (run / "old.ckpt").write_bytes((run / "all.ckpt").read_bytes())
    old(run / "old.ckpt")
    assert diff(run / "all.ckpt", run / "old.ckpt") == []
    write(plan_split(run / "old.ckpt", run / "other", with_optimizer=True), run / "split")
    (shard,) = (run / "split/rank_3").iterdir()
    assert read_ckpt(shard)["adam_m." + TABLE].dims == (24, 16)


def test_several_files_with_an_index_are_found_under_own_names(tmp_path: Path) -> None:
    names = ["transformer." + TABLE, "transformer.ln_f.beta"]
    for number, name in enumerate(names):
        write_safetensors(tmp_path / f"part-{number}.safetensors", [(name, np.zeros((2, 2), np.float32))])
    index = {"weight_map": {name: f"part-{number}.safetensors" for number, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(find_weights(tmp_path)) == set(open_checkpoint(tmp_path).tensors) == {TABLE, "ln_f.beta"}


def test_a_strategy_file_is_written_anew_only_where_names_change(tmp_path: Path) -> None:
    save_strategies(tmp_path / "s", OTHER_CUT)
    file = tmp_path / "s/ckpt_strategy_rank_0.ckpt"
    today = file.read_bytes()
    assert with_own_names(today, "s") is today
    old(file)
    assert file.read_bytes() != today and with_own_names(file.read_bytes(), "s") == today
