"""The timetable of a simulated gang: which step and which phase it is in, by the work that it has done. Pure.

`work` are the seconds in which all ranks moved. Nothing is stored: steps, saves, evaluations and a second
compilation are where the workload's numbers put them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.core.records import Phase

if TYPE_CHECKING:
    from orchestrator.simulation.workload import Workload

__all__ = ["Place", "Timetable"]

_NEAR = 1e-6


@dataclass(frozen=True, slots=True)
class Place:
    """A phase, the work at which it began, and the last step that was made by then."""

    phase: Phase
    since: float
    step: int


class Timetable:
    """`leave_at` is the step after which all save and end, once they are told to.

    The gang begins behind step `begin`, which an attempt before has saved; steps are counted from there on.
    """

    def __init__(self, load: Workload, begin: int = 0) -> None:
        self._load = load
        self.begin = begin
        self.leave_at: int | None = None

    @property
    def last(self) -> int | None:
        """The last step; None for no end."""
        steps, leave_at = self._load.steps, self.leave_at
        return steps if leave_at is None else leave_at if steps is None else min(steps, leave_at)

    def steps(self, work: float) -> int:
        """The last step that is made: the first takes longer, and behind some there is something else."""
        load, begin, rest = self._load, self.begin, work - self._load.first_step + _NEAR
        if rest < 0:
            return begin
        if load.evaluate_every is not None or load.recompile_at is not None:
            most = begin + 2 + int(rest / load.step)
            made = begin + bisect.bisect_right(range(begin + 1, most + 1), work + _NEAR, key=self.work_at)
        elif load.save_every is None:
            made = begin + 1 + int(rest / load.step)
        else:
            # Step s ends at (s - 1) steps and as many saves as were made before it.
            period = load.save_every * load.step + load.save
            before = begin * load.step + begin // load.save_every * load.save
            whole, rest = divmod(before + rest + load.step, period)
            made = int(whole) * load.save_every + min(load.save_every, int(rest / load.step))
        last = self.last
        return made if last is None else min(made, last)

    def work_at(self, step: int) -> float:
        """The work that is done when a step has just been made."""
        load, before = self._load, step - 1
        saves = self._between(load.save_every, before)
        evaluations = self._between(load.evaluate_every, before)
        again = load.recompile if self.begin < (load.recompile_at or 0) <= before else 0.0
        pauses = saves * load.save + evaluations * load.evaluate + again
        return load.first_step + (before - self.begin) * load.step + pauses

    def _between(self, every: int | None, step: int) -> int:
        """How often something has come that comes behind each step which `every` divides."""
        return 0 if every is None else max(0, step // every - self.begin // every)

    def place(self, work: float) -> Place:
        """Where it is once all ranks are there."""
        if (step := self.steps(work)) == self.begin:
            return Place(Phase.COMPILE, 0.0, 0)
        at = self.work_at(step)
        for phase, seconds in self._behind(step):
            if work < at + seconds - _NEAR:
                return Place(phase, at, step)
            at += seconds
        return Place(Phase.STEP, at, step)

    def next_phase(self, work: float) -> float | None:
        """The work at which the next phase begins; None where none does."""
        place = self.place(work)
        if not place.step:
            return self._load.first_step
        if place.phase is not Phase.STEP:
            at = self.work_at(place.step)
            for _, seconds in self._behind(place.step):
                at += seconds
                if work < at - _NEAR:
                    return at
        others = [
            self._load.recompile_at,
            self.leave_at,
            *(
                place.step // every * every + every
                for every in (self._load.save_every, self._load.evaluate_every)
                if every is not None
            ),
        ]
        end = math.inf if self.last is None else self.last
        later = [step for step in others if step is not None and place.step < step <= end]
        return self.work_at(min(later)) if later else None

    def _behind(self, step: int) -> Iterator[tuple[Phase, float]]:
        """What there is behind a step before the next one begins."""
        load = self._load
        is_save = load.save_every is not None and step % load.save_every == 0
        if is_save or step == self.leave_at:
            yield Phase.SAVE, load.save
        if load.evaluate_every is not None and step % load.evaluate_every == 0:
            yield Phase.EVALUATE, load.evaluate
        if load.recompile_at == step:
            yield Phase.COMPILE, load.recompile
