"""What the network computes by other steps than MindSpore's gives what MindSpore's own gradients give."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.network.cpu_kernels import AddBias, DecayedAdam, NormWithOwnBackward, other_kernels_pay
from model.network.loss import HeadLoss


def random(*shape: int, seed: int = 0) -> ms.Tensor:
    return ms.Tensor(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


class PlainNorm(nn.Cell):
    def __init__(self):
        super().__init__()
        self.norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=1e-5)

    def construct(self, x, gamma, beta):
        return self.norm(x, gamma, beta)


class PlainBias(nn.Cell):
    def construct(self, x, bias):
        return x + bias


class PlainLoss(nn.Cell):
    def construct(self, x, table, labels, weights):
        likelihoods = ops.log_softmax(ops.matmul(x, ops.transpose(table, (1, 0))), -1)
        chosen = ops.gather_elements(likelihoods, 1, ops.expand_dims(labels, -1))
        return -ops.reduce_sum(ops.reshape(chosen, (-1,)) * weights)


class Weighed(nn.Cell):
    """The first result of a cell, or its only one, as a number that every element moves."""

    def __init__(self, cell, weights):
        super().__init__()
        self.cell, self.weights = cell, weights

    def construct(self, *inputs):
        out = self.cell(*inputs)
        if isinstance(out, tuple):
            out = out[0]
        return ops.reduce_sum(out * self.weights)


def assert_same_gradients(own, plain, weights, inputs, positions):
    results = [ops.value_and_grad(Weighed(cell, weights), positions)(*inputs) for cell in (own, plain)]
    np.testing.assert_allclose(results[0][0].asnumpy(), results[1][0].asnumpy(), rtol=1e-5)
    for mine, theirs in zip(results[0][1], results[1][1], strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine.asnumpy(), theirs.asnumpy(), rtol=1e-4, atol=1e-5)


def test_gradients_of_a_norm():
    inputs = (random(2, 3, 24) * 3 + 1, random(24, seed=1), random(24, seed=2))
    weights = random(2, 3, 24, seed=3)
    assert_same_gradients(NormWithOwnBackward(1e-5), PlainNorm(), weights, inputs, (0, 1, 2))


def test_gradients_of_a_bias():
    inputs = (random(2, 3, 8), random(8, seed=1))
    assert_same_gradients(AddBias(), PlainBias(), random(2, 3, 8, seed=2), inputs, (0, 1))


def test_gradients_of_the_head_and_its_loss():
    labels = ms.Tensor([0, 6, 6, 3], ms.int32)
    weights = ms.Tensor([0.5, 0.25, 0.0, 0.25], ms.float32)
    inputs = (random(4, 5), random(7, 5, seed=1), labels, weights)
    assert_same_gradients(HeadLoss(), PlainLoss(), ms.Tensor(3.0, ms.float32), inputs, (0, 1))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_an_update_is_that_of_adam_weight_decay(decay):
    class Update(nn.Cell):
        def __init__(self, kernel):
            super().__init__()
            self.kernel = kernel
            shape = (5, 7)
            self.state = ms.ParameterTuple(
                [
                    ms.Parameter(random(*shape), name="weight"),
                    ms.Parameter(random(*shape, seed=1), name="m"),
                    ms.Parameter(ops.square(random(*shape, seed=2)), name="v"),
                ]
            )

        def construct(self, rate, grad):
            weight, m, v = self.state
            return ops.depend(rate, self.kernel(weight, m, v, rate, 0.9, 0.95, 1e-8, decay, grad))

    updates = [Update(DecayedAdam()), Update(ops.AdamWeightDecay())]
    for update in updates:
        update(ms.Tensor(0.01, ms.float32), random(5, 7, seed=3))
    for mine, theirs in zip(updates[0].state, updates[1].state, strict=True):
        np.testing.assert_allclose(mine.asnumpy(), theirs.asnumpy(), rtol=1e-5, atol=1e-6)


def test_other_kernels_are_for_float32_alone():
    assert other_kernels_pay(ms.float32) and not other_kernels_pay(ms.float32, ms.float16)
