"""The real `SupervisorState` for ranks that all say the same: what is made of their words is made once.

In a simulated gang the ranks of a host make the same steps and write the same lines, so that what their
supervisor learns of one holds of each. They share their `RankWatch` until one of them is told apart.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.agent.supervisor_state import Action, SupervisorState
from orchestrator.core.ends import SCHEDULER
from orchestrator.core.record_class import fields, replace
from orchestrator.core.records import Manifest, ProcessId, RankStatus

__all__ = ["AlikeRanks"]

# What lines of metrics make of a rank: the rest of its status is its own.
_SAID = ("progress", "phase", "phase_since", "can", "saved", "saving", "save_stall", "save_write")
assert {each.name for each in fields(RankStatus)}.issuperset(_SAID)


class AlikeRanks(SupervisorState):
    """One host's part of one run; `report_alike` is told what all of its ranks that run have written."""

    def __init__(self, manifest: Manifest, now: float) -> None:
        super().__init__(manifest, now)
        self._are_alike, self._are_well = True, False
        ranks = [rank for rank in self.specs if rank != SCHEDULER]
        self._watches.update(dict.fromkeys(ranks, self._watches[ranks[0]]) if ranks else {})

    def report_alike(
        self, ranks: Sequence[int], lines: Sequence[Mapping[str, Any]], now: float, time: float
    ) -> None:
        """As `report_lines` of each of these, which are all ranks that run."""
        if not self._are_alike or not ranks:
            for rank in ranks:
                self.report_lines(rank, lines, now, time)
            return
        first, *others = ranks
        before = self.workers[first]
        self.report_lines(first, lines, now, time)
        after = self.workers[first]
        new = {name: value for name in _SAID if (value := getattr(after, name)) is not getattr(before, name)}
        for rank in others if new else ():
            self.workers[rank] = replace(self.workers[rank], **new)

    def tick(self, now: float, time: float) -> list[Action]:
        self._are_well = False
        return super().tick(now, time)

    @property
    def step_seconds(self) -> float | None:
        first = self._first
        return super().step_seconds if first is None else self._watches[first.rank].pace.median

    @property
    def compute(self) -> dict[str, float]:
        first = self._first
        tells = first is None or self._watches[first.rank].pace.compute is not None
        return super().compute if tells else {}

    @property
    def _first(self) -> RankStatus | None:
        """The first rank that runs, if what holds of it holds of all others."""
        ranks = (
            status for rank, status in self.workers.items() if rank != SCHEDULER and self.is_running(rank)
        )
        return next(ranks, None) if self._are_alike else None

    def _mind_stall(self, rank: int, now: float, time: float) -> None:
        if self._are_well and rank != SCHEDULER:
            return  # as the first that was looked at
        before = self.workers[rank]
        super()._mind_stall(rank, now, time)
        if self._are_alike and rank != SCHEDULER and self.is_running(rank):
            self._are_well = self.workers[rank] is before and before.stalled is None and not before.stuck

    def sign(self, supervisor: ProcessId, guardian: ProcessId, interval: float) -> None:
        """Its status has these from now on."""
        self._status = replace(self._status, supervisor=supervisor, guardian=guardian, interval=interval)

    def tell_apart(self) -> None:
        """From now on each rank may say something else, or be in another state."""
        if self._are_alike:
            self._are_alike = False
            self._watches.update({rank: copy.deepcopy(watch) for rank, watch in self._watches.items()})
