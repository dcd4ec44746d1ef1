"""The gradients of a batch on one stage of a pipeline: the 1F1B schedule with compiled stages and a link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from model.data.dataset import Batch
from model.devices.device import dtype_of
from model.network.dropout import Replays
from model.parallel.mesh import Place, Strategy
from model.parallel.p2p import Incoming, Link
from model.parallel.schedule_1f1b import Action, schedule
from model.training.gradients import Accumulator, JoinAccumulated, JoinGradients
from model.training.stages import FirstBackward, Forward, LastBackward, MiddleBackward
from model.training.step import Results, scalar, split, tensors
from orchestrator.families.network_config import NetworkConfig

__all__ = ["Pipeline"]


@dataclass(frozen=True)
class Stage:
    """Which stage this rank is, and what it has beside its part of the network."""

    strategy: Strategy
    place: Place
    config: NetworkConfig
    link: Link
    barrier: Callable[[], Any]  # returns when every rank has called it
    replays: Replays | None = None

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
        join: JoinGradients,
        stage: Stage,
        parts: int,
    ) -> None:
        self.stage, self.parts, self.parameters = stage, parts, parameters
        self.accumulator = Accumulator(parameters)
        self.joined = JoinAccumulated(self.accumulator, join)
        kind = FirstBackward if stage.is_first else LastBackward if stage.is_last else MiddleBackward
        self.backward = kind(network, parameters, self.accumulator)
        self.forward = None if stage.is_last else Forward(network, stage.is_first)
        self.compiled: set[tuple[int, ...]] = set()  # for activations of these shapes
        network.set_train()  # a gradient function does not pass it on

    def gradients(self, batch: Batch, scale: float) -> Results:
        """Loss, norm and gradients of the global batch, which all stages compute together.

        The shapes of the batch are the same on all ranks.
        """
        step = StepState(self, [tensors(part) for part in split(batch, self.parts)], scale)
        if step.shape not in self.compiled:
            self.compile(step)
            with self.stage.link.watch.over_compilation():
                self.stage.barrier()
        self.accumulator.clear()
        if self.stage.replays:
            self.stage.replays.next_step()
        link, stages = self.stage.link, self.stage.strategy.pipeline_stage
        for action in schedule(self.stage.place.pp, stages, self.parts, link.receives_early):
            step.do(action)
        link.finish()
        return self.joined.results(step.loss, step.scale), step.born

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
        self.joined.compile(step.loss, step.scale)
        self.compiled.add(step.shape)


class StepState:
    """What a stage holds between the actions of one step."""

    def __init__(self, pipeline: Pipeline, micro_batches: list[tuple[ms.Tensor, ...]], scale: float) -> None:
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
        getattr(self, f"_{action.work.name.lower()}")(action.micro)

    def _receive_forward(self, micro: int) -> None:
        what = f"the activations of micro batch {micro}"
        self.activations[micro] = self._receive(self.stage.before, what)

    def _send_forward(self, micro: int) -> None:
        what = f"the activations of micro batch {micro}"
        self.stage.link.send(self.outgoing, self.stage.behind, what)

    def _receive_backward(self, micro: int) -> None:
        what = f"the gradients of micro batch {micro}"
        self.gradients[micro] = self._receive(self.stage.behind, what)

    def _send_backward(self, micro: int) -> None:
        what = f"the gradients of micro batch {micro}"
        self.stage.link.send(self.outgoing, self.stage.before, what)

    def _receive(self, rank: int, what: str) -> Incoming:
        return self.stage.link.receive(self.shape, self.dtype, rank, what)

    def _forward(self, micro: int) -> None:
        if self.stage.is_first:
            self.inputs[micro] = self.micro_batches[micro][0]
        else:
            self.inputs[micro] = self.activations.pop(micro).take()
        if not self.stage.is_last:  # there, forward and backward are one graph
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
        if self.stage.replays:
            self.stage.replays.choose(micro)
