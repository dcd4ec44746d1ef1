from __future__ import annotations

from contextlib import nullcontext

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.config.load_config import load_config
from model.devices.device import Device, built_for
from model.errors import ModelError
from model.network import dropout_check
from model.network.build import build, recompute_blocks
from model.network.dropout import DropoutSeed, HashDropout, PhiloxDropout, PhiloxMask, seed_dropout
from model.network.dropout_check import hash_of, prove_dropout
from tests.model.support.ascend_standins import CannDropout, CannDropoutBits, philox

A2 = Device("Ascend", "ascend910b")
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


@pytest.fixture(scope="module", params=["hash", "Ascend's generator"])
def drops(request):
    inner = Drops()
    if request.param == "hash":
        dropout_seed = seed_dropout(inner, (7,))
    else:
        with built_for(A2):
            dropout_seed = seed_dropout(inner, (7,))
        inner.dropout.drop = CannDropout((32, 64), 0.3)
    return dropout_seed, ValueAndGradient(inner).set_train()


def test_what_is_computed_twice_drops_the_same(drops):
    dropout_seed, network = drops
    dropout_seed.choose()
    value, grad = (item.asnumpy() for item in network())
    np.testing.assert_array_equal(value, grad)
    assert set(np.unique(value).round(4)) == {0, np.float32(1 / 0.7).round(4)}
    assert 0.25 < (value == 0).mean() < 0.35
    rows, columns = (value == 0).mean(axis=1), (value == 0).mean(axis=0)
    assert rows.min() > 0.05 and rows.max() < 0.6 and columns.min() > 0 and columns.max() < 0.7


def test_micro_batches_and_steps_drop_differently_and_a_seed_decides(drops):
    dropout_seed, network = drops
    masks = []
    for step, micro in ((1, 0), (1, 1), (2, 0), (1, 0)):
        dropout_seed.steps = step
        dropout_seed.choose(2, micro, 2)
        masks.append(network()[0].asnumpy() == 0)
    np.testing.assert_array_equal(masks[0], masks[3])
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert 0.3 < (masks[one] != masks[two]).mean() < 0.55


