"""Every graph that the bundled model runs on an Ascend, and the operators that it is made of.

`python -m tests.model.support.ascend_graphs <folder> <n> <m>` compiles the n-th of m parts of them, tiny, as
far as a CPU can, and prints {graph: [operators]} as JSON; `folder` is for MindSpore's texts of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2, NPUGetFloatStatusV2

from model.config.load_config import load_config
from model.config.settings import Settings
from model.devices.device import built_for
from model.inference.cached_attention import CachedNetwork, IdsToLogits, ReorderedCaches
from model.network.build import build
from model.network.dropout import seed_dropout
from model.network.loss import LossCell
from model.parallel.distributed import Session
from model.parallel.mesh import Groups, Strategy
from model.training.gradients import Accumulator, ReduceAccumulated, ReduceGradients
from model.training.overflow import StatusGraph
from model.training.pipeline import FirstBackward, Forward, LastBackward, MiddleBackward
from model.training.trainer import gradient_source, optimizer_for
from orchestrator.config.worker_config import Train
from orchestrator.families.bloom import BloomConfig
from tests.model.support.ascend_compile import A2, Primitives, groups_of

__all__ = ["GRAPHS"]

ROWS, LENGTH = 2, 16
SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 33, "seq_length": LENGTH}
HALF = {"param_init_type": "float16", "compute_dtype": "float16", "softmax_compute_type": "float16"}
BRAIN = dict.fromkeys(("param_init_type", "compute_dtype", "softmax_compute_type"), "bfloat16")
FULL = dict.fromkeys(("param_init_type", "compute_dtype", "softmax_compute_type"), "float32")
WITHOUT_DROPOUT = {"hidden_dropout_rate": 0.0, "attention_dropout_rate": 0.0}
FLASH = {"use_flash_attention": True}

ALONE = Strategy(vocab_size=33)
# The vocabulary has padding; all kinds of groups are there.
LAYERS = Strategy(2, 2, 1, optimizer_shard=True, vocab_size=33, use_seq_parallel=True)
STAGES = Strategy(2, 2, 3, vocab_size=33)
REPLICAS = Strategy(2, 1, 1, optimizer_shard=True, vocab_size=33)

# Made of what other graphs have, each its part: REALITY=1 compiles them as well (test-long).
COMBINED = {
    "step, bfloat16, flash attention and its dropout, every group",
    "step, float32, every group",
    "update, moments shared out, float32 weights",
}

Graph = tuple[nn.Cell, tuple[Any, ...]]
GRAPHS: dict[str, Callable[[], Graph]] = {}


def graph(name: str) -> Callable[[Callable[[], Graph]], Callable[[], Graph]]:
    """Put the function that makes a graph into the table."""

    def put(make: Callable[[], Graph]) -> Callable[[], Graph]:
        GRAPHS[name] = make
        return make

    return put


def groups(strategy: Strategy) -> Groups:
    return Groups(
        data="data" if strategy.data_parallel > 1 else None,
        model="model" if strategy.model_parallel > 1 else None,
        tied="tied" if strategy.pipeline_stage > 1 else None,
        world="world" if strategy.world_size > 1 else None,
    )


@dataclass
class Rank:
    """The first rank of a stage, with its part of the network."""

    config: BloomConfig
    session: Session
    network: nn.Cell
    train: Train

    @staticmethod
    def of(overrides: dict[str, Any], strategy: Strategy = ALONE, stage: int = 0, **train: Any) -> Rank:
        shape = {**SHAPE, "num_layers": strategy.pipeline_stage}
        config = load_config("tiny", {**shape, "hidden_dropout_rate": 0.1, **overrides})
        place = strategy.place(stage * strategy.data_parallel * strategy.model_parallel)
        session = Session(strategy, place, groups(strategy))
        network = build(config, strategy, place, session.groups)
        return Rank(config, session, network, Train(steps=1, **train))

    @property
    def parameters(self) -> ms.ParameterTuple:
        return ms.ParameterTuple(self.network.trainable_params())

    @property
    def reduce(self) -> ReduceGradients:
        return ReduceGradients(
            self.parameters, self.session.strategy, self.session.place, self.session.groups
        )

    def source(self) -> Any:
        settings = Settings(parallel=self.session.strategy, train=self.train)
        unproven = partial(gradient_source, prove=lambda dropout_seed: None)  # this device cannot draw them
        return unproven(settings, self.config, self.session, self.network, self.parameters)

    def update(self) -> Graph:
        optimizer = optimizer_for(self.train, self.session, list(self.parameters))
        grads = tuple(floats(*shape) for shape in self.reduce.sum_over_replicas.shapes)
        return optimizer, (ms.mutable(grads), floats(), floats())


def ids(rows: int = ROWS, length: int = LENGTH) -> ms.Tensor:
    return ms.Tensor(np.zeros((rows, length), np.int32))


def floats(*shape: int, dtype: Any = ms.float32) -> ms.Tensor:
    return ms.Tensor(np.zeros(shape, np.float32), dtype)


def batch() -> tuple[ms.Tensor, ...]:
    return ids(), ids(), floats(ROWS, LENGTH)


@graph("step, float16, seeded dropout, recompute")
def step_half() -> Graph:
    source = Rank.of({**HALF, "attention_dropout_rate": 0.1}, recompute=True).source()
    return source, (*batch(), floats(), floats())


@graph("step, bfloat16, flash attention and its dropout")
def step_flash() -> Graph:
    source = Rank.of({**BRAIN, **FLASH, "attention_dropout_rate": 0.1}).source()
    return source, (*batch(), None, floats())


@graph("step, float32, fast_gelu, without dropout")
def step_full() -> Graph:
    source = Rank.of({**FULL, **WITHOUT_DROPOUT, "hidden_act": "fast_gelu"}).source()
    return source, (*batch(), None, floats())


@graph("step, float16, flash attention, every group, cut sequence and vocabulary")
def step_layers() -> Graph:
    rank = Rank.of({**HALF, **FLASH, "attention_dropout_rate": 0.0}, LAYERS)
    return rank.source(), (*batch(), floats(), floats())


@graph("step, bfloat16, flash attention and its dropout, every group")
def step_layers_bfloat16() -> Graph:
    rank = Rank.of({**BRAIN, **FLASH, "attention_dropout_rate": 0.1}, LAYERS)
    return rank.source(), (*batch(), floats(), floats())


@graph("step, float32, every group")
def step_layers_full() -> Graph:
    return Rank.of({**FULL, **WITHOUT_DROPOUT}, LAYERS).source(), (*batch(), None, floats())


@graph("step of replicas, float16, before the sums over ranks")
def step_replicas() -> Graph:
    return Rank.of({**HALF, "attention_dropout_rate": 0.1}, REPLICAS).source().own, (*batch(), floats())


@graph("the sums over replicas")
def reduce_replicas() -> Graph:
    rank = Rank.of(HALF, REPLICAS)
    grads = tuple(floats(*item.shape) for item in rank.parameters)
    return rank.reduce, (floats(), ms.mutable(grads), floats())


@graph("the sums over ranks of a stage, its tied table and shared moments")
def reduce_stage() -> Graph:
    shared = replace(STAGES, optimizer_shard=True, use_seq_parallel=True)
    rank = Rank.of(HALF, shared, 2)
    return ReduceAccumulated(Accumulator(rank.parameters), rank.reduce), (floats(), floats(), floats())


@graph("an overflow register is cleared")
def cleared() -> Graph:
    return StatusGraph(NPUClearFloatStatusV2()), (ms.Tensor(np.zeros(8, np.int32)),)


@graph("an overflow register is read")
def status() -> Graph:
    return StatusGraph(NPUGetFloatStatusV2()), (ms.Tensor(np.zeros(8, np.int32)),)


@graph("a micro batch, float16")
def micro_batch() -> Graph:
    return Rank.of(HALF, gradient_accumulation=2).source().micro, (*batch(), floats())


@graph("the sums over ranks of micro batches")
def reduce() -> Graph:
    return Rank.of(HALF, gradient_accumulation=2).source().reduced, (floats(), floats(), floats())


@graph("the sums over ranks of micro batches, every group, cut sequence")
def reduce_layers() -> Graph:
    rank = Rank.of(HALF, LAYERS)
    accumulator = Accumulator(rank.parameters)
    return ReduceAccumulated(accumulator, rank.reduce), (floats(), floats(), floats())


def stage(number: int, overrides: dict[str, Any]) -> Rank:
    rank = Rank.of({**HALF, "attention_dropout_rate": 0.0, **overrides}, STAGES, number)
    seed_dropout(rank.network, (1, 2), rank.network.transformer.first_block)
    rank.network.set_train()
    return rank


def activations() -> ms.Tensor:
    return floats(ROWS, LENGTH, SHAPE["hidden_size"], dtype=ms.float16)


@graph("first stage, forward")
def first_forward() -> Graph:
    return Forward(stage(0, FLASH).network, True), (ids(),)


@graph("first stage, backward")
def first_backward() -> Graph:
    rank = stage(0, {})
    return FirstBackward(rank.network, rank.parameters, Accumulator(rank.parameters)), (ids(), activations())


@graph("middle stage, forward")
def middle_forward() -> Graph:
    return Forward(stage(1, {}).network, False), (activations(),)


@graph("middle stage, backward")
def middle_backward() -> Graph:
    rank = stage(1, FLASH)
    backward = MiddleBackward(rank.network, rank.parameters, Accumulator(rank.parameters))
    return backward, (activations(), activations())


@graph("last stage, forward and backward")
def last_backward() -> Graph:
    rank = stage(2, {})
    backward = LastBackward(rank.network, rank.parameters, Accumulator(rank.parameters))
    return backward, (activations(), *batch()[1:], floats())


@graph("update, float32 weights")
def update_full() -> Graph:
    return Rank.of(FULL).update()


@graph("update, float16 weights")
def update_half() -> Graph:
    return Rank.of(HALF).update()


@graph("update, moments shared out")
def update_shared() -> Graph:
    return Rank.of(HALF, LAYERS).update()


@graph("update, moments shared out, float32 weights")
def update_shared_full() -> Graph:
    return Rank.of(FULL, LAYERS).update()


@graph("logits of whole sequences")
def logits() -> Graph:
    return Rank.of({**HALF, **FLASH}).network.set_train(False), (ids(),)


@graph("loss of an evaluation")
def loss() -> Graph:
    return LossCell(Rank.of(HALF).network).set_train(False), batch()


def cached(rank: Rank, length: int) -> Graph:
    lines = ms.Tensor(np.zeros(ROWS, np.int32))
    network = CachedNetwork(rank.network, rank.config, ROWS, LENGTH)
    whole = IdsToLogits(rank.network.transformer.embedding, network).set_train(False)
    return whole, (ids(ROWS, length), lines, lines)


@graph("decoding, a prompt; exported as MindIR, too")
def prefill() -> Graph:
    return cached(Rank.of(HALF), LENGTH)


@graph("decoding, a token; exported as MindIR, too")
def increment() -> Graph:
    return cached(Rank.of(HALF), 1)


@graph("decoding, a token, the layers and the vocabulary cut")
def increment_of_part() -> Graph:
    return cached(Rank.of(HALF, Strategy(1, 2, 1, vocab_size=33)), 1)


@graph("decoding, beams change places")
def reordered() -> Graph:
    rank = Rank.of(HALF)
    network = CachedNetwork(rank.network, rank.config, ROWS, LENGTH)
    return ReorderedCaches(network.blocks, ROWS), (ms.Tensor(np.zeros(ROWS, np.int32)),)


def found(folder: Path, number: int, parts: int) -> Iterator[tuple[str, list[str]]]:
    """The operators of each graph of a part, built for an A2."""
    primitives = Primitives(folder)
    assert set(GRAPHS) > COMBINED
    chosen = [name for name in GRAPHS if os.environ.get("REALITY") or name not in COMBINED]
    for name in chosen[number::parts]:
        make = GRAPHS[name]
        with built_for(A2), groups_of({"data": 2, "model": 2, "tied": 2, "world": 12}):
            cell, inputs = make()
            yield name, sorted(primitives.of(cell, *inputs))


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.set_recursion_limit(100_000)
    print(json.dumps(dict(found(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))))
