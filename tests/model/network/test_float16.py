"""Forward and backward in float16, at the ends of its range: finite, and what the formula says."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.config.load_config import load_config
from model.devices import device
from model.network.bloom import FastGelu, LayerNorm, activation_of
from model.network.loss import HeadLoss

A2 = device.Device("Ascend", "ascend910b")
SIZES = np.array([0, 1, 255, 256, 300, 1e3, 6e4])
POINTS = np.concatenate([-SIZES[:0:-1], [-5.0, -0.5], SIZES, [0.5, 5.0]])


def gelu(x):
    """The tanh form and its derivative, in float64."""
    a, b = math.sqrt(2 / math.pi), 0.044715
    t = np.tanh(a * (x + b * x**3))
    return x / 2 * (1 + t), (1 + t) / 2 + x / 2 * (1 - t * t) * a * (1 + 3 * b * x * x)


def fast_gelu(x):
    s = 1 / (1 + np.exp(-np.clip(1.702 * x, -700, 700)))
    return x * s, s + 1.702 * x * s * (1 - s)


def value_and_gradient(cell, *inputs):
    """A cell's output, and the gradients of its weighted sum, as float64 arrays."""
    wrapped = cell if isinstance(cell, nn.Cell) else Op(cell)
    out = wrapped(*inputs)
    grads = ops.GradOperation(get_all=True)(wrapped)(*inputs)
    return [one.float().asnumpy().astype(np.float64) for one in (out, *grads)]


class Op(nn.Cell):
    def __init__(self, op):
        super().__init__()
        self.op = op

    def construct(self, x):
        return self.op(x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("act", "formula"), [("gelu", gelu), ("fast_gelu", fast_gelu)])
def test_activations_and_their_gradients(act, formula, dtype):
    config = load_config("tiny", {"hidden_act": act, "compute_dtype": dtype})
    x = ms.Tensor(POINTS.astype(np.float32), device.dtype_of(dtype))
    value, slope = value_and_gradient(activation_of(config), x)
    # What float16 makes of the numbers is the input.
    wanted, wanted_slope = formula(x.float().asnumpy().astype(np.float64))
    digits = 2e-3 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(value, wanted, rtol=digits, atol=digits)
    np.testing.assert_allclose(slope, wanted_slope, rtol=digits, atol=digits)


def test_the_cpu_keeps_its_fast_gelu_in_float32_and_an_ascend_has_single_kernels():
    kinds = {}
    for act in ("gelu", "fast_gelu"):
        for dtype in ("float32", "float16"):
            config = load_config("tiny", {"hidden_act": act, "compute_dtype": dtype})
            with device.built_for(A2):
                kinds[act, dtype, "Ascend"] = type(activation_of(config)).__name__
            kinds[act, dtype, "CPU"] = type(activation_of(config)).__name__
    assert {key: kind for key, kind in kinds.items() if key[2] == "Ascend"} == {
        ("gelu", "float32", "Ascend"): "GeLU",
        ("gelu", "float16", "Ascend"): "GeLU",
        ("fast_gelu", "float32", "Ascend"): "FastGeLU",
        ("fast_gelu", "float16", "Ascend"): "FastGeLU",
    }
    assert kinds["gelu", "float32", "CPU"] == "Gelu" and kinds["gelu", "float16", "CPU"] == "GeLU"
    assert {kinds["fast_gelu", dtype, "CPU"] for dtype in ("float32", "float16")} == {"FastGelu"}


def norm(x, dy):
    """Layer norm with gamma 1 and beta 0, and its gradient along dy."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    inverse = 1 / np.sqrt(variance + 1e-5)
    normed = (x - mean) * inverse
    dx = (dy - dy.mean(-1, keepdims=True) - normed * (dy * normed).mean(-1, keepdims=True)) * inverse
    return normed, dx


class Along(nn.Cell):
    """The sum of a cell's output along a direction, whose gradient is that along it."""

    def __init__(self, cell, direction):
        super().__init__()
        self.cell, self.direction = cell, direction

    def construct(self, x):
        return ops.reduce_sum(ops.cast(self.cell(x), ms.float32) * self.direction)


