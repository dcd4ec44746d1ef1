from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from model.training.optimizer import AdamW, decays


@pytest.mark.parametrize(("dtype", "tolerance"), [(ms.float32, 1e-6), (ms.float16, 1e-3)])
def test_two_updates_are_those_of_the_formulas(dtype, tolerance):
    start = {"a.weight": np.linspace(-1, 1, 6), "a.bias": np.linspace(1, 2, 3)}
    parameters = [ms.Parameter(ms.Tensor(value, dtype), name=name) for name, value in start.items()]
    optimizer = AdamW(parameters, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    assert [item.name for item in optimizer.adam_m] == ["adam_m.a.weight", "adam_m.a.bias"]
    grads = [np.linspace(0.5, -0.2, 6), np.linspace(-1, 1, 3)]
    for rate in (0.1, 0.05):
        doubled = ms.mutable(tuple(ms.Tensor(grad * 2, ms.float32) for grad in grads))
        optimizer(doubled, ms.Tensor(rate, ms.float32), ms.Tensor(0.5, ms.float32))
    for (name, value), grad, parameter in zip(start.items(), grads, parameters, strict=True):
        m = v = 0
        for rate in (0.1, 0.05):
            m, v = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad**2
            value = value - rate * (m / (np.sqrt(v) + 1e-8) + (0.1 if name.endswith("weight") else 0) * value)
        np.testing.assert_allclose(parameter.asnumpy(), value, rtol=tolerance, atol=tolerance)


def test_norms_and_biases_do_not_decay():
    assert decays("blocks.0.output.mapping.weight") and decays("x.embedding_table")
    assert not any(decays(f"x.{name}") for name in ("gamma", "beta", "bias"))
