"""The compiled functions of a pipeline stage: its part of the network forward, and backward.

Backward computes the stage's forward once more, so that between the two only the stage's input is kept.
Each also says whether a number that is not finite was born in it: 1 where all that came in was finite and
something that goes out is not.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn, ops

from model.network.loss import TokenLoss
from model.training.gradients import Accumulator

__all__ = ["FirstBackward", "Forward", "LastBackward", "MiddleBackward"]


def _is_finite(x: Any) -> Any:
    return ops.all(ops.isfinite(ops.cast(x, ms.float32)))


def _born(before: Any, after: Any) -> Any:
    return ops.cast(ops.logical_and(_is_finite(before), ops.logical_not(_is_finite(after))), ms.float32)


class StagePart(nn.Cell):
    """The blocks of a stage, with the embedding before them on the first; (…) -> (B, S, h)."""

    def __init__(self, network: nn.Cell, first: bool) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = network.transformer
        self.first = first

    def construct(self, x: Any) -> Any:
        if self.first:
            x = self.transformer.embedding(x)
        return self.transformer.run_blocks(x)


class Forward(nn.Cell):
    """Token ids or activations -> (activations, born); not on the last stage."""

    def __init__(self, network: nn.Cell, first: bool) -> None:
        super().__init__(auto_prefix=False)
        self.part = StagePart(network, first)

    def construct(self, x: Any) -> Any:
        y = self.part(x)
        return y, _born(x, y)


class Surrogate(nn.Cell):
    """A scalar whose gradient is the stage's, where `dy` is the gradient of what it gives."""

    def __init__(self, network: nn.Cell, first: bool) -> None:
        super().__init__(auto_prefix=False)
        self.part = StagePart(network, first)

    def construct(self, x: Any, dy: Any) -> Any:
        return ops.reduce_sum(ops.cast(self.part(x), ms.float32) * ops.cast(dy, ms.float32))


class FirstBackward(nn.Cell):
    """(ids, dy) -> born; the gradients of the weights are added to the accumulator's."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.grad(Surrogate(network, first=True), None, parameters)
        self.accumulator = accumulator

    def construct(self, ids: Any, dy: Any) -> Any:
        grads = self.backward(ids, dy)
        return ops.depend(_born(dy, grads[0]), self.accumulator(grads))


class MiddleBackward(nn.Cell):
    """(x, dy) -> (dx, born); the gradients of the weights are added to the accumulator's."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.grad(Surrogate(network, first=False), 0, parameters)
        self.accumulator = accumulator

    def construct(self, x: Any, dy: Any) -> Any:
        dx, grads = self.backward(x, dy)
        return ops.depend(dx, self.accumulator(grads)), _born(dy, dx)


class LastLoss(nn.Cell):
    """(x, labels, weights, scale) -> (scaled loss, loss)."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.part = StagePart(network, first=False)
        self.ln_f = network.transformer.ln_f
        self.loss = TokenLoss(network)

    def construct(self, x: Any, labels: Any, weights: Any, scale: Any) -> Any:
        loss = self.loss(self.ln_f(self.part(x)), labels, weights)
        return loss * scale, loss


class LastBackward(nn.Cell):
    """(x, labels, weights, scale) -> (dx, born, loss), forward and backward in one."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.value_and_grad(LastLoss(network), 0, parameters, has_aux=True)
        self.accumulator = accumulator

    def construct(self, x: Any, labels: Any, weights: Any, scale: Any) -> Any:
        (_, loss), (dx, grads) = self.backward(x, labels, weights, scale)
        return ops.depend(dx, self.accumulator(grads)), _born(x, dx), loss
