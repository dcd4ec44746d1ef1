"""How the bundled Bloom is spread over ranks.

One table for the layers that cut, for the strategy files that say so and for the command that cuts a whole
checkpoint for a job.

rank = stage * (data_parallel * model_parallel) + dp_index * model_parallel + mp_index

The strategies of a job of the bundled Bloom, from the table that its layers are cut by.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.cut.coverage import COUNTERS, MOMENTS, is_moment
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, StrategySet
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.core.errors import CheckpointError

__all__ = [
    "BloomCut",
    "bloom_strategies",
    "count_blocks",
    "cut_axis",
    "stage_blocks",
]

# The axis along which the model group cuts a block's parameter; all else is whole on every rank of its stage.
# dense1-3 and mapping are cut by output, the two projections by input (their weights are stored (in, out)).
_BLOCK_AXIS = {
    "attention.dense1.weight": 0,
    "attention.dense1.bias": 0,
    "attention.dense2.weight": 0,
    "attention.dense2.bias": 0,
    "attention.dense3.weight": 0,
    "attention.dense3.bias": 0,
    "attention.projection.weight": 0,
    "output.mapping.weight": 1,
    "output.mapping.bias": 0,
    "output.projection.weight": 0,
}
# The same for what is outside the blocks: the vocabulary is cut.
_OUTER_AXIS = {"embedding.word_embedding.embedding_table": 0}
# On the first stage, on the last, and (the embedding, to which the head is tied) on both.
_FIRST = ("embedding.",)
_LAST = ("ln_f.",)
_TIED = ("embedding.word_embedding.embedding_table",)

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def _inner_name(name: str) -> str:
    """Without the moment's prefix and without the network's."""
    for prefix in MOMENTS:
        name = name.removeprefix(prefix)
    return name.removeprefix("transformer.")


def cut_axis(name: str) -> int | None:
    """The axis that model_parallel cuts for this parameter or its moments; None where it is whole."""
    inner = _inner_name(name)
    block = _BLOCK.fullmatch(inner)
    return _BLOCK_AXIS.get(block[2]) if block else _OUTER_AXIS.get(inner)


def stage_blocks(num_layers: int, pipeline_stage: int, stage: int) -> range:
    """The blocks of one stage: neighbours, as evenly as can be, one more in the earlier stages if need be."""
    size, more = divmod(num_layers, pipeline_stage)
    first = stage * size + min(stage, more)
    return range(first, first + size + (stage < more))


def count_blocks(names: Iterable[str]) -> int:
    """The number of blocks of a network with these parameters."""
    blocks = (_BLOCK.fullmatch(_inner_name(name)) for name in names)
    return max((int(match[1]) + 1 for match in blocks if match), default=0)


@dataclass(frozen=True, slots=True)
class BloomCut:
    """The degrees of parallelism of a job, and what each rank holds because of them."""

    data_parallel: int = 1
    model_parallel: int = 1
    pipeline_stage: int = 1
    optimizer_shard: bool = False

    @property
    def world_size(self) -> int:
        return self.data_parallel * self.model_parallel * self.pipeline_stage

    @property
    def ranks_per_stage(self) -> int:
        return self.data_parallel * self.model_parallel

    def stages(self, name: str, num_layers: int) -> tuple[int, ...]:
        """The pipeline stages that hold the parameter (or its moments).

        CheckpointError: the name is none of the network's.
        """
        inner = _inner_name(name)
        last = self.pipeline_stage - 1
        if block := _BLOCK.fullmatch(inner):
            number = int(block[1])
            for stage in range(self.pipeline_stage):
                if number in stage_blocks(num_layers, self.pipeline_stage, stage):
                    return (stage,)
        elif inner in _TIED:
            return (0, last) if last else (0,)
        elif inner.startswith(_FIRST):
            return (0,)
        elif inner.startswith(_LAST):
            return (last,)
        raise CheckpointError(f"{name} is no parameter of a Bloom of {num_layers} blocks")

    def layout(self, name: str, shape: Sequence[int]) -> Layout:
        """The entry in the strategy file of a tensor whose whole shape is `shape`.

        The matrix of a stage is (data, model). A vocabulary that model_parallel does not divide is whole in
        the shards (the ranks compute with a part of it that ends in padding), and so are its moments. With
        `optimizer_shard` the data group cuts axis 0 of a moment's slice once more, where it can be cut
        evenly.
        """
        axis = cut_axis(name)
        is_even = axis is None or shape[axis] % self.model_parallel == 0
        axis = axis if is_even or _inner_name(name) not in _OUTER_AXIS else None
        # tensor_map counts the axes of the matrix from the right: 0 is model, -1 is not cut.
        tensor_map = tuple(0 if index == axis else -1 for index in range(len(shape)))
        matrix = (self.data_parallel, self.model_parallel)
        if not (is_even and self._shards(name, shape, axis)):
            return Layout(matrix, tensor_map)
        return Layout(matrix, tensor_map, self.model_parallel, self.data_parallel)

    def _shards(self, name: str, shape: Sequence[int], axis: int | None) -> bool:
        if not (self.optimizer_shard and self.data_parallel > 1 and shape and is_moment(name)):
            return False
        pieces = self.data_parallel * (self.model_parallel if axis == 0 else 1)
        return shape[0] % pieces == 0


def bloom_strategies(cut: BloomCut, specs: Sequence[Spec]) -> StrategySet:
    """How the whole tensors `specs` of a checkpoint are spread over the ranks.

    Counters (the step, the loss scale) are in no strategy, so that every rank has them.
    CheckpointError: a name that is none of the network's, fewer blocks than stages.
    """
    blocks = count_blocks(spec.name for spec in specs)
    if blocks < cut.pipeline_stage:
        raise CheckpointError(f"{blocks} blocks cannot be spread over {cut.pipeline_stage} stages")
    stages: list[dict[str, Layout]] = [{} for _ in range(cut.pipeline_stage)]
    for spec in specs:
        if spec.name in COUNTERS:
            continue
        for stage in cut.stages(spec.name, blocks):
            stages[stage][spec.name] = cut.layout(spec.name, spec.dims)
    return StrategySet.of([Strategy(stage, layouts) for stage, layouts in enumerate(stages)])
