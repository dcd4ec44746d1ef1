"""Flash attention by CANN's formula against the plain steps, and what else an Ascend would be given."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.config.load_config import load_config
from model.devices import device
from model.errors import ModelError
from model.inference.cached_attention import CachedNetwork, IdsToLogits
from model.network.bloom import AlibiBias, PlainAttention, alibi_slopes
from model.network.build import build
from model.network.dropout import DropoutSeed, seed_dropout
from model.network.flash_attention import HIDDEN, FlashAttention, FlashBias
from tests.model.support.ascend_standins import CannDropoutBits, CannFlashAttention

A2 = device.Device("Ascend", "ascend910b")
HALF = {
    "num_layers": 2,
    "vocab_size": 64,
    "compute_dtype": "float16",
    "use_flash_attention": True,
    "hidden_dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
}


def flash_config(heads, size, length, **more):
    shape = {"num_heads": heads, "hidden_size": heads * size, "seq_length": length}
    return load_config("tiny", {**HALF, **shape, **more})


def flash_and_plain(config, dtype=ms.float32):
    """Both kinds, with their biases; the kernel is replaced by CANN's formula, in the type of its inputs."""
    slopes = alibi_slopes(config.num_heads)
    with device.built_for(A2):
        flash, flash_bias = FlashAttention(config, config.num_heads), FlashBias(config, slopes)
    flash.kernel, flash_bias.dtype = CannFlashAttention(), dtype
    return (flash, flash_bias), (PlainAttention(config), AlibiBias(config, slopes))


def queries(config, length, spread=1.0, batch=2):
    random = np.random.default_rng(length)
    shape = (batch, config.num_heads, length, config.head_size)
    return [ms.Tensor(random.normal(0, spread, shape).astype(np.float32)) for _ in range(3)]


@pytest.mark.parametrize(
    ("heads", "size", "length"), [(4, 128, 128), (3, 16, 60), (4, 64, 1024), (2, 16, 1100), (6, 32, 1536)]
)
def test_flash_attention_is_plain_attention_by_canns_formula(heads, size, length):
    config = flash_config(heads, size, length, softmax_compute_type="float32")
    inputs = queries(config, length, batch=1 if length > 1000 else 2)
    outputs = [attention(*inputs, bias(length)).asnumpy() for attention, bias in flash_and_plain(config)]
    np.testing.assert_allclose(*outputs, atol=2e-5)
    assert np.abs(outputs[1]).max() > 1  # so that the bound says something


def test_a_shorter_sequence_than_the_longest_gets_its_own_bias():
    config = flash_config(2, 16, 1536, softmax_compute_type="float32")
    (_, flash_bias), (_, bias) = flash_and_plain(config)
    for length in (1, 40, 1024, 1025, 1500):
        whole = np.tril(bias(length).asnumpy())
        got = flash_bias(length).asnumpy()
        assert got.shape == (1, 2, min(length, 1024), length)
        np.testing.assert_array_equal(np.tril(got, length - got.shape[2]), whole[:, :, -1024:])


def test_the_kernels_bias_has_no_mask_and_stays_finite_however_far_apart():
    config = flash_config(2, 16, 16)
    with device.built_for(A2):
        bias = FlashBias(config, np.array([0.5, 4.0], np.float32))
    values = bias(16).asnumpy()
    assert values.dtype == np.float16 and values.min() == -60 and (values[..., -1, -1] == 0).all()
    with device.built_for(A2):
        far = FlashBias(config, np.array([1e4, 1e4], np.float32))  # as 80,000 positions would give
    assert far(16).asnumpy().min() == HIDDEN


class SumOfSquares(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, ids):
        return ops.reduce_sum(self.network(ids) ** 2)


def test_whole_networks_agree_and_so_do_their_gradients():
    config = flash_config(4, 16, 24, compute_dtype="bfloat16", softmax_compute_type="float32")
    ids = ms.Tensor(np.random.default_rng(5).integers(0, 64, (2, 24)).astype(np.int32))
    networks, results = [build(config), build(config)], []  # on a CPU bfloat16 is float32
    flash = networks[0].transformer
    for block in flash.blocks:
        (block.attention.core, flash.bias), _ = flash_and_plain(config)
    for network in networks:
        random = np.random.default_rng(6)
        for item in network.get_parameters():
            item.set_data(ms.Tensor(random.normal(0, 0.2, item.shape).astype(np.float32), item.dtype))
        total = ops.value_and_grad(SumOfSquares(network), None, network.trainable_params())
        value, grads = total(ids)
        results.append((value.asnumpy(), [grad.float().asnumpy() for grad in grads]))
    (first, first_grads), (second, second_grads) = results
    np.testing.assert_allclose(first, second, rtol=1e-5)
    largest = max(np.abs(grad).max() for grad in second_grads)
    for one, other in zip(first_grads, second_grads, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * largest, rtol=1e-3)


def test_cached_decoding_of_a_network_with_flash_attention_is_that_of_one_without():
    config = flash_config(2, 16, 32)
    ids = np.random.default_rng(8).integers(0, 64, (1, 8)).astype(np.int32)
    start, last = (ms.Tensor(np.array([one], np.int32)) for one in (0, 7))
    logits = []
    for target in (A2, device.CPU):
        with device.built_for(target):
            network = build(config)
            reader = CachedNetwork(network, config, batch=1, capacity=32)
        random = np.random.default_rng(6)
        for item in network.get_parameters():
            item.set_data(ms.Tensor(random.normal(0, 0.2, item.shape).astype(np.float32), item.dtype))
        read = IdsToLogits(network.transformer.embedding, reader).set_train(False)
        logits.append(read(ms.Tensor(ids), start, last).asnumpy())
    np.testing.assert_allclose(*logits, atol=2e-3)  # the two kernels of the activation round apart
    assert np.abs(logits[0]).max() > 0.3