@pytest.mark.parametrize("kind", ["hash", "Ascend's generator"])
def test_a_record_drops_the_same_on_few_replicas_and_on_many(kind):
    def masks(replicas, parts):
        with built_for(A2) if kind != "hash" else nullcontext():
            seeds = [DropoutSeed((3,), replica) for replica in range(replicas)]
        rows, found = 8 // replicas, []
        for seed in seeds:
            for micro in range(parts):
                seed.choose(rows, micro, parts)
                if kind == "hash":
                    cell = HashDropout(0.5, 1, seed.seed).set_train()
                    found.append(cell(ops.ones((rows // parts, 16, 4), ms.float32)).asnumpy())
                else:
                    found.append(seed.seed.asnumpy().reshape(1))
        return np.concatenate(found)

    wide = masks(4, 1)
    np.testing.assert_array_equal(masks(2, 2), wide)
    if kind == "hash":  # whatever the size of a micro batch
        np.testing.assert_array_equal(masks(1, 1), wide)
        assert min((wide[0] != other).mean() for other in wide[1:]) > 0.2


def test_two_places_drop_differently():
    seed = DropoutSeed((3,)).seed
    first, second = (HashDropout(0.5, salt, seed).set_train() for salt in (1, 2))
    ones = ops.ones((64, 64), ms.float32)
    assert 0.4 < (first(ones).asnumpy() != second(ones).asnumpy()).mean() < 0.6
    np.testing.assert_array_equal(first.set_train(False)(ones).asnumpy(), ones.asnumpy())


def test_all_dropouts_of_a_network_are_replaced_and_no_weight_is_renamed():
    config = load_config("tiny", {**SHAPE, "hidden_dropout_rate": 0.1, "attention_dropout_rate": 0.1})
    network = build(config)
    names = [item.name for item in network.trainable_params()]
    dropout_seed = seed_dropout(network, (1,))
    recompute_blocks(network)
    kinds = [type(cell).__name__ for _, cell in network.cells_and_names()]
    assert kinds.count("HashDropout") == 6 and "Dropout" not in kinds
    assert [item.name for item in network.trainable_params()] == names
    assert dropout_seed.seed.name == "dropout_seed"
    assert seed_dropout(build(load_config("tiny", SHAPE)), (1,)) is None


class Recomputed(nn.Cell):
    """Its gradient needs the value inside a second time, which is computed again."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.inner.recompute()

    def construct(self, x):
        return self.inner(x) ** 2


@pytest.mark.parametrize("device", ["CPU", "Ascend"])
def test_recomputation_drops_the_same(device):
    x = ms.Tensor(np.full((16, 64), 3, np.float32))
    if device == "CPU":
        dropout_seed = DropoutSeed((1,))
        inner = dropout_seed.dropout(0.25, 9)
    else:
        with built_for(A2):
            dropout_seed = DropoutSeed((1,))
            inner = dropout_seed.dropout(0.25, 9)
        inner.drop = CannDropout((16, 64), 0.25)
    network = Recomputed(inner).set_train()
    dropout_seed.choose()
    value, grad = network(x).asnumpy(), ops.grad(network)(x).asnumpy()
    kept = value != 0
    assert 0.6 < kept.mean() < 0.9
    np.testing.assert_allclose(value, kept * 16, rtol=1e-6)  # (3 / 0.75)^2
    np.testing.assert_allclose(grad, kept * 2 * 4 / 0.75, rtol=1e-6)


def test_on_an_ascend_all_dropouts_are_drawn_those_of_flash_attention_too():
    rates = {"hidden_dropout_rate": 0.1, "attention_dropout_rate": 0.2}
    half = {**SHAPE, "hidden_size": 32, "compute_dtype": "float16", "use_flash_attention": True, **rates}
    with built_for(A2):
        network = build(load_config("tiny", half))
        dropout_seed = seed_dropout(network, (1,))
    cells = [cell for _, cell in network.cells_and_names() if isinstance(cell, PhiloxDropout | PhiloxMask)]
    assert [type(cell).__name__ for cell in cells] == ["PhiloxMask", "PhiloxDropout", "PhiloxDropout"] * 2
    assert [cell.p for cell in cells] == [0.2, 0.1, 0.1] * 2
    assert len({int(cell.offset.asnumpy()) for cell in cells}) == 6
    assert dropout_seed.kinds == {PhiloxDropout, PhiloxMask} and dropout_seed.seed.dtype == ms.int64
    dropout_seed.choose()
    first = int(dropout_seed.seed.asnumpy())
    dropout_seed.choose(2, 1, 2)
    assert int(dropout_seed.seed.asnumpy()) != first and abs(first) > 2**40
    stages = []
    for first_block in (0, 1):  # the second block of the whole network is the first of a second stage
        with built_for(A2):
            stage = build(load_config("tiny", half))
            seed_dropout(stage, (1,), first_block)
        stages.append([block.attention.core.dropout.offset.asnumpy() for block in stage.transformer.blocks])
    assert stages[0][1] == stages[1][0] != stages[0][0]


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16, ms.float32])
def test_what_an_ascend_is_given_passes_inference(dtype):
    with built_for(A2):
        inner = DropoutSeed((1,)).dropout(0.1, 2**32 - 1)
    x = ms.Tensor(np.ones((4, 24), np.float32), dtype)
    for cell in (inner.set_train(), Recomputed(inner).set_train()):
        with pytest.raises(RuntimeError, match=r"Unsupported op \[DropoutExt\]"):
            cell.compile(x)


def test_places_with_offsets_side_by_side_share_no_numbers():
    assert [hex(word) for word in philox(0, 0, 4)] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    streams = [set(philox(5, offset, 4096).tolist()) for offset in (7, 8)]
    assert len(streams[0] & streams[1]) < 3


def test_the_proof_holds_for_a_sound_device():
    dropout_seed = DropoutSeed((1,))
    dropout_seed.dropout(0.1, 5)
    prove_dropout(dropout_seed)
    drawn(dropout_seed, Sound)
    prove_dropout(dropout_seed)
    assert hash_of(np.arange(3, dtype=np.int32), np.int32([5]), np.int32([9])).dtype == np.int32


class Sound(PhiloxDropout):
    def __init__(self, p, salt, seed):
        super().__init__(p, salt, seed)
        self.drop = CannDropout(dropout_check.SHAPE, p)


class SoundBits(PhiloxMask):
    def __init__(self, p, salt, seed):
        super().__init__(p, salt, seed)
        self.draw = CannDropoutBits(dropout_check.SHAPE, p)


class WithoutOffset(Sound):
    def __init__(self, p, salt, seed):
        super().__init__(p, 0, seed)


class WithoutSeed(Sound):
    def __init__(self, p, salt, seed):
        super().__init__(p, salt, seed)
        self.fixed = ms.Tensor(3, ms.int64)

    def construct(self, x):
        return self.drop(x, self.p, self.fixed, self.offset)[0]


class KeepsInsteadOfDrops(Sound):
    def __init__(self, p, salt, seed):
        super().__init__(p, salt, seed)
        self.p, self.drop = 1 - p, CannDropout(dropout_check.SHAPE, 1 - p)


class DrawsAnew(HashDropout):
    calls = 0

    def construct(self, x):
        DrawsAnew.calls += 1
        return super().construct(x) if DrawsAnew.calls % 2 else super().construct(x[::-1])[::-1]


class Saturates(HashDropout):
    """As if a product that overflows gave the largest number."""

    def hash(self, number):
        mixed = super().hash(number)
        return ops.select(number > 3, ops.bitwise_or(mixed, ms.Tensor(1, ms.int32)), mixed)


def drawn(dropout_seed, kind):
    """The same network's dropouts as an Ascend would have them."""
    with built_for(A2):
        other = DropoutSeed((1,))
    dropout_seed.is_philox, dropout_seed.seed, dropout_seed.kinds = True, other.seed, {kind}


def test_the_proof_holds_for_the_masks_of_the_attention_kernel():
    dropout_seed = DropoutSeed((1,))
    drawn(dropout_seed, SoundBits)
    prove_dropout(dropout_seed)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (WithoutSeed, r"another seed gives the same mask, but for 0\.0% of the elements \(WithoutSeed"),
        (WithoutOffset, r"another place gives the same mask, but for 0\.0% of the elements"),
        (KeepsInsteadOfDrops, r"7\d\.\d% of the elements are dropped where 25\.0% should be"),
        (DrawsAnew, r"the same seed gives another mask, in 3\d% of the elements"),
        (Saturates, r"the hash of \d+ is \d+, and by NumPy \d+"),
    ],
)
def test_a_device_that_cannot_replay_is_refused_before_training(kind, text):
    dropout_seed = DropoutSeed((1,))
    if issubclass(kind, PhiloxDropout):
        drawn(dropout_seed, kind)
    else:
        dropout_seed.kinds = {kind}
    with pytest.raises(ModelError, match=text):
        prove_dropout(dropout_seed)
