"""The stragglers of a run: ranks whose own computing takes much longer than that of their peers.

What a rank waits for others says nothing of it, so only what it computes itself counts (`Digest.compute`, the
median of its last ten steps, where its worker tells it). Peers are the ranks of the same pipeline stage, for
stages differ by what they hold; where a stage has one rank only, all ranks.
Pure: `time` is the wall clock in whose time findings are. What a host says costs by its ranks, judging is
for a timer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median_low

from orchestrator.config.run_terms import Health
from orchestrator.control.health_findings import Finding, FindingKind

__all__ = ["Stragglers"]

# Who is named stays so until it is nearer to the others than to the factor.
_BACK = 0.5
# Of steps for which what hosts tell is a median already.
_MEDIAN_OF = 10


@dataclass(slots=True)
class _Pace:
    """One rank: its seconds, its step then, the step since which it tells any, and since when it is slow."""

    host: str
    device: int | None
    seconds: float
    step: int
    first: int
    slow_step: int | None = None
    slow_since: float = 0.0


class Stragglers:
    """Of one run; `stages` has the pipeline stage of each rank, where it has several."""

    def __init__(self, rules: Health, stages: Mapping[int, int]) -> None:
        self._rules, self._stages = rules, stages
        self._paces: dict[int, _Pace] = {}
        self._of_host: dict[str, list[int]] = {}
        self._named: dict[int, Finding] = {}
        self.is_changed = False
        """Whether any host has told something since the last judgement."""

    def heard(
        self, host: str, seconds: Mapping[str, float], steps: Mapping[int, int], devices: Mapping[int, int]
    ) -> None:
        """What a host tells of its ranks: seconds of their own computing, by rank as text; their steps."""
        for name, each in seconds.items():
            if not name.isdecimal() or not math.isfinite(each) or each <= 0:
                continue
            rank = int(name)
            step, pace = steps.get(rank, 0), self._paces.get(rank)
            if pace is None:
                self._paces[rank] = _Pace(host, devices.get(rank), each, step, step)
                self._of_host.setdefault(host, []).append(rank)
            else:
                pace.seconds, pace.step = each, step
            self.is_changed = True

    def forget(self, host: str) -> None:
        """It does not answer, or has ended: nothing is said of its ranks."""
        for rank in self._of_host.pop(host, ()):
            del self._paces[rank]
            self._named.pop(rank, None)

    def start_anew(self) -> None:
        """Nothing could be seen for a while: who is not named yet is looked at from now on."""
        for pace in self._paces.values():
            pace.slow_step, pace.first = None, pace.step

    def judge(self, time: float) -> tuple[Finding, ...]:
        """Those that are slow."""
        if self.is_changed:
            self.is_changed = False
            medians = self._medians()
            for rank, pace in self._paces.items():
                self._mind(rank, pace, medians.get(rank, math.inf), time)
        return tuple(self._named[rank] for rank in sorted(self._named))

    def _mind(self, rank: int, pace: _Pace, median: float, time: float) -> None:
        factor, found = pace.seconds / median, self._named.get(rank)
        if found is not None:
            if factor < 1 + _BACK * (self._rules.straggler - 1):
                del self._named[rank]
                pace.slow_step = None
            return
        if factor < self._rules.straggler:
            pace.slow_step = None
            return
        if pace.slow_step is None:
            pace.slow_step, pace.slow_since = pace.step, time
        told = pace.step - pace.first >= self._rules.steps
        longer = pace.step - pace.slow_step >= self._rules.steps - _MEDIAN_OF
        if told and longer:
            found = Finding(FindingKind.STRAGGLER, pace.slow_since, (rank,), pace.host, pace.device)
            self._named[rank] = replace(found, factor=round(factor, 2))

    def _medians(self) -> dict[int, float]:
        """What the peers of each rank take; of two the quicker counts. No rank alone has peers."""
        stages: dict[int, list[int]] = {}
        for rank in self._paces:
            stages.setdefault(self._stages.get(rank, 0), []).append(rank)
        if any(len(ranks) == 1 for ranks in stages.values()):
            stages = {0: list(self._paces)}
        found: dict[int, float] = {}
        for ranks in stages.values():
            if len(ranks) > 1:
                middle = median_low(self._paces[rank].seconds for rank in ranks)
                found.update(dict.fromkeys(ranks, middle))
        return found
