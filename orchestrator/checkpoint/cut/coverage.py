"""Which ranks a whole checkpoint needs: of every slice of every stage, one of its replicas."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from orchestrator.checkpoint.cut.slices import Layout, slices

if TYPE_CHECKING:  # its reader needs this module
    from orchestrator.checkpoint.files.strategy_files import Strategy

__all__ = [
    "COUNTERS",
    "MOMENTS",
    "a_parameter_of",
    "is_moment",
    "is_weight",
    "missing_groups",
    "replica_groups",
    "stage_ranks",
    "weight_of",
    "why_left_out",
]

# Before the name of a parameter: what an optimizer keeps of it, and its accumulated gradients. Source: the
# prefixes in MindSpore 2's nn/optim, mint/optim, experimental/optim and nn/wrap, and MindFormers 1.0 to 1.9's
# core/optim. Left out are `linear.`, `prev.` and `ax.`, which may be names of layers.
MOMENTS = (
    *("adam_m.", "adam_v.", "moment1.", "moment2.", "vhat.", "lamb_m.", "lamb_v."),
    *("exp_avg.", "exp_avg_sq.", "max_exp_avg_sq.", "exp_inf.", "exp_avg_sq_row.", "exp_avg_sq_col."),
    *("exp_avg_insta_row.", "exp_avg_insta_col.", "moments.", "moment.", "momentum_buf.", "stat."),
    *("accum.", "accum_update.", "mean_square.", "mean_grad.", "step_size.", "accu_grads."),
)
# What the training loop, the optimizer and the loss scale keep beside them.
COUNTERS = frozenset(
    {
        *(
            "epoch_num",
            "step_num",
            "epoch_index",
            "step_index",
            "global_step",
            "epoch_size",
            "batch_num",
            "data_size",
        ),
        *("learning_rate", "lr", "weight_decay", "momentum", "beta1_power", "beta2_power"),
        *("afactor_step", "cov_step", "state_step", "fake_lr", "graceful_exit", "graceful_init"),
        *("cur_epoch_num", "cur_step_num", "global_batch_size"),
        *(
            "loss_scale",
            "scale_sense",
            "scale_factor",
            "current_iterator_step",
            "last_overflow_iterator_step",
        ),
    }
)
# The keys and values that MindFormers' networks keep as parameters while they answer.
_CACHES = (".key_past", ".value_past")
# What MindSpore 2.10's save_checkpoint puts before a training cell's own state.
_OF_CELLS = ("optimizer.", "loss_scaling_manager.")


def is_moment(name: str) -> bool:
    """True for the optimizer's state of a parameter, and for accumulated gradients."""
    return name.startswith(MOMENTS)


def weight_of(name: str) -> str:
    """The parameter that a moment belongs to; a parameter belongs to itself."""
    prefix = next((prefix for prefix in MOMENTS if name.startswith(prefix)), "")
    return name[len(prefix) :]


def is_weight(name: str) -> bool:
    """True for what belongs into a file of weights."""
    if is_moment(name) or name in COUNTERS:
        return False
    return not name.endswith(_CACHES) and not name.startswith(_OF_CELLS)


def why_left_out(name: str, dtype: str, with_optimizer: bool, with_texts: bool) -> str:
    """Why a tensor stays behind when weights are taken, with all else or without; "" where it does not."""
    if dtype == "str" and not with_texts:
        return "a text, which the output format cannot hold"
    if with_optimizer:
        return ""
    if is_moment(name):
        return "optimizer state"
    if dtype == "str" or not is_weight(name):
        return "kept by the training loop, not a weight"
    return ""


def stage_ranks(rank: int, strategy: Strategy) -> range:
    """The ranks of the stage that `rank` is in: stages are equally large blocks in rank order."""
    size = strategy.device_count
    return range(rank - rank % size, rank - rank % size + size)


def replica_groups(rank: int, strategy: Strategy, layout: Layout) -> dict[tuple[int, ...], tuple[int, ...]]:
    """For each slice of a parameter the ranks of the stage that hold it."""
    groups: dict[tuple[int, ...], list[int]] = {}
    held = slices(layout)
    for member in stage_ranks(rank, strategy):
        groups.setdefault(held[member % len(held)], []).append(member)
    return {part: tuple(ranks) for part, ranks in groups.items()}


def missing_groups(
    present: Collection[int],
    strategies: Mapping[int, Strategy],
    world_size: int,
    *,
    with_optimizer: bool = False,
) -> list[tuple[int, ...]]:
    """Groups of ranks of which one would be needed and none is present; empty where the checkpoint is whole.

    Without any strategy all ranks are needed. A stage of which no strategy is known is one group.
    """
    if not strategies:
        return [(rank,) for rank in range(world_size) if rank not in present]
    groups: dict[tuple[int, ...], None] = {}
    known: set[int] = set()
    size = 1
    for rank, strategy in sorted(strategies.items()):
        if rank in known:
            continue
        ranks = stage_ranks(rank, strategy)
        known.update(ranks)
        size = max(size, len(ranks))
        names = (name for name in strategy.layouts if with_optimizer or is_weight(name))
        for layout in {strategy.layouts[name]: None for name in names}:
            groups.update(dict.fromkeys(replica_groups(rank, strategy, layout).values()))
    unknown = {rank - rank % size for rank in range(world_size) if rank not in known}
    groups.update(dict.fromkeys(tuple(range(first, first + size)) for first in sorted(unknown)))
    return [group for group in groups if not set(group) & set(present)]


def a_parameter_of(group: Collection[int], strategies: Mapping[int, Strategy]) -> str:
    """A weight with a slice that the ranks of this group hold and no other; empty where none is known."""
    for rank in group:
        layouts = strategies[rank].layouts if rank in strategies else {}
        for name, layout in layouts.items():
            if is_weight(name) and tuple(group) in replica_groups(rank, strategies[rank], layout).values():
                return name
    return ""
