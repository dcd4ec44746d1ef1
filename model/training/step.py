"""One training step: the gradients of all micro batches, their sum over ranks, clipping, the update.

Also the loss scale, the factor on the loss that keeps float16 gradients away from zero.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from model.data.dataset import Batch
from model.errors import ModelError
from model.network.dropout import DropoutSeed
from model.network.loss import LossCell
from model.training.gradients import Accumulator, ReduceAccumulated, ReduceGradients, clip_factor
from model.training.optimizer import AdamW
from model.training.step_requests import told_by

__all__ = [
    "BatchInTwo",
    "GradientSource",
    "LossScale",
    "MicroBatches",
    "Results",
    "StepResult",
    "TrainStep",
    "WholeBatch",
    "loss_scale_of",
    "never",
    "scalar",
    "split",
    "tensors",
]


@dataclass(frozen=True, slots=True)
class Results:
    """What a source of gradients gives: `loss`, `norm` and `gradients` are those of the global batch.

    `asked` is the sum of what the ranks ask of all, see `step_requests`. `born` are flags of numbers that
    were born not finite on this rank. `computed` is the time (`time.monotonic`) when this rank was done with
    its own part and began to wait for the others; None where the two cannot be told apart.
    """

    loss: Any
    norm: Any
    asked: Any
    gradients: tuple[Any, ...]
    born: list[Any]
    computed: float | None = None


def scalar(value: float) -> Tensor:
    return Tensor(value, ms.float32)


def tensors(batch: Batch) -> tuple[Tensor, ...]:
    """tokens, labels, weights."""
    arrays = (batch.tokens, batch.labels, batch.weights)
    return tuple(Tensor(np.ascontiguousarray(array)) for array in arrays)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch as `parts` batches of equal size."""
    arrays = (np.split(array, parts) for array in (batch.tokens, batch.labels, batch.weights))
    return [Batch(*part) for part in zip(*arrays, strict=True)]


@dataclass(slots=True)
class LossScale:
    """Halved by a step whose gradients overflow, doubled after `window` steps without one.

    A `window` of 0 keeps the value fixed. Every rank sees every overflow, so all hold the same value.
    """

    value: float = 1.0
    window: int = 0
    good_steps: int = 0  # since the value was last changed

    LOWEST = 1.0
    HIGHEST = 2.0**24

    @property
    def can_shrink(self) -> bool:
        return self.window > 0 and self.value > self.LOWEST

    def update(self, overflow: bool) -> None:
        """Follow one step."""
        if not self.window:
            return
        if overflow:
            self.value, self.good_steps = max(self.LOWEST, self.value / 2), 0
            return
        self.good_steps += 1
        if self.good_steps >= self.window:
            self.value, self.good_steps = min(self.HIGHEST, self.value * 2), 0


def loss_scale_of(setting: str | float | None, start: float, window: int) -> LossScale:
    """From train.loss_scale: None (1), a number, or "dynamic" (from `start`, doubled after `window`)."""
    if setting is None:
        return LossScale()
    if not isinstance(setting, str):
        return LossScale(float(setting))
    if setting != "dynamic":
        raise ModelError(f"must be dynamic or a number, not {setting!r}", where="train.loss_scale")
    return LossScale(start, window)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave; `loss` and `norm` are those of the global batch, the same on every rank."""

    loss: float
    norm: float
    loss_scale: float
    updated: bool  # False where a number was not finite: the weights are as before
    skipped: bool  # not updated, and a smaller loss scale may help
    origins: tuple[int, ...] = ()  # the ranks where a number that is not finite was born, if that is known
    saturated: bool = False  # a number overflowed, and was replaced by the largest that there is
    stops: bool = False  # a rank asks all to stop after this step; seen by all of them
    saves: bool = False  # rank 0 asks all to save after it
    computed: float | None = None  # when this rank began to wait for the others, if that is known


def never() -> float:
    """Nothing is asked."""
    return 0.0


class GradientSource(Protocol):
    """What computes the gradients of a batch; called on all ranks together."""

    def gradients(self, batch: Batch, scale: float, asked: Callable[[], float] = never) -> Results:
        """The sums over all ranks. `asked`: what this rank asks of all, see `step_requests`."""
        ...

    def graph(self, batch: Batch, scale: float) -> Hashable:
        """Which compiled graph that takes: another one is compiled first."""
        ...


class Register(Protocol):
    """What remembers an overflow where numbers saturate, see `model.training.overflow`."""

    def clear(self) -> None: ...

    def is_set(self) -> bool: ...


class ScaledLoss(nn.Cell):
    """(scaled loss, loss) of one micro batch."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.loss = LossCell(network)

    def construct(
        self, tokens: Tensor, labels: Tensor, weights: Tensor, scale: Tensor | None
    ) -> tuple[Tensor, ...]:
        loss = self.loss(tokens, labels, weights)
        return (loss if scale is None else loss * scale), loss


