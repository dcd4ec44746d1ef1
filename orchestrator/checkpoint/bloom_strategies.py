"""The strategies of a job of the bundled Bloom, from the table that its layers are cut by."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.checkpoint.bloom_cut import BloomCut, count_blocks
from orchestrator.checkpoint.coverage import COUNTERS
from orchestrator.checkpoint.layout import Layout
from orchestrator.checkpoint.strategy_file import Strategy
from orchestrator.checkpoint.strategy_set import StrategySet
from orchestrator.checkpoint.tensor import Spec
from orchestrator.errors import CheckpointError

__all__ = ["bloom_strategies"]


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
