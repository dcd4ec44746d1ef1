"""The account of a run's time: for what its hosts were used, from its launch to its end or to now. Pure.

    productive   steps whose result was kept by a save, or that no failure has undone
    lost         steps that a failure has undone: those since the last complete save
    waiting      all workers stand, or wait for a slow one: a hang, a failure that is not noticed yet, a stop
    restarting   no attempt is there, and the run goes on by itself: moving bytes, waiting for hosts
    saving       the workers wait for checkpoints to be written
    starting     until an attempt has made its first step: connecting, checks, import, compilation
    down         no attempt is there: until somebody launches again
    unknown      nobody has noted it: an attempt of an earlier version, workers that tell of no steps

The parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from orchestrator.config.tasks import TRAINING
from orchestrator.control.attempts import kept_step
from orchestrator.control.decisions import Choice
from orchestrator.control.run_record import AttemptRecord, RunRecord
from orchestrator.control.step_times import PAUSE, Spent
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RunState

__all__ = ["AttemptTimes", "TimeAccount", "account_of", "account_of_run"]

# After an attempt that has come to no good end.
_AFTER = (RunState.FAILED, RunState.STOPPED, RunState.RESTARTING)


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """What became of the time of one attempt: seconds of one clock, None where it did not get there.

    It was launched at `launched`, had made its first step at `first`, and had ended everywhere at `ended`. In
    between, steps took `working` seconds at their usual pace, and saves `saving`. Of its `steps` the first
    `kept` are not undone; None: that is not known. With `restarts` it was decided, when it had ended, that
    the run goes on. Where it has told of no step, nothing is known of it from `unknown` on; None: it starts.
    """

    launched: float
    first: float | None = None
    ended: float | None = None
    working: float = 0.0
    saving: float = 0.0
    steps: int = 0
    kept: int | None = 0
    restarts: bool = False
    unknown: float | None = None


@dataclass(frozen=True, slots=True)
class TimeAccount:
    """Seconds for each use."""

    productive: float = 0.0
    lost: float = 0.0
    waiting: float = 0.0
    restarting: float = 0.0
    saving: float = 0.0
    starting: float = 0.0
    down: float = 0.0
    unknown: float = 0.0

    @property
    def whole(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """The seconds by the name of their use."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __add__(self, other: TimeAccount) -> TimeAccount:
        mine, others = self.parts(), other.parts()
        return TimeAccount(**{name: mine[name] + others[name] for name in mine})


def account_of(attempts: Sequence[AttemptTimes], until: float) -> TimeAccount:
    """The account from the launch of the first attempt to `until`; attempts come in their order.

    What lies after `until`, or in the time of the next attempt, is left out, and a moment that lies before
    the one that it should follow counts as that one.
    """
    account = TimeAccount()
    for attempt, limit in zip(attempts, [*(each.launched for each in attempts[1:]), until], strict=False):
        account += _of_one(attempt, min(limit, until))
    return account


def _of_one(attempt: AttemptTimes, limit: float) -> TimeAccount:
    """From its launch to `limit`, where the next one begins or the account ends."""
    launched = min(attempt.launched, limit)
    ended = _within(attempt.ended, launched, limit)
    gap = {"restarting" if attempt.restarts else "down": limit - ended}
    if attempt.first is None and attempt.unknown is not None:
        begun = _within(attempt.unknown, launched, ended)
        return TimeAccount(starting=begun - launched, unknown=ended - begun, **gap)
    first = _within(attempt.first, launched, ended)
    saving = min(max(attempt.saving, 0.0), ended - first)
    working = min(max(attempt.working, 0.0), ended - first - saving)
    return TimeAccount(
        starting=first - launched,
        saving=saving,
        waiting=ended - first - saving - working,
        **_of_steps(attempt, working),
        **gap,
    )


def _of_steps(attempt: AttemptTimes, working: float) -> dict[str, float]:
    """What the seconds of its steps were for."""
    if attempt.kept is None:
        return {"unknown": working}
    kept = min(max(attempt.kept, 0), attempt.steps) / attempt.steps if attempt.steps > 0 else 0.0
    return {"productive": working * kept, "lost": working - working * kept}