class OwnGradients(nn.Cell):
    """(tokens, labels, weights, scale) -> (loss, born, float32 gradients) of this rank's batch.

    `born` is NaN where the loss is not finite, else 0; it is there when the gradients are.
    """

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.value_and_grad(ScaledLoss(network), None, parameters, has_aux=True)
        network.set_train()  # a gradient function does not pass it on

    def construct(
        self, tokens: Tensor, labels: Tensor, weights: Tensor, scale: Tensor | None
    ) -> tuple[Any, ...]:
        (_, own), grads = self.backward(tokens, labels, weights, scale)
        unscaled: tuple[Tensor, ...] = ()
        for grad in grads:
            grad = ops.cast(grad, ms.float32)
            unscaled += (grad if scale is None else grad / scale,)
        return own, ops.depend(own - own, unscaled), unscaled


class WholeBatch(nn.Cell):
    """A batch in one graph."""

    def __init__(
        self,
        network: nn.Cell,
        parameters: ms.ParameterTuple,
        reduce: ReduceGradients,
        dropout_seed: DropoutSeed | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.own = OwnGradients(network, parameters)
        self.reduce = reduce
        self.dropout_seed = dropout_seed

    def construct(
        self, tokens: Tensor, labels: Tensor, weights: Tensor, scale: Tensor | None, stop: Tensor
    ) -> tuple[Any, ...]:
        own, born, grads = self.own(tokens, labels, weights, scale)
        return (*self.reduce(own, grads, stop), born)

    def gradients(self, batch: Batch, scale: float, asked: Callable[[], float] = never) -> Results:
        _choose_masks(self.dropout_seed, batch)
        loss, norm, stops, grads, born = self(*tensors(batch), _factor(scale), scalar(float(asked())))
        return Results(loss, norm, stops, tuple(grads), [born])

    def graph(self, batch: Batch, scale: float) -> Hashable:
        return batch.tokens.shape, scale == 1.0


class BatchInTwo:
    """A batch in two graphs, of which the first waits for nobody: so its time is this rank's own.

    Between the two all gradients are held, and the second holds their buffers beside them: for a network
    whose gradients fit in one.
    """

    def __init__(
        self,
        network: nn.Cell,
        parameters: ms.ParameterTuple,
        reduce: ReduceGradients,
        dropout_seed: DropoutSeed | None = None,
    ) -> None:
        self.own, self.reduce = OwnGradients(network, parameters), reduce
        self.dropout_seed = dropout_seed

    def gradients(self, batch: Batch, scale: float, asked: Callable[[], float] = never) -> Results:
        _choose_masks(self.dropout_seed, batch)
        own, born, grads = self.own(*tensors(batch), _factor(scale))
        computed = _is_there(born)
        # Mutable: a plain tuple of tensors would be taken for constants and compiled anew.
        loss, norm, stops, reduced = self.reduce(own, ms.mutable(tuple(grads)), scalar(float(asked())))
        return Results(loss, norm, stops, tuple(reduced), [born], computed)

    def graph(self, batch: Batch, scale: float) -> Hashable:
        return batch.tokens.shape, scale == 1.0


def _choose_masks(dropout_seed: DropoutSeed | None, batch: Batch) -> None:
    if dropout_seed:
        dropout_seed.next_step()
        dropout_seed.choose(len(batch.tokens))


def _factor(scale: float) -> Tensor | None:
    # None is compiled as such: a factor of 1 costs one more pass over all gradients.
    return None if scale == 1.0 else scalar(scale)


def _is_there(value: Tensor) -> float:
    """The time (of `time.monotonic`) when the device has computed it, which is waited for."""
    value.asnumpy()
    return time.monotonic()


class MicroBatch(nn.Cell):
    """(tokens, labels, weights, scale) -> loss; the gradients are added to the accumulator's."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.value_and_grad(ScaledLoss(network), None, parameters, has_aux=True)
        self.accumulator = accumulator

    def construct(self, tokens: Tensor, labels: Tensor, weights: Tensor, scale: Tensor) -> Any:
        (_, loss), grads = self.backward(tokens, labels, weights, scale)
        return ops.depend(loss, self.accumulator(grads))


class MicroBatches:
    """A batch in `parts` micro batches of equal size, one graph run for each.

    `waits_for_none`: nothing in these graphs waits for another rank, so that their time is this rank's own.
    """

    def __init__(
        self,
        network: nn.Cell,
        parameters: ms.ParameterTuple,
        reduce: ReduceGradients,
        parts: int,
        dropout_seed: DropoutSeed | None = None,
        waits_for_none: bool = False,
    ) -> None:
        self.parts, self.dropout_seed, self.waits_for_none = parts, dropout_seed, waits_for_none
        self.accumulator = Accumulator(parameters)
        self.micro = MicroBatch(network, parameters, self.accumulator)
        network.set_train()  # a gradient function does not pass it on
        self.reduced = ReduceAccumulated(self.accumulator, reduce)

    def gradients(self, batch: Batch, scale: float, asked: Callable[[], float] = never) -> Results:
        self.accumulator.clear()
        if self.dropout_seed:
            self.dropout_seed.next_step()
        losses = []
        for number, part in enumerate(split(batch, self.parts)):
            if self.dropout_seed:
                self.dropout_seed.choose(len(batch.tokens), number, self.parts)
            losses.append(self.micro(*tensors(part), scalar(scale)))
        loss = sum(losses[1:], losses[0])
        computed = _is_there(loss) if self.waits_for_none else None
        results = self.reduced.results(loss, scalar(scale), scalar(float(asked())))
        return Results(*results, [loss - loss for loss in losses], computed)

    def graph(self, batch: Batch, scale: float) -> Hashable:
        return batch.tokens.shape


class TrainStep:
    """Batches in, weights updated in place.

    `gather` gives every rank's copy of a small array, in rank order; `alone` where there is one rank.
    `register` is given where an overflow leaves finite numbers: it is read once a step, on all ranks.
    `asked` says what this rank asks of all, see `step_requests`; `summed` is called when a step's sums over
    all ranks are there, which is at the same time on all of them.
    """

    def __init__(
        self,
        source: GradientSource,
        optimizer: AdamW,
        *,
        clip: float = 0.0,
        loss_scale: LossScale | None = None,
        gather: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        register: Register | None = None,
        asked: Callable[[], float] = never,
        summed: Callable[[], None] = lambda: None,
    ) -> None:
        self.source, self.optimizer, self.clip, self.register = source, optimizer, clip, register
        self.loss_scale = loss_scale or LossScale()
        self.gather = gather or alone
        self.asked, self.summed = asked, summed
        self.graphs: set[Hashable] = set()  # that were compiled

    def compiles(self, batch: Batch) -> bool:
        """Whether the step of this batch begins with compiling, as the first one does."""
        return self.source.graph(batch, self.loss_scale.value) not in self.graphs

    def __call__(self, batch: Batch, rate: float) -> StepResult:
        """Compute the batch and, where all its numbers are finite, update the weights."""
        scale = self.loss_scale.value
        if self.register:
            self.register.clear()
        found = self.source.gradients(batch, scale, self.asked)
        loss, norm, asked = (float(one.asnumpy()) for one in (found.loss, found.norm, found.asked))
        self.summed()
        self.graphs.add(self.source.graph(batch, scale))
        saturated = self._ranks(self.register.is_set()) if self.register else ()
        updated = math.isfinite(loss) and math.isfinite(norm) and not saturated
        if updated:
            # Mutable: a plain tuple of tensors would be taken for constants and compiled anew.
            factor = clip_factor(norm, self.clip)
            self.optimizer(ms.mutable(found.gradients), scalar(rate), scalar(factor))
        skipped = not updated and self.loss_scale.can_shrink
        self.loss_scale.update(not updated)
        origins = () if updated or skipped else saturated or self._origins(found.born)
        return StepResult(
            loss, norm, scale, updated, skipped, origins, bool(saturated), *told_by(asked), found.computed
        )

    def _origins(self, born: list[Any]) -> tuple[int, ...]:
        """The ranks with a flag that is not 0."""
        return self._ranks(any(float(flag.asnumpy()) != 0 for flag in born))

    def _ranks(self, flag: bool) -> tuple[int, ...]:
        """The ranks that raise their flag; all ranks come here together."""
        table = self.gather(np.array([flag], np.float32))
        return tuple(int(rank) for rank in np.flatnonzero(table[:, 0]))


def alone(values: NDArray[Any]) -> NDArray[Any]:
    """The gathering of a world of one rank."""
    return values[None]
