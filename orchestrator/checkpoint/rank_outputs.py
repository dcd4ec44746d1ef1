"""What each rank of a target layout holds of whole tensors. Pure data, no files."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.checkpoint.coverage import is_weight, weight_of
from orchestrator.checkpoint.layout import Layout, Region, cuts, region
from orchestrator.checkpoint.plan import Output, OutputTensor
from orchestrator.checkpoint.strategy_file import Strategy
from orchestrator.checkpoint.strategy_set import StrategySet
from orchestrator.checkpoint.tensor import Spec
from orchestrator.checkpoint.whole import Whole
from orchestrator.errors import CheckpointError

__all__ = ["rank_outputs", "unknown_names"]


def rank_outputs(
    whole: Whole, strategies: StrategySet, ranks: Sequence[int] | None = None
) -> tuple[Output, ...]:
    """One file for each rank (or those given), with its slices of the tensors of its stage.

    A tensor that no stage's strategy names is whole on every rank, as in MindSpore's own transformation.
    CheckpointError: no tensor is named at all, one cannot be cut as its layout says, or a moment has no
    layout though its parameter is cut.
    """
    named = {name for strategy in strategies.stages for name in strategy.layouts}
    if not any(tensor.spec.name in named for tensor in whole.tensors):
        raise CheckpointError("the strategy names none of the checkpoint's tensors")
    for strategy in strategies.stages:
        for tensor in whole.tensors:
            _check_moment(tensor.spec.name, strategy, named)
    wanted = range(strategies.world_size) if ranks is None else ranks
    return tuple(_rank_output(rank, whole, strategies, named) for rank in wanted)


def _check_moment(name: str, strategy: Strategy, named: set[str]) -> None:
    layout = strategy.layouts.get(weight_of(name))
    if name not in named and layout is not None and math.prod(cuts(layout)) > 1:
        raise CheckpointError(
            f"the strategy says how {weight_of(name)} is cut but not how {name} is",
            remedy="leave the optimizer's state out",
        )


def _rank_output(rank: int, whole: Whole, strategies: StrategySet, named: set[str]) -> Output:
    stage, index = divmod(rank, strategies.ranks_per_stage)
    layouts = strategies.stages[stage].layouts
    tensors = []
    for number, tensor in enumerate(whole.tensors):
        spec, layout = tensor.spec, layouts.get(tensor.spec.name)
        if layout is not None:
            box = _region(spec, layout, index)
        elif spec.name in named:
            continue
        else:
            box = tuple((0, size) for size in spec.dims)
        dims = tuple(stop - start for start, stop in box)
        tensors.append(OutputTensor(Spec(spec.name, dims, spec.dtype, spec.text_bytes), number, box))
    return Output(rank, tuple(tensors))


def _region(spec: Spec, layout: Layout, index: int) -> Region:
    try:
        return region(layout, spec.dims, index)
    except CheckpointError as error:
        raise CheckpointError(f"{spec.name} does not fit the strategy: {error.what}") from error


def unknown_names(whole: Whole, strategies: StrategySet) -> list[str]:
    """Weights that the strategy names and the checkpoint lacks, in the strategy's order."""
    have = {tensor.spec.name for tensor in whole.tensors}
    named = dict.fromkeys(name for strategy in strategies.stages for name in strategy.layouts)
    return [name for name in named if is_weight(name) and name not in have]
