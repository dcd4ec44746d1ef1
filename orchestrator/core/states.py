"""The states of a rank and of a run, and the one table that folds the first into the second.

    rank: pending -> starting -> running -> succeeded | failed | stopped | lost
    run:  preparing -> starting -> running -> succeeded | failed | stopped
          running -> restarting -> preparing: the next attempt, where the job's `restart` says so

A host that cannot be reached makes its ranks `unreachable`, never failed: the monitor does not claim
what it does not know. Only after the grace period are they `lost`.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

__all__ = ["RankState", "RunState", "fold"]


class RankState(str, enum.Enum):
    """Where one worker is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    UNREACHABLE = "unreachable"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"

    @property
    def is_terminal(self) -> bool:
        return self in _RANK_ENDS

    def __str__(self) -> str:
        return self.value


class RunState(str, enum.Enum):
    """Where a run is in its life."""

    PREPARING = "preparing"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"  # an attempt has ended, and another one was decided on
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_terminal(self) -> bool:
        return self in _RUN_ENDS

    def __str__(self) -> str:
        return self.value


_RANK_ENDS = frozenset({RankState.SUCCEEDED, RankState.FAILED, RankState.STOPPED, RankState.LOST})
_RUN_ENDS = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED})

# The first row whose rank state occurs decides; `succeeded` needs all ranks, so it comes last.
_FOLD = (
    (RankState.FAILED, RunState.FAILED),
    (RankState.LOST, RunState.FAILED),
    (RankState.STOPPED, RunState.STOPPED),
    (RankState.PENDING, RunState.STARTING),
    (RankState.STARTING, RunState.STARTING),
    (RankState.UNREACHABLE, RunState.RUNNING),
    (RankState.RUNNING, RunState.RUNNING),
    (RankState.SUCCEEDED, RunState.SUCCEEDED),
)


def fold(ranks: Iterable[RankState]) -> RunState:
    """The run's state that these rank states make; no ranks at all is `preparing`."""
    present = frozenset(ranks)
    for rank_state, run_state in _FOLD:
        if rank_state in present:
            return run_state
    return RunState.PREPARING