def _within(moment: float | None, least: float, most: float) -> float:
    """A moment between two others; the later of them where it has not come."""
    return most if moment is None else min(max(moment, least), most)


def account_of_run(record: RunRecord, now: float) -> TimeAccount:
    """The account of a run by its record, from its launch to its end or, of one that goes on, to `now`.

    All times are of our clock. What of it nobody has noted is `unknown`.
    """
    until = now if record.ended is None or not record.state.is_terminal else record.ended
    reached = _reached(record)
    return account_of([_times_of(record, each, reached, now) for each in record.attempts], until)


def _reached(record: RunRecord) -> Mapping[int, int | None]:
    """The step up to which the steps of an attempt count, by its number; None: it is not known.

    The last attempt went on from a step of one before, that from a step of one before it, and so on. Of the
    others no step counts.
    """
    *before, last = record.attempts
    found = {last.number: _end_of(record)}
    origin = _origin(last)
    known = {each.number: each for each in before}
    while origin is not None and origin[0] in known:
        number, step = origin
        found[number] = step
        origin = _origin(known.pop(number))
    if origin is None:  # of whoever was before nobody knows what was gone on from
        found.update(dict.fromkeys(known))
    return found


def _origin(attempt: AttemptRecord) -> tuple[int, int] | None:
    return (0, 0) if attempt.origin is None and attempt.number == 1 else attempt.origin


def _end_of(record: RunRecord) -> int | None:
    """The step up to which those of the last attempt count: all of one that goes on, or has succeeded."""
    last = record.attempts[-1]
    if record.state in _AFTER:
        return kept_step(record) if last.kept is None else last.kept
    return None if last.spent is None else last.spent.step


def _times_of(
    record: RunRecord, attempt: AttemptRecord, reached: Mapping[int, int | None], now: float
) -> AttemptTimes:
    launched = record.created if attempt.started is None else attempt.started
    if attempt is record.attempts[0]:
        launched = min(launched, record.created)
    ended, restarts = _end_moment(record, attempt)
    spent = attempt.spent
    if spent is None or spent.first is None or spent.step is None:
        unknown = _unknown_from(record, attempt, launched)
        return AttemptTimes(launched, ended=ended, restarts=restarts, unknown=unknown)
    origin = _origin(attempt)
    begun = origin[1] if origin is not None else -1
    if not 0 <= begun < spent.step:  # a program that counts anew
        begun = (spent.first_step or 1) - 1
    until = reached.get(attempt.number, 0)
    return AttemptTimes(
        launched,
        spent.first,
        ended,
        spent.working + (_under_way(spent, now) if ended is None else 0.0),
        spent.saving,
        spent.step - begun,
        None if until is None else until - begun,
        restarts,
    )


def _end_moment(record: RunRecord, attempt: AttemptRecord) -> tuple[float | None, bool]:
    """When an attempt had ended, None: it goes on; and whether it was decided then that the run does.

    What was decided is written down when it is over; the run may end while it waits for the next one.
    """
    decision = attempt.decision
    if decision is None or decision.choice in (Choice.STOP, Choice.GIVE_UP):
        return attempt.ended, False
    if attempt is record.attempts[-1] and record.state not in _AFTER:
        return attempt.ended, False
    return min(decision.time, attempt.ended or decision.time), True


def _unknown_from(record: RunRecord, attempt: AttemptRecord, launched: float) -> float | None:
    """From when on nothing is known of an attempt of which no step was noted; None: it has made none yet."""
    is_last = attempt is record.attempts[-1]
    if record.task not in TRAINING:
        if attempt.spent is not None:
            return attempt.spent.running
        return launched if record.has_started or not is_last else None
    if attempt.spent is not None:
        return None
    has_steps = attempt.last_step is not None or (is_last and any(map(_has_step, record.ranks())))
    return launched if has_steps else None


def _has_step(rank: RankStatus) -> bool:
    return "step" in rank.progress


def _under_way(spent: Spent, now: float) -> float:
    """The seconds of the step that is being made, while it takes no longer than one may."""
    steps = (spent.step or 0) - (spent.first_step or 0)
    if steps <= 0 or spent.newest is None:
        return 0.0
    seconds = now - spent.newest
    return seconds if 0 < seconds <= max(PAUSE, PAUSE * spent.working / steps) else 0.0
