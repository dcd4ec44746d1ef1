"""One training step: the gradients of all micro batches, their sum over ranks, clipping, the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.data import Batch
from model.gradients import Accumulator, JoinGradients, clip_factor
from model.loss import LossCell
from model.loss_scale import LossScale
from model.optimizer import AdamW
from model.parallel import Groups, Place, Strategy

__all__ = ["StepResult", "TrainStep"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave; `loss` and `norm` are those of the global batch, the same on every rank."""

    loss: float
    norm: float
    loss_scale: float
    updated: bool  # False where a number was not finite: the weights are as before
    skipped: bool  # not updated, and a smaller loss scale may help


class ScaledLoss(nn.Cell):
    """(scaled loss, loss) of one micro batch."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.loss = LossCell(network)

    def construct(self, tokens: Any, labels: Any, weights: Any, scale: Any) -> Any:
        loss = self.loss(tokens, labels, weights)
        return loss * scale, loss


class WholeBatch(nn.Cell):
    """(tokens, labels, weights, scale) -> (loss, norm, gradients): a batch in one graph."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, join: JoinGradients) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.value_and_grad(ScaledLoss(network), None, parameters, has_aux=True)
        self.join = join

    def construct(self, tokens: Any, labels: Any, weights: Any, scale: Any) -> Any:
        (_, loss), grads = self.backward(tokens, labels, weights, scale)
        return self.join(loss, grads, scale)


class MicroBatch(nn.Cell):
    """(tokens, labels, weights, scale) -> loss; the gradients are added to the accumulator's."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.value_and_grad(ScaledLoss(network), None, parameters, has_aux=True)
        self.accumulator = accumulator

    def construct(self, tokens: Any, labels: Any, weights: Any, scale: Any) -> Any:
        (_, loss), grads = self.backward(tokens, labels, weights, scale)
        return ops.depend(loss, self.accumulator(grads))


class JoinAccumulated(nn.Cell):
    """(loss, scale) -> (loss, norm, gradients), from the accumulator's sums."""

    def __init__(self, accumulator: Accumulator, join: JoinGradients) -> None:
        super().__init__(auto_prefix=False)
        self.sums = accumulator.sums
        self.join = join

    def construct(self, loss: Any, scale: Any) -> Any:
        return self.join(loss, self.sums, scale)


class TrainStep:
    """Batches in, weights updated in place; a batch is computed in `parts` micro batches of equal size."""

    def __init__(
        self,
        network: nn.Cell,
        optimizer: AdamW,
        *,
        clip: float = 0.0,
        loss_scale: LossScale | None = None,
        parts: int = 1,
        strategy: Strategy | None = None,
        place: Place | None = None,
        groups: Groups | None = None,
    ) -> None:
        strategy, place, groups = strategy or Strategy(), place or Place(0, 0, 0, 0), groups or Groups()
        parameters = optimizer.parameters
        self.optimizer, self.clip, self.parts = optimizer, clip, parts
        self.loss_scale = loss_scale or LossScale()
        join = JoinGradients(parameters, strategy, place, groups)
        if parts == 1:
            self.whole = WholeBatch(network, parameters, join).set_train()
        else:
            self.accumulator = Accumulator(parameters)
            self.micro = MicroBatch(network, parameters, self.accumulator).set_train()
            self.joined = JoinAccumulated(self.accumulator, join)

    def __call__(self, batch: Batch, rate: float) -> StepResult:
        """Compute the batch and, where all its numbers are finite, update the weights."""
        scale = self.loss_scale.value
        loss, norm, grads = self.gradients(batch, scale)
        updated = math.isfinite(loss) and math.isfinite(norm)
        if updated:
            self.optimizer(ms.mutable(grads), _scalar(rate), _scalar(clip_factor(norm, self.clip)))
        skipped = not updated and self.loss_scale.can_shrink
        self.loss_scale.update(not updated)
        return StepResult(loss, norm, scale, updated, skipped)

    def gradients(self, batch: Batch, scale: float = 1.0) -> tuple[float, float, tuple[ms.Tensor, ...]]:
        """Loss, norm and gradients of the global batch, before clipping."""
        if self.parts == 1:
            loss, norm, grads = self.whole(*_tensors(batch), _scalar(scale))
        else:
            self.accumulator.clear()
            losses = [self.micro(*_tensors(part), _scalar(scale)) for part in split(batch, self.parts)]
            loss, norm, grads = self.joined(sum(losses[1:], losses[0]), _scalar(scale))
        return float(loss.asnumpy()), float(norm.asnumpy()), grads


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch as `parts` batches of equal size."""
    arrays = (np.split(array, parts) for array in (batch.tokens, batch.labels, batch.weights))
    return [Batch(*part) for part in zip(*arrays, strict=True)]


def _tensors(batch: Batch) -> tuple[ms.Tensor, ...]:
    return tuple(
        ms.Tensor(np.ascontiguousarray(array)) for array in (batch.tokens, batch.labels, batch.weights)
    )


def _scalar(value: float) -> ms.Tensor:
    return ms.Tensor(value, ms.float32)
