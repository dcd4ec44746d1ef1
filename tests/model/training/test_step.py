from __future__ import annotations

import time

import mindspore as ms
import numpy as np
import pytest

from model.config.load_config import load_config
from model.data.dataset import Batch
from model.network.build import build, initialise, recompute_blocks
from model.network.dropout import seed_dropout
from model.parallel.mesh import Groups, Place, Strategy
from model.training.gradients import ReduceGradients, clip_factor
from model.training.optimizer import AdamW
from model.training.step import BatchInTwo, LossScale, MicroBatches, TrainStep, WholeBatch, split
from model.training.step_requests import asked_for

# Most of the time is that of compiling, which each layer adds to.
SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32, "seq_length": 8}
CONFIG = load_config("tiny", SHAPE)


def batch(rows=4, seed=0):
    ids = np.random.default_rng(seed).integers(4, 32, (rows, 9)).astype(np.int32)
    weights = np.random.default_rng(seed).random((rows, 8)).astype(np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], weights / weights.sum())


def step(config=CONFIG, recompute=False, parts=1, kind=WholeBatch, **options):
    network = build(config)
    initialise(network, config, 3, Strategy(), Place(0, 0, 0, 0))
    dropout_seed = seed_dropout(network, (5,)) if recompute else None
    if recompute:
        recompute_blocks(network)
    optimizer = AdamW(list(network.trainable_params()))
    reduce = ReduceGradients(optimizer.parameters, Strategy(), Place(0, 0, 0, 0), Groups())
    if parts > 1:
        return TrainStep(
            MicroBatches(network, optimizer.parameters, reduce, parts, dropout_seed), optimizer, **options
        )
    return TrainStep(kind(network, optimizer.parameters, reduce, dropout_seed), optimizer, **options)


def weights(train_step):
    return [item.asnumpy().copy() for item in train_step.optimizer.parameters]


def run(train_step, steps=3):
    return [train_step(batch(seed=seed), 0.01) for seed in range(steps)]


@pytest.fixture(scope="module")
def plain():
    return run(step(clip=0.5))


KINDS = {
    "whole": {},
    "in two": {"kind": BatchInTwo},
    "micro batches, recompute": {"kind": MicroBatches, "parts": 2, "recompute": True},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_neither_how_a_batch_is_computed_nor_what_is_asked_for_meanwhile_changes_a_number(plain, options):
    train_step = step(clip=0.5, **options)
    asks = iter([0.0, asked_for(stop=True, save=False), asked_for(stop=False, save=True)])
    train_step.asked = lambda: next(asks)
    summed = []
    train_step.summed = lambda: summed.append(len(summed))
    begin = time.monotonic()
    results = run(train_step)
    assert [result.stops for result in results] == [False, True, False] and summed == [0, 1, 2]
    assert [result.saves for result in results] == [False, False, True]
    np.testing.assert_allclose([r.loss for r in results], [r.loss for r in plain], rtol=1e-5)
    np.testing.assert_allclose([r.norm for r in results], [r.norm for r in plain], rtol=1e-4)
    assert plain[0].norm > 0.5 and all(r.updated for r in plain)
    # The time of the own part is told where it is apart.
    if options.get("kind") is BatchInTwo:
        computed = [result.computed for result in results]
        assert computed == sorted(computed) and begin < computed[0] and computed[-1] < time.monotonic()
    if options.get("kind") is MicroBatches:
        starts_from_nothing(train_step.source)
    assert {result.computed for result in plain} == {None}


def starts_from_nothing(source):
    """Every step does, and the loss scale is out of what it gives."""
    first = [grad.asnumpy().copy() for grad in source.gradients(batch(), 1.0).gradients]
    for one, two in zip(first, source.gradients(batch(), 64.0).gradients, strict=True):
        np.testing.assert_allclose(two.asnumpy(), one, rtol=1e-5, atol=1e-8)


@pytest.fixture(scope="module")
def scaled():
    """A step with a loss scale that has computed four records, and if it was known before to compile."""
    train_step = step(loss_scale=LossScale(2.0, window=1))
    known = train_step.compiles(batch(4))
    train_step(batch(4), 0.01)
    return train_step, known


def test_a_step_that_compiles_is_known_before_it_does(scaled):
    train_step, known = scaled
    assert known
    train_step.loss_scale = LossScale(2.0)
    assert not train_step.compiles(batch(4)) and train_step.compiles(batch(2))
    train_step.loss_scale = LossScale(1.0)  # a graph without the factor
    assert train_step.compiles(batch(4))


def test_an_overflow_skips_the_step_and_halves_the_scale():
    half = load_config("tiny", {**SHAPE, "param_init_type": "float16", "compute_dtype": "float16"})
    train_step = step(half, loss_scale=LossScale(2.0**24, window=2))
    before = weights(train_step)
    first = train_step(batch(), 0.01)
    assert first.skipped and not first.updated and first.loss_scale == 2.0**24
    assert train_step.loss_scale.value == 2.0**23
    for old, now in zip(before, weights(train_step), strict=True):
        np.testing.assert_array_equal(now, old)
    results = [train_step(batch(), 0.01) for _ in range(24)]
    made = [result for result in results if result.updated]  # the scale grows until one is skipped again
    assert len(made) > 5 and made[-1].loss < made[0].loss
    moved = [not np.array_equal(old, now) for old, now in zip(before, weights(train_step), strict=True)]
    assert all(moved)
    assert {item.dtype for item in train_step.optimizer.adam_m} == {ms.float32}


def test_a_scale_that_is_fixed_leaves_the_failure_to_the_caller(scaled):
    train_step, _ = scaled
    train_step.loss_scale = LossScale(8.0)
    broken = batch()
    result = train_step(Batch(broken.tokens, broken.labels, broken.weights * np.float32("nan")), 0.01)
    assert not result.updated and not result.skipped and result.origins == (0,)
    assert train_step(batch(), 0.01).updated


@pytest.mark.parametrize(("limit", "norm", "factor"), [(1.0, 5.0, 0.2), (10.0, 5.0, 1.0), (0.0, 5.0, 1.0)])
def test_clipping(limit, norm, factor):
    assert clip_factor(norm, limit) == factor


def test_a_batch_is_split_in_order():
    parts = split(batch(rows=6), 3)
    assert [part.tokens.shape for part in parts] == [(2, 8)] * 3
    np.testing.assert_array_equal(np.concatenate([part.weights for part in parts]), batch(rows=6).weights)
