"""Every kind of parallelism, alone and together, against one process: 8 ranks on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model.parallel import Strategy, cut
from orchestrator.checkpoint.ckpt_file import read_ckpt
from orchestrator.checkpoint.strategy_file import read_strategy
from orchestrator.collect import Collection, LocalFiles, collect
from tests.model.cluster import start, tails

pytestmark = pytest.mark.mindspore

STEPS = 10
ALONE = {"name": "1x1x1", "degrees": [1, 1, 1], "save": True, "logits": True}
PADDED = {"name": "1x2x1", "degrees": [1, 2, 1], "save": True, "logits": True}
ALL = {
    "name": "2x2x2 shard recompute sequence",
    "degrees": [2, 2, 2],
    "shard": True,
    "micro": 4,
    "recompute": True,
    "sequence": True,
    "save": True,
    "break": True,
}
# data, model, stages. Most of the time goes into compiling each of them on each of its ranks, so that the
# suite takes three; ALL_STRATEGIES=1 takes all.
MORE = [
    {"name": "2x1x1 shard", "degrees": [2, 1, 1], "shard": True},
    {"name": "1x1x2 micro 4", "degrees": [1, 1, 2], "micro": 4},
    {"name": "2x2x1 shard micro 2", "degrees": [2, 2, 1], "shard": True, "micro": 2},
    {"name": "1x2x2 recompute", "degrees": [1, 2, 2], "micro": 2, "recompute": True},
    {"name": "1x2x1 sequence", "degrees": [1, 2, 1], "sequence": True},
    {"name": "2x1x2", "degrees": [2, 1, 2]},
    {"name": "2x2x2", "degrees": [2, 2, 2]},
]
CASES = [
    ALONE,
    PADDED,
    *(MORE if os.environ.get("ALL_STRATEGIES") else []),
    {**ALL, "save": True, "break": True},
]
OTHERS = [case["name"] for case in CASES[1:]]


@dataclass(frozen=True)
class Finished:
    """What the cluster left: the arrays of every rank, its exit codes and its folder."""

    folder: Path
    codes: Mapping[str, int | None]
    ranks: Sequence[Mapping[str, np.ndarray]]

    def __getitem__(self, rank: int) -> Mapping[str, np.ndarray]:
        return self.ranks[rank]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies")
    cases = folder / "cases.json"
    cases.write_text(json.dumps([{**case, "steps": STEPS} for case in CASES]))
    command = [sys.executable, "-m", "tests.model.parallel_ranks", str(cases), str(folder)]
    codes = start(folder, command, 8, timeout=900)
    paths = [folder / f"rank_{rank}.npz" for rank in range(8)]
    assert all(path.exists() for path in paths), f"{codes}\n{tails(folder, codes)}"
    return Finished(folder, codes, [dict(np.load(path)) for path in paths])


@pytest.fixture(params=CASES[1:], ids=OTHERS)
def case(request):
    return request.param


def test_the_losses_of_ten_steps_are_those_of_one_process(found, case):
    expected = found[0]["1x1x1/loss"]
    assert len(expected) == STEPS and len(set(expected)) == STEPS
    assert any(abs(one - two) > 1e-2 for one, two in pairwise(expected))
    for rank in range(np.prod(case["degrees"])):
        np.testing.assert_allclose(found[rank][f"{case['name']}/loss"], expected, rtol=1e-4)


def test_all_ranks_report_the_same_numbers(found, case):
    for rank in range(1, np.prod(case["degrees"])):
        for kind in ("loss", "norm"):
            name = f"{case['name']}/{kind}"
            np.testing.assert_array_equal(found[rank][name], found[0][name])


def test_the_gradients_of_a_step_are_those_of_one_process(found, case):
    strategy = Strategy(*case["degrees"], vocab_size=33)
    whole = {
        name.removeprefix("1x1x1/grad/"): g for name, g in found[0].items() if name.startswith("1x1x1/grad")
    }
    seen = set()
    largest = max(np.abs(grad).max() for grad in whole.values())
    for rank in range(strategy.world_size):
        prefix, place = f"{case['name']}/grad/", strategy.place(rank)
        own = {name.removeprefix(prefix): g for name, g in found[rank].items() if name.startswith(prefix)}
        seen |= set(own)
        for name, grad in own.items():
            expected = cut(name, whole[name], strategy, place)
            np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-5 * largest, err_msg=name)
    assert seen == set(whole)


def collected(folder, world_size):
    """The shards of all ranks as one table of whole tensors."""
    strategies = {
        rank: read_strategy(folder / f"strategy/ckpt_strategy_rank_{rank}.ckpt") for rank in range(world_size)
    }
    source = LocalFiles({"here": folder / "checkpoint"})
    output = folder / "whole.ckpt"
    collect(source, ["here"], Collection(strategies, world_size, with_optimizer=True), output)
    return read_ckpt(output)


@pytest.mark.parametrize("name", ["1x2x1", "2x2x2 shard recompute sequence"])
def test_shards_combine_to_the_checkpoint_of_one_process(found, name):
    (single,) = (found.folder / "1x1x1/checkpoint/rank_0").glob("*.ckpt")
    expected = read_ckpt(single)
    merged = collected(found.folder / name, 8 if name.startswith("2x2x2") else 2)
    assert {k: v.dims for k, v in merged.items()} == {k: v.dims for k, v in expected.items()}
    table = "transformer.embedding.word_embedding.embedding_table"
    assert merged[table].dims == (33, 16)
    for tensor in expected:
        if "dense2.bias" in tensor or not tensor.startswith(("transformer", "adam_")):
            continue  # the true gradient of a bias of all keys is 0: what is there is noise
        value = expected[tensor].array()
        np.testing.assert_allclose(
            merged[tensor].array(), value, rtol=1e-2, atol=2e-3 * np.abs(value).max(), err_msg=tensor
        )


@pytest.mark.parametrize("name", ["1x1x1", "1x2x1", "2x2x2 shard recompute sequence"])
def test_a_shard_holds_all_that_the_training_needs_to_go_on_bit_by_bit(found, name):
    straight, resumed = found[0][f"{name}/straight"], found[0][f"{name}/resumed"]
    assert straight[0] != straight[1]
    np.testing.assert_array_equal(resumed, straight)


def test_logits_of_a_vocabulary_that_does_not_divide(found):
    expected = found[0]["1x1x1/logits"]
    assert expected.shape == (8, 8, 33)
    for rank in range(2):
        np.testing.assert_allclose(found[rank]["1x2x1/logits"], expected, rtol=1e-5, atol=1e-5)


def test_a_number_that_is_none_is_traced_to_its_stage_and_replica(found):
    for rank in range(8):
        assert found[rank]["origins"].tolist() == [6, 7]  # the model group of replica 1 on stage 1
        assert found[rank]["stopped"].all()


def test_a_rank_that_waits_in_vain_says_for_what_and_ends(found):
    assert found.codes["rank_7"] == 1
    log = (found.folder / "rank_7.log").read_text()
    assert (
        "error: rank 7: 2 s waiting for the activations from rank 0 in vain (look at that rank's log" in log
    )
