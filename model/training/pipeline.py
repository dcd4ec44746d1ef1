"""One stage's part in a step of a pipeline: compiled forward and backward passes, done in the 1F1B order.

Backward computes the stage's forward once more, so that between the two only the stage's input is kept. Each
pass also says whether a number that is not finite was born in it: 1 where all that came in was finite and
something that goes out is not. The order is that of `parallel.pipeline_schedule`, the messages between
stages are those of `parallel.p2p`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from model.data.dataset import Batch
from model.devices.device import dtype_of
from model.network.dropout import DropoutSeed
from model.network.loss import TokenLoss
from model.parallel.mesh import Place, Strategy
from model.parallel.p2p import Incoming, Link
from model.parallel.pipeline_schedule import Action, Work, schedule
from model.training.gradients import Accumulator, ReduceAccumulated, ReduceGradients
from model.training.step import Results, never, scalar, split, tensors
from orchestrator.families.network_config import NetworkConfig

__all__ = ["FirstBackward", "Forward", "LastBackward", "MiddleBackward", "Pipeline", "Stage"]


def _is_finite(x: Tensor) -> Tensor:
    return ops.all(ops.isfinite(ops.cast(x, ms.float32)))


def _born(before: Tensor, after: Tensor) -> Tensor:
    return ops.cast(ops.logical_and(_is_finite(before), ops.logical_not(_is_finite(after))), ms.float32)


class StagePart(nn.Cell):
    """The blocks of a stage, with the embedding before them on the first; (…) -> (B, S, h)."""

    def __init__(self, network: nn.Cell, first: bool) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = network.transformer
        self.first = first

    def construct(self, x: Tensor) -> Any:
        if self.first:
            x = self.transformer.embedding(x)
        return self.transformer.run_blocks(x)


class Forward(nn.Cell):
    """Token ids or activations -> (activations, born); not on the last stage."""

    def __init__(self, network: nn.Cell, first: bool) -> None:
        super().__init__(auto_prefix=False)
        self.part = StagePart(network, first)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.part(x)
        return y, _born(x, y)


class Surrogate(nn.Cell):
    """A scalar whose gradient is the stage's, where `dy` is the gradient of what it gives."""

    def __init__(self, network: nn.Cell, first: bool) -> None:
        super().__init__(auto_prefix=False)
        self.part = StagePart(network, first)

    def construct(self, x: Tensor, dy: Tensor) -> Tensor:
        return ops.reduce_sum(ops.cast(self.part(x), ms.float32) * ops.cast(dy, ms.float32))


