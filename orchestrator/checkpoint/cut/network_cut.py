"""The cut of a network over ranks, by the table of its family.

The layers that are cut, the strategy files that say so, and the command that cuts a whole checkpoint for a
job all follow it.

rank = stage * (data_parallel * model_parallel) + dp_index * model_parallel + mp_index
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.checkpoint.cut.coverage import is_moment, is_weight, weight_of
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, StrategySet
from orchestrator.core.errors import CheckpointError
from orchestrator.families.family import Family, Weight

if TYPE_CHECKING:
    # It brings in NumPy, which monitors and launches do without: they ask for layouts alone.
    from orchestrator.checkpoint.files.tensor_types import Spec

__all__ = ["NetworkCut", "stage_blocks"]


def stage_blocks(num_layers: int, pipeline_stage: int, stage: int) -> range:
    """The blocks of one stage: neighbours, as evenly as can be, one more in the earlier stages if need be."""
    size, more = divmod(num_layers, pipeline_stage)
    first = stage * size + min(stage, more)
    return range(first, first + size + (stage < more))


@dataclass(frozen=True, slots=True)
class NetworkCut:
    """The degrees of parallelism of a job, and what each rank holds because of them."""

    family: Family
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

    def row(self, name: str) -> Weight | None:
        """The family's row of a parameter, or of the one that these moments belong to."""
        found = self.family.find(weight_of(name))
        return found[0] if found else None

    def axis(self, name: str) -> int | None:
        """The axis that model_parallel cuts of a parameter or its moments; None where it is whole."""
        row = self.row(name)
        return row.axis if row else None

    def is_tied(self, name: str) -> bool:
        """Whether the first and the last stage hold the parameter (or its moments) together."""
        row = self.row(name)
        return row is not None and row.stage == "both"

    def stages(self, name: str, num_layers: int) -> tuple[int, ...]:
        """The pipeline stages that hold the parameter (or its moments).

        CheckpointError: the name is none of the network's.
        """
        found, last = self.family.find(weight_of(name)), self.pipeline_stage - 1
        if found is None or (found[1] is not None and found[1] >= num_layers):
            raise CheckpointError(f"{name} is no parameter of a {self.family.title} of {num_layers} blocks")
        row, block = found
        if block is not None:
            stages = range(self.pipeline_stage)
            return tuple(n for n in stages if block in stage_blocks(num_layers, self.pipeline_stage, n))
        ends = {"first": (0,), "last": (last,)}
        return ends.get(row.stage, (0, last) if last else (0,))

    def layout(self, name: str, shape: Sequence[int]) -> Layout:
        """The entry in the strategy file of a tensor whose whole shape is `shape`.

        The matrix of a stage is (data, model). A vocabulary that model_parallel does not divide is whole in
        the shards (the ranks compute with a part of it that ends in padding), and so are its moments. With
        `optimizer_shard` the data group cuts axis 0 of a moment's slice once more, where it can be cut
        evenly: as the parallel optimizer's cut where the model group cuts that axis, else as a plain one,
        because MindSpore's own transformation joins the ranks of the model group where it should join those
        of the data group.
        """
        row = self.row(name)
        axis = row.axis if row else None
        if axis is not None and axis >= len(shape):
            raise CheckpointError(f"{name} has {len(shape)} axes and cannot be cut along axis {axis}")
        is_even = axis is None or shape[axis] % self.model_parallel == 0
        axis = axis if is_even or not (row and row.has_padding) else None
        # tensor_map counts the axes of the matrix from the right: 0 is model, -1 is not cut.
        tensor_map = tuple(0 if index == axis else -1 for index in range(len(shape)))
        matrix = (self.data_parallel, self.model_parallel)
        if not (is_even and self._shards(name, shape, axis)):
            return Layout(matrix, tensor_map)
        if axis != 0:
            return Layout(matrix, (1, *tensor_map[1:]))
        return Layout(matrix, tensor_map, self.model_parallel, self.data_parallel)

    def shares_moments(self, name: str, shape: Sequence[int]) -> bool:
        """Whether the data group cuts these moments, whose whole shape is `shape`."""
        layout = self.layout(name, shape)
        return layout.opt_weight_shard_size > 1 or layout.tensor_map[:1] == (1,)

    def _shards(self, name: str, shape: Sequence[int], axis: int | None) -> bool:
        if not (self.optimizer_shard and self.data_parallel > 1 and shape and is_moment(name)):
            return False
        pieces = self.data_parallel * (self.model_parallel if axis == 0 else 1)
        return shape[0] % pieces == 0

    def strategies(self, specs: Sequence[Spec]) -> StrategySet:
        """How the whole tensors `specs` of a checkpoint are spread over the ranks.

        Counters (the step, the loss scale) are in no strategy, so that every rank has them.
        CheckpointError: a name that is none of the network's, fewer blocks than stages.
        """
        blocks = self.family.count_blocks(weight_of(spec.name) for spec in specs)
        stages: list[dict[str, Layout]] = [{} for _ in range(self.pipeline_stage)]
        for spec in specs:
            if not is_weight(spec.name) and not is_moment(spec.name):
                continue
            for stage in self.stages(spec.name, blocks):
                stages[stage][spec.name] = self.layout(spec.name, spec.dims)
        if blocks < self.pipeline_stage:
            raise CheckpointError(f"{blocks} blocks cannot be spread over {self.pipeline_stage} stages")
        return StrategySet.of([Strategy(stage, layouts) for stage, layouts in enumerate(stages)])
