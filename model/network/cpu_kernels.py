"""Kernels for training on a CPU: steps that MindSpore would compute there in slower ones.

Its own are slower there than the memory and the arithmetic ask for (MindSpore 2.10, 2 cores, float32):
AdamWeightDecay takes 2.9 to 6 ns a parameter where Adam and a product take 1.6, LayerNormGrad 2.5 ms for
(256, 512) where the steps below take 1.0, a sum of rows 0.08 ms where a product with ones takes 0.06.
Other devices keep MindSpore's kernels, which are made for them.

h hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from model.devices.device import current_device

__all__ = [
    "AddBias",
    "DecayedAdam",
    "NormWithOwnBackward",
    "SquaresByProducts",
    "layer_norm",
    "other_kernels_pay",
]


def other_kernels_pay(*types: Any) -> bool:
    """On the CPU, where all these types are float32: in float16 a sum by a product would lose digits."""
    return current_device().is_cpu and all(one == ms.float32 for one in types)


def _sum_of_rows(x: Tensor) -> Tensor:
    """(…, n) -> (n,): the sum over all axes but the last."""
    rows = ops.reshape(x, (-1, x.shape[-1]))
    return ops.reshape(ops.matmul(ops.ones((1, rows.shape[0]), x.dtype), rows), (-1,))


class AddBias(nn.Cell):
    """(…, n) + (n,) -> (…, n)."""

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + bias

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return dout, _sum_of_rows(dout)


def layer_norm(epsilon: float) -> Callable[..., Tensor]:
    """MindSpore's over the last axis; (…, h), gamma (h,), beta (h,) -> (out, mean, variance)."""
    return ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=epsilon)


class NormWithOwnBackward(nn.Cell):
    """`layer_norm` of which only the first result has a gradient."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.norm = layer_norm(epsilon)
        self.epsilon = epsilon
        self.product = ops.MatMul()

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return self.norm(x, gamma, beta)

    def bprop(self, x: Tensor, gamma: Tensor, beta: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """dx = (g - mean(g) - n * mean(g * n)) / deviation; n = (x - mean) / deviation, g = dy * gamma.

        Nothing but the first of the three results is used, so only that has a gradient.
        """
        size = x.shape[-1]
        rows, dy = ops.reshape(x, (-1, size)), ops.reshape(dout[0], (-1, size))
        inverse = ops.rsqrt(ops.reshape(out[2], (-1, 1)) + self.epsilon)
        normed = (rows - ops.reshape(out[1], (-1, 1))) * inverse
        along = dy * normed
        column = ops.reshape(gamma, (size, 1)) * (1.0 / size)
        # A row's sum over g is its product with gamma.
        mean, mean_along = self.product(dy, column), self.product(along, column)
        dx = (dy * gamma - mean - normed * mean_along) * inverse
        return ops.reshape(dx, x.shape), _sum_of_rows(along), _sum_of_rows(dy)


class DecayedAdam(nn.Cell):
    """What `ops.AdamWeightDecay` does, from the same inputs, in place."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.adam = ops.Adam()

    def construct(
        self,
        weight: Any,
        m: Any,
        v: Any,
        rate: Any,
        beta1: float,
        beta2: float,
        eps: float,
        decay: float,
        grad: Any,
    ) -> Any:
        done: Any = True
        if decay != 0.0:
            done = ops.assign(weight, weight * (1.0 - rate * decay))
        # Powers of beta that are 0 stand for no correction of the bias.
        return self.adam(weight, m, v, 0.0, 0.0, rate, beta1, beta2, eps, ops.depend(grad, done))


class SquaresByProducts(nn.Cell):
    """What `gradients.WeightedSquares` gives, by products of tensors with themselves.

    Seven times as fast as a sum of squares. The CPU computes such a product on one core and several side by
    side, so a tensor is halved.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float]) -> None:
        super().__init__(auto_prefix=False)
        self.halves = tuple(2 if size % 2 == 0 else 1 for size in sizes)
        self.weights = Tensor(np.repeat(np.array(weights, np.float32), self.halves))
        self.dot = ops.BatchMatMul(transpose_b=True)

    def construct(self, tensors: Tensor) -> Tensor:
        squares: tuple[Tensor, ...] = ()
        for index in range(len(tensors)):
            halves = ops.reshape(tensors[index], (self.halves[index], 1, -1))
            squares += (ops.reshape(self.dot(halves, halves), (-1,)),)
        return ops.reduce_sum(ops.concat(squares) * self.weights)