class Kernel(nn.Cell):
    def __init__(self, config, heads=None):
        super().__init__()
        with device.built_for(A2):
            self.core = FlashAttention(config, heads or config.num_heads)
            self.bias = FlashBias(config, alibi_slopes(config.num_heads))
            if config.attention_dropout_rate:
                seed_dropout(self, (1,))

    def construct(self, q, k, v):
        return self.core(q, k, v, self.bias(q.shape[2]))


class Gradient(nn.Cell):
    def __init__(self, inner):
        super().__init__(auto_prefix=False)
        self.grad = ops.grad(inner, (0, 1, 2))

    def construct(self, q, k, v):
        return self.grad(q, k, v)


@pytest.mark.parametrize("length", [16, 1024, 1104, 2048])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_kernels_arguments_pass_mindspores_inference(length, dropout, dtype):
    config = flash_config(2, 16, length, attention_dropout_rate=dropout, compute_dtype=dtype)
    inputs = [one.astype(getattr(ms, dtype)) for one in queries(config, length)]
    missing = ["FlashAttentionScore", "DropoutGenMaskExt"]
    if ms.__version__.startswith("2.7.") and dtype == "bfloat16":
        missing.append("Muls")  # the product before the kernel
    for cell in (Kernel(config).set_train(), Gradient(Kernel(config).set_train())):
        with pytest.raises(RuntimeError, match=rf"Unsupported op \[({'|'.join(missing)})\]"):
            cell.compile(*inputs)


def test_a_wrong_number_of_heads_is_found_by_inference():
    config = flash_config(4, 16, 64)
    inputs = [one.astype(ms.float16) for one in queries(config, 64)]
    with pytest.raises(RuntimeError, match="'head_num', but got 4 and 3"):
        Kernel(config, heads=3).compile(*inputs)


@pytest.mark.parametrize(
    ("chip", "overrides", "reason"),
    [
        ("ascend910", {}, "CANN has the kernel for ascend910b and ascend910_93, and this is ascend910"),
        ("ascend310p", {}, "CANN has the kernel for ascend910b and ascend910_93, and this is ascend310p"),
        (
            "ascend910b",
            {"compute_dtype": "float32"},
            "the kernel computes in float16 or bfloat16, and compute_dtype is float32",
        ),
        (
            "ascend910_93",
            {"num_heads": 8},
            "the kernel needs a head size that is a multiple of 16 up to 512, not 8",
        ),
        (
            "ascend910b",
            {"seq_length": 60, "attention_dropout_rate": 0.1},
            "with dropout the kernel needs a seq_length that is a multiple of 8, not 60",
        ),
    ],
)
def test_where_the_kernel_cannot_serve_attention_is_plain_and_one_line_says_why(
    caplog, chip, overrides, reason
):
    config = flash_config(4, 16, 64, hidden_size=64, **overrides)
    device.warn_once.cache_clear()
    with device.built_for(device.Device("Ascend", chip)):
        network = build(config)
        with pytest.raises(ModelError, match=reason):
            FlashAttention(config, config.num_heads)
    assert {type(block.attention.core) for block in network.transformer.blocks} == {PlainAttention}
    assert isinstance(network.transformer.bias, AlibiBias)
    assert [record.getMessage() for record in caplog.records] == [
        f"use_flash_attention: {reason}; attention is computed step by step"
    ]


@pytest.mark.parametrize("chip", ["ascend910b", "ascend910_93"])
def test_the_chips_that_have_the_kernel_get_it(chip):
    for overrides in ({}, {"seq_length": 60}, {"compute_dtype": "bfloat16"}):
        config = flash_config(4, 16, 64, hidden_size=64, **overrides)
        assert device.why_no_flash(config, device.Device("Ascend", chip)) is None


def test_flash_attention_drops_what_seed_and_place_say_and_scales_the_rest():
    config = flash_config(2, 16, 24, attention_dropout_rate=0.5, softmax_compute_type="float32")
    (flash, bias), (plain, plain_bias) = flash_and_plain(config)
    inputs = queries(config, 24)
    with pytest.raises(RuntimeError, match="call seed_dropout first"):
        flash.set_train().construct(*inputs, bias(24))
    with device.built_for(A2):
        dropout_seed = DropoutSeed((1,))
        flash.dropout = dropout_seed.dropout(0.5, 3, mask=True)
    flash.dropout.draw = CannDropoutBits((2, 2, 24, 24), 0.5)
    outputs = []
    for seed in (1, 2, 1):
        dropout_seed.set_seed(np.random.SeedSequence([seed]))
        outputs.append(flash.set_train()(*inputs, bias(24)).asnumpy())
    np.testing.assert_array_equal(outputs[0], outputs[2])
    assert (np.abs(outputs[0] - outputs[1]).max(-1) > 1e-3).mean() > 0.5
    kept = np.unpackbits(flash.dropout((2, 2, 24, 24)).asnumpy(), axis=-1, bitorder="little")
    unit = ms.Tensor(np.tile(np.eye(24, dtype=np.float32), (2, 2, 1, 1)))
    weights = plain.set_train(False)(*inputs[:2], unit, plain_bias(24)).asnumpy()
    values = inputs[2].asnumpy()
    np.testing.assert_allclose(outputs[2], (weights * kept / 0.5) @ values, atol=1e-5)
    without = flash.set_train(False)(*inputs, bias(24)).asnumpy()
    np.testing.assert_allclose(without, weights @ values, atol=1e-5)
