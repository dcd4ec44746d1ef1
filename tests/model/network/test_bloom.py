from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from model.config.load_config import load_config
from model.devices import device
from model.network.bloom import AlibiBias, PlainAttention, alibi_slopes
from model.network.build import build, initialise
from model.network.loss import LossCell
from model.parallel.mesh import Place, Strategy, cut
from tests.model.support import reference

TINY = {"num_layers": 1, "vocab_size": 64, "seq_length": 16}


def randomised(config, seed=3):
    """A network in which no parameter is 0 or 1, norms and biases included."""
    network = build(config)
    random = np.random.default_rng(seed)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(random.normal(0.3, 0.2, parameter.shape).astype(np.float32)))
    return network


@pytest.mark.parametrize("act", ["gelu", "fast_gelu"])
def test_logits_are_those_of_the_formulas(act):
    config = load_config("tiny", {**TINY, "hidden_act": act, "num_layers": 2})
    network = randomised(config)
    ids = np.random.default_rng(0).integers(0, 64, (2, 12)).astype(np.int32)
    weights = {item.name: item.asnumpy() for item in network.get_parameters()}
    got = network.set_train(False)(ms.Tensor(ids)).asnumpy()
    for row in range(2):
        np.testing.assert_allclose(
            got[row], reference.logits(weights, ids[row], config), rtol=2e-4, atol=2e-4
        )


def test_no_token_sees_a_later_one_and_no_loss_a_masked_label():
    network = randomised(load_config("tiny", TINY)).set_train(False)
    ids = np.random.default_rng(1).integers(0, 64, (2, 12)).astype(np.int32)
    edited = ids.copy()
    edited[:, 7:] = (edited[:, 7:] + 5) % 64
    first, second = (network(ms.Tensor(each)).asnumpy() for each in (ids, edited))
    np.testing.assert_array_equal(first[:, :7], second[:, :7])
    assert (np.abs(first[:, 7:] - second[:, 7:]).max(-1) > 1e-3).all()
    loss, weights = LossCell(network), np.zeros((2, 11), np.float32)
    weights[:, :6] = 1 / 12
    one, other = (
        loss(ms.Tensor(each[:, :-1]), ms.Tensor(each[:, 1:]), ms.Tensor(weights)).asnumpy()
        for each in (ids, edited)
    )
    assert one == other


def test_names_and_shapes_are_mindformers():
    h, f = 64, 256
    block = {
        "layernorm1.gamma": (h,),
        "layernorm1.beta": (h,),
        "attention.dense1.weight": (h, h),
        "attention.dense1.bias": (h,),
        "attention.dense2.weight": (h, h),
        "attention.dense2.bias": (h,),
        "attention.dense3.weight": (h, h),
        "attention.dense3.bias": (h,),
        "attention.projection.weight": (h, h),
        "attention.projection.bias": (h,),
        "layernorm2.gamma": (h,),
        "layernorm2.beta": (h,),
        "output.mapping.weight": (h, f),
        "output.mapping.bias": (f,),
        "output.projection.weight": (f, h),
        "output.projection.bias": (h,),
    }
    expected = {
        "embedding.word_embedding.embedding_table": (64, h),
        "embedding.norm.gamma": (h,),
        "embedding.norm.beta": (h,),
        **{f"blocks.0.{name}": shape for name, shape in block.items()},
        "ln_f.gamma": (h,),
        "ln_f.beta": (h,),
    }
    config = load_config("tiny", TINY)
    network = build(config)
    assert {item.name: tuple(item.shape) for item in network.get_parameters()} == expected
    assert sum(item.size for item in network.get_parameters()) == config.parameter_count


def test_alibi_slopes():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-n for n in range(1, 9)])
    slopes = alibi_slopes(112)
    assert slopes.shape == (112,)
    np.testing.assert_allclose(slopes[:64], [2 ** (-n / 8) for n in range(1, 65)], rtol=1e-6)
    np.testing.assert_allclose(slopes[64:], [2 ** (-n / 16) for n in range(1, 97, 2)], rtol=1e-6)


def test_every_strategy_starts_from_the_same_weights():
    config = load_config("tiny", TINY)
    whole = build(config)
    initialise(whole, config, 5, Strategy(), Place(0, 0, 0, 0))
    full = {item.name: item.asnumpy() for item in whole.get_parameters()}
    strategy = Strategy(model_parallel=4)
    for rank in (0, 3):
        place = strategy.place(rank)
        part = build(config, strategy, place)
        initialise(part, config, 5, strategy, place)
        for item in part.get_parameters():
            np.testing.assert_array_equal(item.asnumpy(), cut(item.name, full[item.name], strategy, place))
    table = full["embedding.word_embedding.embedding_table"]
    assert table.std() == pytest.approx(config.initializer_range, rel=0.05)
    assert set(full["ln_f.gamma"]) == {1.0}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_give_the_same_logits_but_for_rounding(dtype):
    types = ("param_init_type", "compute_dtype", "softmax_compute_type", "embedding_init_type")
    config = load_config("tiny", TINY)
    half = load_config("tiny", {**TINY, **dict.fromkeys(types, dtype)})
    ids = ms.Tensor(np.arange(16).reshape(1, 16).astype(np.int32))
    outputs = []
    for one in (config, half):
        network = build(one)
        initialise(network, one, 7, Strategy(), Place(0, 0, 0, 0))
        outputs.append(network.set_train(False)(ids).asnumpy())
    np.testing.assert_allclose(*outputs, atol=0.02)


def test_far_into_a_sequence_float16_still_tells_neighbours_apart():
    config = load_config("tiny", {**TINY, "seq_length": 2048, "softmax_compute_type": "float16"})
    bias = AlibiBias(config, alibi_slopes(4))(2048).asnumpy()[0, 0, -1]
    np.testing.assert_allclose(np.diff(bias[-8:]), alibi_slopes(4)[0], rtol=1e-3)
    assert bias[-1] == 0


def test_without_the_kernel_attention_is_plain_and_one_line_says_so(caplog):
    config = load_config("tiny", {**TINY, "num_layers": 2, "use_flash_attention": True})
    device.warn_once.cache_clear()
    network = build(config)
    assert {type(block.attention.core) for block in network.transformer.blocks} == {PlainAttention}
    assert [record.getMessage() for record in caplog.records] == [
        "use_flash_attention: CPU has no such kernel; attention is computed step by step"
    ]