class FirstBackward(nn.Cell):
    """(ids, dy) -> born; the gradients of the weights are added to the accumulator's."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.grad(Surrogate(network, first=True), None, parameters)
        self.accumulator = accumulator

    def construct(self, ids: Tensor, dy: Tensor) -> Tensor:
        grads = self.backward(ids, dy)
        return ops.depend(_born(dy, grads[0]), self.accumulator(grads))


class MiddleBackward(nn.Cell):
    """(x, dy) -> (dx, born); the gradients of the weights are added to the accumulator's."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.grad(Surrogate(network, first=False), 0, parameters)
        self.accumulator = accumulator

    def construct(self, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        dx, grads = self.backward(x, dy)
        return ops.depend(dx, self.accumulator(grads)), _born(dy, dx)


class LastLoss(nn.Cell):
    """(x, labels, weights, scale) -> (scaled loss, loss)."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.part = StagePart(network, first=False)
        self.ln_f = network.transformer.ln_f
        self.loss = TokenLoss(network)

    def construct(self, x: Tensor, labels: Tensor, weights: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.loss(self.ln_f(self.part(x)), labels, weights)
        return loss * scale, loss


class LastBackward(nn.Cell):
    """(x, labels, weights, scale) -> (dx, born, loss), forward and backward in one."""

    def __init__(self, network: nn.Cell, parameters: ms.ParameterTuple, accumulator: Accumulator) -> None:
        super().__init__(auto_prefix=False)
        self.backward = ops.value_and_grad(LastLoss(network), 0, parameters, has_aux=True)
        self.accumulator = accumulator

    def construct(self, x: Tensor, labels: Tensor, weights: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        (_, loss), (dx, grads) = self.backward(x, labels, weights, scale)
        return ops.depend(dx, self.accumulator(grads)), _born(x, dx), loss


@dataclass(frozen=True)
class Stage:
    """Which stage this rank is, and what it has beside its part of the network."""

    strategy: Strategy
    place: Place
    config: NetworkConfig
    link: Link
    barrier: Callable[[], Any]  # returns when every rank has called it
    dropout_seed: DropoutSeed | None = None

    @property
    def is_first(self) -> bool:
        return self.place.pp == 0

    @property
    def is_last(self) -> bool:
        return self.place.pp == self.strategy.pipeline_stage - 1

    @property
    def before(self) -> int:
        """The rank that has this rank's place in the stage before."""
        return self.place.rank - self.strategy.network_cut.ranks_per_stage

    @property
    def behind(self) -> int:
        """The rank that has this rank's place in the next stage."""
        return self.place.rank + self.strategy.network_cut.ranks_per_stage


class Pipeline:
    """One stage's part in the gradients of a batch; called on all ranks together."""

    def __init__(
        self,
        network: nn.Cell,
        parameters: ms.ParameterTuple,
        reduce: ReduceGradients,
        stage: Stage,
        parts: int,
    ) -> None:
        self.stage, self.parts, self.parameters = stage, parts, parameters
        self.accumulator = Accumulator(parameters)
        self.reduced = ReduceAccumulated(self.accumulator, reduce)
        kind = FirstBackward if stage.is_first else LastBackward if stage.is_last else MiddleBackward
        self.backward = kind(network, parameters, self.accumulator)
        self.forward = None if stage.is_last else Forward(network, stage.is_first)
        self.compiled: set[tuple[int, ...]] = set()  # for activations of these shapes
        network.set_train()  # a gradient function does not pass it on

    def gradients(self, batch: Batch, scale: float, asked: Callable[[], float] = never) -> Results:
        """Loss, norm and gradients of the global batch, which all stages compute together.

        The shapes of the batch are the same on all ranks.
        """
        step = StepState(self, [tensors(part) for part in split(batch, self.parts)], scale)
        if step.shape not in self.compiled:
            self.compile(step)
            with self.stage.link.watch.over_compilation():
                self.stage.barrier()
        self.accumulator.clear()
        if self.stage.dropout_seed:
            self.stage.dropout_seed.next_step()
        link, stages = self.stage.link, self.stage.strategy.pipeline_stage
        for action in schedule(self.stage.place.pp, stages, self.parts, link.receives_early):
            step.do(action)
        link.finish()
        results = self.reduced.results(step.loss, step.scale, scalar(float(asked())))
        return Results(*results, step.born)

    def graph(self, batch: Batch, scale: float) -> Hashable:
        return batch.tokens.shape

    def compile(self, step: StepState) -> None:
        """Compile all that `step` runs, and run nothing.

        Without this, a stage would compile when its first activations come, which is after all stages before
        it have compiled and run, and all later ones would wait for the sum of it; the same on the way back.
        The optimizer's update is not among them: all ranks come to it at the same time.
        """
        ids, labels, weights = step.micro_batches[0]
        activations = ops.zeros(step.shape, step.dtype)
        x = ids if self.stage.is_first else activations
        if self.forward is not None:
            self.forward.compile(x)
        if self.stage.is_last:
            self.backward.compile(x, labels, weights, step.scale)
        else:
            self.backward.compile(x, activations)
        self.reduced.compile(step.loss, step.scale, scalar(0.0))
        self.compiled.add(step.shape)


class StepState:
    """What a stage holds between the actions of one step."""

    def __init__(self, pipeline: Pipeline, micro_batches: list[tuple[Tensor, ...]], scale: float) -> None:
        self.pipeline, self.stage = pipeline, pipeline.stage
        self.micro_batches, self.scale = micro_batches, scalar(scale)
        self.inputs: dict[int, Any] = {}  # of the micro batches that went forward and are not back yet
        self.activations: dict[int, Incoming] = {}  # asked for, by micro batch
        self.gradients: dict[int, Incoming] = {}
        self.outgoing: Any = None
        self.loss = scalar(0.0)
        self.born: list[Any] = []
        rows, length = micro_batches[0][0].shape
        strategy = self.stage.strategy
        length //= strategy.model_parallel if strategy.use_seq_parallel else 1
        self.shape = (rows, length, self.stage.config.hidden_size)
        self.dtype = dtype_of(self.stage.config.compute_dtype)

    def do(self, action: Action) -> None:
        """One entry of the schedule."""
        micro, stage = action.micro, self.stage
        of_micro = f"of micro batch {micro}"
        match action.work:
            case Work.RECEIVE_FORWARD:
                self.activations[micro] = self._receive(stage.before, f"the activations {of_micro}")
            case Work.FORWARD:
                self._forward(micro)
            case Work.SEND_FORWARD:
                stage.link.send(self.outgoing, stage.behind, f"the activations {of_micro}")
            case Work.RECEIVE_BACKWARD:
                self.gradients[micro] = self._receive(stage.behind, f"the gradients {of_micro}")
            case Work.BACKWARD:
                self._backward(micro)
            case Work.SEND_BACKWARD:
                stage.link.send(self.outgoing, stage.before, f"the gradients {of_micro}")

    def _receive(self, rank: int, what: str) -> Incoming:
        return self.stage.link.receive(self.shape, self.dtype, rank, what)

    def _forward(self, micro: int) -> None:
        if self.stage.is_first:
            self.inputs[micro] = self.micro_batches[micro][0]
        else:
            self.inputs[micro] = self.activations.pop(micro).take()
        if self.pipeline.forward is not None:  # on the last stage, forward and backward are one graph
            self._choose_masks(micro)
            self.outgoing, born = self.pipeline.forward(self.inputs[micro])
            self.born.append(born)

    def _backward(self, micro: int) -> None:
        x, pipeline = self.inputs.pop(micro), self.pipeline
        self._choose_masks(micro)
        if self.stage.is_last:
            _, labels, weights = self.micro_batches[micro]
            self.outgoing, born, loss = pipeline.backward(x, labels, weights, self.scale)
            self.loss = self.loss + loss
        elif self.stage.is_first:
            born = pipeline.backward(x, self.gradients.pop(micro).take())
        else:
            self.outgoing, born = pipeline.backward(x, self.gradients.pop(micro).take())
        self.born.append(born)

    def _choose_masks(self, micro: int) -> None:
        """Forward and backward of a micro batch drop the same."""
        if self.stage.dropout_seed:
            parts = len(self.micro_batches)
            self.stage.dropout_seed.choose(self.shape[0] * parts, micro, parts)
