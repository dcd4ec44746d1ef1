"""The times of an attempt's steps, as its watch sees them: when the first was made, how long they all took.

Of the time between two new steps of the run that counts as work which is usual for so many; what is far more
is a pause: somebody hangs, or holds up the others. An evaluation and a compilation are work. Saves are told
by the ranks' supervisors, to the second line.

Pure: ranks and times of our clock go in. It costs by ranks that have changed, and what it knows is in
`Spent`, with which another monitor goes on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.core.records import Phase, RankStatus
from orchestrator.core.states import RankState

__all__ = ["PAUSE", "Spent", "StepTimes"]

# A pause is longer than so many usual steps, and than so many seconds: hosts look at their ranks once a
# second, and what they tell in one word need not have happened in one order.
PAUSE, _LEAST_PAUSE = 3.0, 3.0
_KEPT = 33
_LEAST_KNOWN = 3
_LARGEST = 10**15
# What was written so much earlier than can be was written by a clock that is wrong.
_OFF = 60.0
_WORK = (Phase.EVALUATE, Phase.COMPILE)


@dataclass(frozen=True, slots=True)
class Spent:
    """How the time of an attempt was spent. Times are seconds of our clock since the epoch.

    `running` is when all its workers had started. `first` is when it had made its `first_step`, `newest` when
    it had made its newest `step`; None: it has told of none. Between the two, steps took `working` seconds;
    `saving` are those of all its saves.
    """

    running: float | None = None
    first: float | None = None
    first_step: int | None = None
    newest: float | None = None
    step: int | None = None
    working: float = 0.0
    saving: float = 0.0


class StepTimes:
    """Of one attempt, which has `world_size` ranks; `before` is what an earlier watch has seen of it."""

    def __init__(self, world_size: int, before: Spent | None = None) -> None:
        self.spent = before or Spent()
        self._world_size = world_size
        self._seen: dict[int, RankStatus] = {}
        self._started: dict[int, float] = {}
        self._paces: deque[float] = deque(maxlen=_KEPT)
        self._told = self.spent.saving  # of the saves what has been taken from the time between steps
        self._at_work: dict[int, None] = {}  # who runs, and evaluates or compiles
        self._is_work = False
        steps = (self.spent.step or 0) - (self.spent.first_step or 0)
        if steps > 0 and self.spent.working > 0:
            self._paces.extend([self.spent.working / steps] * _LEAST_KNOWN)

    def note(self, ranks: Iterable[RankStatus], ours: Callable[[float], float], now: float) -> None:
        """What a host says of its ranks; `ours` makes our time of its own."""
        for rank in ranks:
            if self._seen.get(rank.rank) is rank:
                continue
            self._seen[rank.rank] = rank
            self._note_start(rank, ours, now)
            self._note_save(rank, ours, now)
            self._note_work(rank)
            self._note_newest(rank, ours, now)

    def note_steps(self, ranks: Iterable[RankStatus], ours: Callable[[float], float], now: float) -> None:
        """As `note`, of ranks of which since the last time only steps are new."""
        for rank in ranks:
            self._note_newest(rank, ours, now)

    def _note_newest(self, rank: RankStatus, ours: Callable[[float], float], now: float) -> None:
        """Its step, where that is a new one of the run."""
        step = _step_of(rank.progress)
        if step is not None and step > _or_less(self.spent.step):
            self._note_step(step, rank.progress, ours, now)

    def _note_start(self, rank: RankStatus, ours: Callable[[float], float], now: float) -> None:
        if self.spent.running is not None or rank.started is None:
            return
        self._started[rank.rank] = min(ours(rank.started), now)
        if len(self._started) >= self._world_size:
            self.spent = replace(self.spent, running=max(self._started.values()))
            self._started.clear()

    def _note_save(self, rank: RankStatus, ours: Callable[[float], float], now: float) -> None:
        """Of all ranks the one that has saved longest counts: the others wait for it."""
        saving = rank.saving
        if rank.phase is Phase.SAVE and rank.phase_since is not None and rank.state.is_terminal:
            ended = now if rank.end is None or rank.end.time is None else ours(rank.end.time)
            saving += max(0.0, min(ended, now) - ours(rank.phase_since))  # it ended in its save
        if self.spent.saving < saving < _LARGEST:
            self.spent = replace(self.spent, saving=saving)

    def _note_step(
        self, step: int, told: Mapping[str, object], ours: Callable[[float], float], now: float
    ) -> None:
        spent = self.spent
        made = _moment(told.get("time"), ours, now)
        if spent.newest is None or spent.step is None:
            first = told.get("first")
            number = _step_of(first) if isinstance(first, Mapping) else None
            if number is None or not isinstance(first, Mapping) or number > step:
                number, begun = step, made
            else:
                begun = min(_moment(first.get("time"), ours, now), made)
            if spent.running is not None and begun < spent.running - _OFF:
                begun = made = now  # a clock of which too little is known
            # Between the first and the newest nobody has looked: all of it counts as work, but for saves.
            working = max(0.0, made - begun - spent.saving)
            self.spent = replace(
                spent, first=begun, first_step=number, newest=made, step=step, working=working
            )
        else:
            made = max(made, spent.newest) if made >= spent.newest - _OFF else now
            working = self._working(made - spent.newest, step - spent.step)
            self.spent = replace(spent, newest=made, step=step, working=spent.working + working)
        self._told, self._is_work = self.spent.saving, bool(self._at_work)

    def _note_work(self, rank: RankStatus) -> None:
        is_at_work = rank.phase in _WORK
        self._is_work = self._is_work or is_at_work
        if is_at_work and rank.state is RankState.RUNNING:
            self._at_work[rank.rank] = None
        else:
            self._at_work.pop(rank.rank, None)

    def _working(self, seconds: float, steps: int) -> float:
        """How much work lies in so many seconds, in which so many steps were made.

        It may be less than nothing: a save is told a moment before the step that is made after it.
        """
        rest = seconds - (self.spent.saving - self._told)
        usual = sorted(self._paces)[len(self._paces) // 2] if len(self._paces) >= _LEAST_KNOWN else math.inf
        if not self._is_work:
            self._paces.append(max(0.0, rest) / steps)
        is_pause = rest > max(_LEAST_PAUSE, PAUSE * usual * steps) and not self._is_work
        return usual * steps if is_pause else rest


def _step_of(told: Mapping[str, object]) -> int | None:
    step = told.get("step")
    return step if type(step) is int and 0 <= step < _LARGEST else None


def _or_less(step: int | None) -> int:
    return -1 if step is None else step


def _moment(there: object, ours: Callable[[float], float], now: float) -> float:
    """When a line was written; `now` where that cannot be: what it says is a program's."""
    if type(there) not in (int, float) or not isinstance(there, (int, float)):
        return now
    moment = ours(float(there))
    return moment if 0.0 < moment <= now else now
