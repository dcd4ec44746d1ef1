from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.bloom import build, recompute_blocks
from model.config import load_config
from model.dropout import ReplayedDropout, Replays, replay_dropout

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU")

SHAPE = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 32, "seq_length": 8}


class Drops(nn.Cell):
    """Linear in the weight: its gradient is the mask that the value was computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ms.Parameter(ops.ones((32, 64), ms.float32), name="weight")
        self.dropout = nn.Dropout(p=0.3)

    def construct(self) -> ms.Tensor:
        return self.dropout(self.weight)


class ValueAndGradient(nn.Cell):
    def __init__(self, inner: Drops) -> None:
        super().__init__(auto_prefix=False)
        self.inner = inner
        self.grad = ops.grad(self.total, None, inner.weight)

    def total(self):
        return ops.reduce_sum(self.inner())

    def construct(self):
        return self.inner(), self.grad()


@pytest.fixture(scope="module")
def drops():
    inner = Drops()
    replays = replay_dropout(inner, (7,))
    return replays, ValueAndGradient(inner).set_train()


def test_what_is_computed_twice_drops_the_same(drops):
    replays, network = drops
    replays.choose()
    value, grad = (item.asnumpy() for item in network())
    np.testing.assert_array_equal(value, grad)
    assert set(np.unique(value).round(4)) == {0, np.float32(1 / 0.7).round(4)}
    assert 0.25 < (value == 0).mean() < 0.35
    rows, columns = (value == 0).mean(axis=1), (value == 0).mean(axis=0)
    assert rows.min() > 0.05 and rows.max() < 0.6 and columns.min() > 0 and columns.max() < 0.7


def test_micro_batches_and_steps_drop_differently_and_a_seed_decides(drops):
    replays, network = drops
    masks = []
    for step, micro in ((1, 0), (1, 1), (2, 0), (1, 0)):
        replays.steps = step
        replays.choose(micro)
        masks.append(network()[0].asnumpy() == 0)
    np.testing.assert_array_equal(masks[0], masks[3])
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert 0.3 < (masks[one] != masks[two]).mean() < 0.55


def test_two_places_drop_differently():
    seed = Replays((3,)).seed
    first, second = (ReplayedDropout(0.5, salt, seed).set_train() for salt in (1, 2))
    ones = ops.ones((64, 64), ms.float32)
    assert 0.4 < (first(ones).asnumpy() != second(ones).asnumpy()).mean() < 0.6
    np.testing.assert_array_equal(first.set_train(False)(ones).asnumpy(), ones.asnumpy())


def test_all_dropouts_of_a_network_are_replaced_and_no_weight_is_renamed():
    config = load_config("tiny", {**SHAPE, "hidden_dropout_rate": 0.1, "attention_dropout_rate": 0.1})
    network = build(config)
    names = [item.name for item in network.trainable_params()]
    replays = replay_dropout(network, (1,))
    recompute_blocks(network)
    kinds = [type(cell).__name__ for _, cell in network.cells_and_names()]
    assert kinds.count("ReplayedDropout") == 6 and "Dropout" not in kinds
    assert [item.name for item in network.trainable_params()] == names
    assert replays.seed.name == "dropout_seed"
    assert replay_dropout(build(load_config("tiny", SHAPE)), (1,)) is None
