"""The limits of a run's health: for how long its ranks may make no step, learnt from how long things take.

Pure: seconds go in, of whatever clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from orchestrator.agent.mindformers_lines import EVALUATES
from orchestrator.config.run_terms import Health
from orchestrator.core.records import Phase, RankStatus

__all__ = ["LEARNT", "StepLimits"]

LEARNT = (Phase.COMPILE, Phase.SAVE, Phase.EVALUATE)
"""The phases of which a run has more than one, so that the next is as the last."""

_STEPS, _SAVES = 5.0, 2.0
_KEPT = 33  # intervals between new steps
# Hosts tell of their steps now and then: what is no older than so many of these is no silence.
_TELLINGS = 2.5


class StepLimits:
    """For one run; `every` is how often its hosts tell of their steps.

    `tells_all`: its workers that tell phases tell each when it begins.
    """

    def __init__(self, rules: Health, every: float, *, tells_all: bool = True) -> None:
        self.every, self.tells_all = every, tells_all
        self._rules = rules
        self._intervals: deque[float] = deque(maxlen=_KEPT)
        self._lasts: dict[Phase, dict[int, float]] = {phase: {} for phase in LEARNT}
        self._longest: dict[Phase, float] = {}
        self._known: dict[int, set[Phase]] = {}
        self._gap = self._write = 0.0
        self._guess: float | None = None
        self.interval: float | None = None
        """The median of seconds between two new steps of the run, as they are told; None: not known yet."""
        self._awaits_gap = False

    def learn_step(self, seconds: float, steps: int) -> None:
        """So long after the one before it a newest step was told of, which is so many further.

        A program that writes a line in a hundred steps is silent for all of these: the time between two lines
        counts. But what comes as often as hosts tell of it comes more often: then a step's time counts.
        """
        self._intervals.append(seconds if seconds > 2 * self.every else seconds / max(1, steps))
        self.interval = sorted(self._intervals)[len(self._intervals) // 2]

    def guess_step(self, seconds: float) -> None:
        """So long lies between the first and the newest step of a rank, and no others were seen: no longer is
        the interval, until it is known better."""
        self._guess = seconds

    def learn_phase(self, phase: Phase, rank: int, seconds: float) -> None:
        """A rank was in a phase of `LEARNT` for so long. Of the last ones of all ranks the longest counts."""
        lasts = self._lasts[phase]
        self._known.setdefault(rank, set()).add(phase)
        was_longest = lasts.get(rank) == self._longest.get(phase)
        lasts[rank] = seconds
        if seconds >= self._longest.get(phase, 0.0):
            self._longest[phase] = seconds
        elif was_longest:
            self._longest[phase] = max(lasts.values())

    def note(self, rank: RankStatus) -> None:
        """What a rank says of its saves, and that it evaluates without telling when."""
        if rank.save_write is not None:
            self.learn_write(rank.save_write)
        self._awaits_gap = self._awaits_gap or EVALUATES in rank.can

    def learn_write(self, seconds: float) -> None:
        """So long after the begin of a save a checkpoint was whole: a save at the end is waited for."""
        self._write = max(self._write, min(seconds, self._rules.first))

    def known(self, rank: int) -> Container[Phase]:
        """The phases of `LEARNT` that a rank has been through."""
        return self._known.get(rank, frozenset())

    def learn_gap(self, seconds: float) -> None:
        """Workers that tell no phases, or not all, made no step for so long and then went on: a save, say."""
        self._gap = max(self._gap, seconds)

    def of(self, phase: Phase | None) -> float:
        """How long nobody makes a step who is in this phase; None is that of workers that tell none."""
        floor = max(self._rules.floor, _TELLINGS * self.every)
        if phase in LEARNT:
            last = self._longest.get(phase)
            if last is not None and phase is Phase.SAVE:
                last = max(last, self._write)
            return self._rules.first if last is None else max(floor, _SAVES * last)
        if phase not in (None, Phase.STEP) or (self.interval is None and self._guess is None):
            return self._rules.first
        if self._awaits_gap and not self._gap:
            return self._rules.first
        save = self._longest.get(Phase.SAVE, 0.0)
        least = max(floor, _SAVES * save, _SAVES * self._gap)
        if self.interval is not None:
            return max(least, _STEPS * self.interval)
        return max(least, min(self._rules.first, _STEPS * (self._guess or 0.0)))