def rows_of(size, columns=16):
    """Rows whose entries lie about ±size, one of them 0."""
    random = np.random.default_rng(int(size))
    rows = random.uniform(0.2, 1, (4, columns)) * random.choice([-1, 1], (4, columns)) * (size or 1)
    rows[:, 0] = 0
    return rows if size else rows * 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compute", ["float16", "float32"])
def test_layer_norm_and_its_gradient(size, compute):
    config = load_config("tiny", {"hidden_size": 16, "num_heads": 2, "layernorm_compute_type": compute})
    cell = LayerNorm(config)
    x = ms.Tensor(rows_of(size).astype(np.float32), ms.float16)
    direction = np.random.default_rng(9).normal(0, 1, (4, 16)).astype(np.float32)
    value = cell(x).asnumpy().astype(np.float64)
    slope = ops.grad(Along(cell, ms.Tensor(direction)))(x).float().asnumpy()
    wanted, wanted_slope = norm(x.asnumpy().astype(np.float64), direction.astype(np.float64))
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    np.testing.assert_allclose(value, wanted, atol=4e-3)
    np.testing.assert_allclose(slope, wanted_slope, atol=6e-3 * max(np.abs(wanted_slope).max(), 1e-4))


@pytest.mark.parametrize("size", SIZES)
def test_softmax_and_its_gradient(size):
    x = ms.Tensor(rows_of(size).astype(np.float32), ms.float16)
    direction = np.random.default_rng(9).normal(0, 1, (4, 16)).astype(np.float32)
    softmax = Op(ops.Softmax(-1))
    value = softmax(x).asnumpy().astype(np.float64)
    slope = ops.grad(Along(softmax, ms.Tensor(direction)))(x).float().asnumpy()
    rows = x.asnumpy().astype(np.float64)
    powers = np.exp(rows - rows.max(-1, keepdims=True))
    wanted = powers / powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(value, wanted, atol=2e-3)
    wanted_slope = wanted * (direction - (wanted * direction).sum(-1, keepdims=True))
    np.testing.assert_allclose(slope, wanted_slope, atol=4e-3)


@pytest.mark.parametrize("size", SIZES)
def test_the_heads_loss_and_its_gradient(size):
    """Logits about ±size: the states are rows of it, the table is the identity."""
    cell, columns = HeadLoss(), 16
    x = ms.Tensor(rows_of(size).astype(np.float32), ms.float16)
    table = ms.Tensor(np.eye(columns, dtype=np.float32), ms.float16)
    labels, weights = ms.Tensor(np.array([0, 3, 5, 15], np.int32)), ms.Tensor(np.full(4, 0.25, np.float32))

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def construct(self, x):
            return self.cell(x, table, labels, weights)[0]

    value, slope = Loss()(x).asnumpy(), ops.grad(Loss())(x).float().asnumpy()
    rows = x.asnumpy().astype(np.float64)
    shifted = rows - rows.max(-1, keepdims=True)
    total = np.log(np.exp(shifted).sum(-1))
    chosen = labels.asnumpy()
    np.testing.assert_allclose(value, ((total - shifted[np.arange(4), chosen]) / 4).sum(), rtol=1e-5)
    wanted = np.exp(shifted - total[:, None])
    wanted[np.arange(4), chosen] -= 1
    np.testing.assert_allclose(slope, wanted / 4, atol=1e-3)


def test_the_formula_that_float16_cannot_have_is_the_one_that_is_kept_from_it():
    """Why the CPU's own Gelu is for float32: the square overflows and the gradient is no number."""
    from model.network.bloom import Gelu

    x = ms.Tensor(np.array([255, 300], np.float32), ms.float16)
    slope = ops.grad(Gelu())(x).asnumpy()
    assert slope[0] == 1 and np.isnan(slope[1])
    assert np.isfinite(ops.grad(FastGelu())(x).asnumpy()).all()
