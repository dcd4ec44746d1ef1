"""Every kind of parallelism, alone and together, against one process: ranks on this machine."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.parallel.mesh import Strategy, cut, layout_of
from orchestrator.checkpoint.cut.slices import region
from orchestrator.checkpoint.files.strategy_files import read_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.checkpoint.host_files import LocalFiles
from orchestrator.transfer.collect import Collection, collect
from tests.model.support.cluster import start, tails
from tests.model.support.native_ranks import SHAPES

pytestmark = pytest.mark.mindspore


# Most of the time goes into compiling each case on each of its ranks, and the rest into ranks that wait for
# each other, so that the suite takes a few steps of those that together have every mechanism;
# ALL_STRATEGIES=1 takes all.
ALL = bool(os.environ.get("ALL_STRATEGIES"))
STEPS = 10 if ALL else 5
# Each layer is compiled anew: where no second stage needs a second one, one will do.
LEAST = {} if ALL else {"layers": 1}


def case(data: int, model: int, stages: int, *options: str, **more: Any) -> dict[str, Any]:
    """One strategy; its options are in its name."""
    name = " ".join((f"{data}x{model}x{stages}", *options))
    chosen = {"micro": 4 if stages > 1 else 1, **dict.fromkeys(options, True), **more}
    return {"name": name, "degrees": [data, model, stages], "steps": STEPS, **chosen}


def every() -> Iterator[dict[str, Any]]:
    """All layouts up to 2 x 2 x 2, with and without a sharded optimizer and recompute; and some more."""
    for degrees in itertools.product((1, 2), repeat=3):
        own = ("shard", "recompute") if degrees[0] > 1 else ("recompute",)
        for size in range(len(own) + 1):
            for options in itertools.combinations(own, size):
                if options or degrees != (1, 1, 1):
                    yield case(*degrees, *options)
    yield {**case(2, 2, 1, "shard"), "name": "2x2x1 shard micro 2", "micro": 2}
    yield case(2, 2, 2, "shard", "sequence", "native")
    yield case(2, 1, 1, "shard", "native")
    yield case(2, 2, 2, "shard", "recompute", "sequence", save=True, broken=True)


ALONE = case(1, 1, 1, save=True, logits=ALL)
SMALL = case(1, 1, 1, save=True, logits=True, name="1x1x1 one layer", layers=1, first=1)
# With collectives that the CPU has, and so with whole gradients: those ranks also train in test_trainer.py.
LAYERS = case(2, 2, 1, "shard", "sequence", save=True, logits=True)
# With those that it has not, and so with pieces of gradients.
NATIVE = case(2, 2, 1, "shard", "sequence", "native", micro=2, save=True, logits=True, **LEAST)
STAGES = case(1, 2, 2, "recompute", save=True, broken=True)
OTHERS = [LAYERS, NATIVE, *every()] if ALL else [NATIVE, STAGES]
CASES = [ALONE, *([] if ALL else [SMALL]), *OTHERS]
BROKEN = CASES[-1]
WORLD = 8 if ALL else 4
SAVED = [case for case in CASES if case.get("save")]


def name_of(case: Mapping[str, Any]) -> str:
    return str(case["name"])


def alone(case: Mapping[str, Any]) -> dict[str, Any]:
    """The case of one process with as many layers."""
    return SMALL if case.get("layers") else ALONE


@dataclass(frozen=True)
class Finished:
    """What the cluster left: the arrays of every rank, its exit codes and its folder."""

    folder: Path
    codes: Mapping[str, int | None]
    ranks: Sequence[Mapping[str, np.ndarray]]

    def __getitem__(self, rank: int) -> Mapping[str, np.ndarray]:
        return self.ranks[rank]

    def first(self, case: Mapping[str, Any], kind: str) -> np.ndarray:
        """What the first rank of a case found."""
        return self.ranks[case.get("first", 0)][f"{name_of(case)}/{kind}"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies")
    cases = folder / "cases.json"
    cases.write_text(json.dumps(CASES))
    command = [sys.executable, "-m", "tests.model.support.parallel_ranks", str(cases), str(folder)]
    # Ranks that only the last cases need wait for the others' cases.
    patient = dict.fromkeys(("MS_CPU_COMM_OP_TIMEOUT", "MS_NODE_TIMEOUT"), "3000") if ALL else {}
    codes = start(folder, command, WORLD, timeout=3000, **patient)
    paths = [folder / f"rank_{rank}.npz" for rank in range(WORLD)]
    assert all(path.exists() for path in paths), f"{codes}\n{tails(folder, codes)}"
    return Finished(folder, codes, [dict(np.load(path)) for path in paths])


@pytest.fixture(params=OTHERS, ids=name_of)
def chosen(request):
    return request.param


def loss_deviation(found, case) -> float:
    """The largest relative one of any step on any rank."""
    expected, ranks = found.first(alone(case), "loss"), range(np.prod(case["degrees"]))
    found_losses = np.stack([found[rank][f"{case['name']}/loss"] for rank in ranks])
    return float(np.max(np.abs(found_losses / expected - 1)))  # NaN stays NaN


def gradient_deviation(found, case) -> float:
    """The largest one of any value on any rank, as part of the largest value in its tensor.

    A bias of all keys shifts whole rows of scores, so that its true gradient is 0: it is compared with the
    largest value of all tensors.
    """
    strategy = Strategy(*case["degrees"], optimizer_shard=case.get("shard", False), vocab_size=33)
    one = alone(case)
    prefix, of_one = f"{name_of(one)}/grad/", found[one.get("first", 0)]
    whole = {name.removeprefix(prefix): grad for name, grad in of_one.items() if name.startswith(prefix)}
    largest = max(np.abs(grad).max() for grad in whole.values())
    seen, deviations = set(), []
    for rank in range(strategy.world_size):
        prefix = f"{case['name']}/grad/"
        for key in (key for key in found[rank] if key.startswith(prefix)):
            name = key.removeprefix(prefix)
            scale = largest if name.endswith("dense2.bias") else np.abs(whole[name]).max()
            expected = gradient_of(rank, name, whole[name], strategy, case.get("native", False))
            assert found[rank][key].shape == expected.shape
            deviations.append(np.max(np.abs(found[rank][key] - expected)) / scale)
            seen.add(name)
    assert seen == set(whole)
    return float(np.max(deviations))


def gradient_of(rank: int, name: str, whole: np.ndarray, strategy: Strategy, native: bool) -> np.ndarray:
    """What the rank has of a gradient: its slice of the weight, or with native collectives of the moments."""
    if native and not strategy.pads(name):
        layout = layout_of(f"adam_m.{name}", whole.shape, strategy)
        return whole[tuple(slice(*span) for span in region(layout, whole.shape, rank))]
    return cut(name, whole, strategy, strategy.place(rank))


def test_the_losses_of_all_steps_are_those_of_one_process(found, chosen):
    expected = found.first(alone(chosen), "loss")
    assert len(expected) == STEPS and len(set(expected)) == STEPS
    assert any(abs(one - two) > 1e-2 for one, two in pairwise(expected))
    assert loss_deviation(found, chosen) < 1e-4


def test_the_gradients_of_a_step_are_those_of_one_process(found, chosen):
    assert gradient_deviation(found, chosen) < 1e-5


@pytest.mark.skipif(not ALL, reason="a table for people: ALL_STRATEGIES=1")
def test_a_table_of_the_largest_deviations(found, capsys):
    with capsys.disabled():
        print("\n\nlargest deviation from one process      losses  gradients")
        for each in OTHERS:
            losses, gradients = loss_deviation(found, each), gradient_deviation(found, each)
            print(f"{each['name']:38} {losses:.1e}    {gradients:.1e}")


def test_all_ranks_report_the_same_numbers(found, chosen):
    for rank in range(1, np.prod(chosen["degrees"])):
        for kind in ("loss", "norm"):
            name = f"{chosen['name']}/{kind}"
            np.testing.assert_array_equal(found[rank][name], found[0][name])


def test_all_ranks_hear_in_the_same_step_that_one_asks_to_stop_or_to_save(found, chosen):
    for kind, every in (("stops", 3), ("saves", 2)):
        expected = [number % every == 1 for number in range(STEPS)]
        for rank in range(np.prod(chosen["degrees"])):
            assert found[rank][f"{chosen['name']}/{kind}"].tolist() == expected


def collected(folder, world_size):
    """The shards of all ranks as one table of whole tensors."""
    strategies = {
        rank: read_strategy(folder / f"strategy/ckpt_strategy_rank_{rank}.ckpt") for rank in range(world_size)
    }
    source = LocalFiles({"here": folder / "checkpoint"})
    output = folder / "whole.ckpt"
    collect(source, ["here"], Collection(strategies, world_size, with_optimizer=True), output)
    return read_ckpt(output)


@pytest.mark.parametrize("case", [case for case in SAVED if case in OTHERS], ids=name_of)
def test_shards_combine_to_the_checkpoint_of_one_process(found, case):
    (single,) = (found.folder / name_of(alone(case)) / "checkpoint/rank_0").glob("*.ckpt")
    expected = read_ckpt(single)
    merged = collected(found.folder / case["name"], math.prod(case["degrees"]))
    assert {k: v.dims for k, v in merged.items()} == {k: v.dims for k, v in expected.items()}
    table = "embedding.word_embedding.embedding_table"
    assert merged[table].dims == (33, 16)
    for tensor in expected:
        if "dense2.bias" in tensor or not tensor.startswith(("transformer", "adam_")):
            continue  # the true gradient of a bias of all keys is 0: what is there is noise
        value = expected[tensor].array()
        np.testing.assert_allclose(
            merged[tensor].array(), value, rtol=1e-2, atol=2e-3 * np.abs(value).max(), err_msg=tensor
        )


@pytest.mark.parametrize("case", SAVED, ids=name_of)
def test_a_shard_holds_all_that_the_training_needs_to_go_on_bit_by_bit(found, case):
    straight, resumed = (found.first(case, kind) for kind in ("straight", "resumed"))
    assert straight[0] != straight[1]
    np.testing.assert_array_equal(resumed, straight)


@pytest.mark.parametrize("case", [case for case in OTHERS if case.get("logits")], ids=name_of)
def test_logits_of_a_vocabulary_that_does_not_divide(found, case):
    expected = found.first(alone(case), "logits")
    assert expected.shape == (8, 8, 33)
    for rank in range(2):
        np.testing.assert_allclose(found[rank][f"{case['name']}/logits"], expected, rtol=1e-5, atol=1e-5)


def test_pieces_of_gradients_are_summed_and_their_norm_counts_every_element_once(found):
    squares = 0.0
    for name, (shape, _) in SHAPES.items():
        own = [found[rank][f"native/own/{name}"] for rank in range(4)]
        tied = name.endswith("embedding_table")
        stages = [sum(own)] * 2 if tied else [own[0] + own[1], own[2] + own[3]]
        squares += sum(float((one**2).sum()) for one in (stages[:1] if tied else stages))
        for rank in range(4):
            rows = np.split(np.arange(shape[0]), 2)[rank % 2] if shape[0] % 2 == 0 else slice(None)
            reduced = found[rank][f"native/reduced/{name}"]
            np.testing.assert_allclose(reduced, stages[rank // 2][rows], rtol=1e-5, atol=1e-6)
    for rank in range(4):
        np.testing.assert_allclose(found[rank]["native/norm"], math.sqrt(squares), rtol=1e-6)
        np.testing.assert_allclose(found[rank]["plain/norm"], math.sqrt(squares), rtol=1e-6)


def test_an_update_from_pieces_is_that_from_whole_gradients(found):
    for rank in range(4):
        for name in SHAPES:
            weight = found[rank][f"native/weight/{name}"]
            assert np.all(weight != 1) and weight.dtype == found[rank][f"plain/weight/{name}"].dtype
            np.testing.assert_array_equal(weight, found[rank][f"plain/weight/{name}"])


def test_primitives_of_other_devices_take_what_they_are_given(found):
    for rank in range(4):
        for axis in (0, 1):
            table = found[rank][f"gather/{axis}"]
            assert table.shape == ((WORLD, 2, 3, 5) if axis == 0 else (2, WORLD, 3, 5))
            for source in range(WORLD):
                assert np.all(np.take(table, source, axis) == source)
            assert "Unsupported op [ReduceScatter] on CPU" in str(found[rank][f"scatter/{axis}"])


def test_a_number_that_is_none_is_traced_to_its_stage_and_replica(found):
    strategy = Strategy(*BROKEN["degrees"])
    origins = strategy.model_ranks(strategy.place(WORLD - 1))  # the last stage's last replica
    for rank in range(WORLD):
        assert found[rank]["origins"].tolist() == origins
        assert found[rank]["stopped"].all()


def test_ranks_that_wait_for_one_that_compiles_say_so(found):
    """The watch runs while they are blocked in the collective."""
    for rank in range(WORLD - 1):
        expected = [f"rank {rank}: 0.5 s waiting for the other stages to compile in vain"]
        assert found[rank]["told"].tolist() == expected


def test_a_rank_that_waits_in_vain_says_for_what_and_ends(found):
    last = f"rank {WORLD - 1}"
    assert found.codes[last.replace(" ", "_")] == 1
    log = (found.folder / f"rank_{WORLD - 1}.log").read_text()
    told = f"error: {last}: 2 s waiting for the activations from rank 0 in vain (look at the log of what"
    assert told in log
