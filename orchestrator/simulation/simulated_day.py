"""A simulated day: a run on simulated hosts, its attempts, and what became of the time.

Where the job's `restart` says so the run goes on by itself, as the real one does. One that has ended may be
launched again by a person (`relaunch`, after so long), from its last complete save where it saves, as often
as it takes; each launch is a run of its own. What still lasts of a fault meets the next launch: a host
without power, a link that is down, a full disk.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.control.time_account import AttemptTimes, TimeAccount, account_of
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.simulation.faults import FAULT_KEYS, Fault
from orchestrator.simulation.simulate import Outcome, simulate
from orchestrator.simulation.workload import Workload

__all__ = ["LivedAttempt", "SimulatedDay", "faults_from", "simulated_day"]

_MOST_ATTEMPTS = 1000
_AT_ONCE = ("return", "kill_supervisor", "kill_guardian")  # of hosts, and nothing of them lasts
Simulate = Callable[..., Outcome]


@dataclass(frozen=True, slots=True)
class LivedAttempt:
    """One launch, `launched` seconds after the first one; it began behind step `resumed`.

    Of its own steps the first `kept` are in a complete save, or not undone by a failure. `times` are those of
    the last attempt of the run, `all_times` of each of them.
    """

    launched: float
    resumed: int
    kept: int
    faults: tuple[Fault, ...]
    outcome: Outcome
    all_times: tuple[AttemptTimes, ...]

    @property
    def times(self) -> AttemptTimes:
        return self.all_times[-1]

    @property
    def is_final(self) -> bool:
        """Whether it would be of no use to launch again: the work is done, or was refused without a fault."""
        if self.outcome.state is RunState.SUCCEEDED:
            return True
        ended = self.outcome.ended
        was_hurt = any(ended is None or fault.time <= ended for fault in self.faults)
        return ended is not None and not self.outcome.record.has_started and not was_hurt


@dataclass(frozen=True, slots=True)
class SimulatedDay:
    """All attempts in their order. `seconds` were simulated; the run is as far as `step`."""

    attempts: tuple[LivedAttempt, ...]
    seconds: float
    step: int
    account: TimeAccount


def simulated_day(
    plan: LaunchPlan,
    folder: Path,
    *,
    workload: Workload,
    faults: Sequence[Fault] = (),
    hours: float = 24.0,
    seed: int = 0,
    relaunch: float | None = None,
    simulate: Simulate = simulate,
    **options: Any,
) -> SimulatedDay:
    """Live through so many hours of the plan; state goes into `folder`, a folder for each attempt.

    It ends before that when the work is done and, without `relaunch`, when the run has failed for good. More
    `options` are those of `simulate`.
    """
    limit = hours * 3600.0
    attempts: list[LivedAttempt] = []
    launched, step = 0.0, 0
    while launched < limit and len(attempts) < _MOST_ATTEMPTS:
        met = faults_from(faults, launched)
        lived = _live(
            simulate(
                plan,
                folder / str(len(attempts) + 1),
                workload=_rest_of(workload, step),
                faults=met,
                hours=(limit - launched) / 3600.0,
                seed=seed + len(attempts),
                **options,
            ),
            workload,
            launched,
            step,
            met,
        )
        attempts.append(lived)
        step += lived.kept
        if relaunch is None or lived.times.ended is None or lived.is_final:
            break
        launched = lived.times.ended + relaunch
    last = attempts[-1]
    is_over = last.times.ended is not None and (relaunch is None or last.is_final)
    seconds = last.times.ended if is_over and last.times.ended is not None else limit
    account = account_of([times for each in attempts for times in each.all_times], seconds)
    return SimulatedDay(tuple(attempts), seconds, step, account)


def _rest_of(workload: Workload, step: int) -> Workload:
    return workload if workload.steps is None else dataclasses.replace(workload, steps=workload.steps - step)


def _live(
    outcome: Outcome, workload: Workload, launched: float, resumed: int, faults: tuple[Fault, ...]
) -> LivedAttempt:
    """What became of an attempt, on the day's clock."""
    is_undone = outcome.state.is_terminal and outcome.state is not RunState.SUCCEEDED
    kept = outcome.saved if is_undone else outcome.steps
    times = tuple(_times(outcome, workload, launched, kept))
    return LivedAttempt(launched, resumed, kept, faults, outcome, times)


def _times(outcome: Outcome, workload: Workload, launched: float, kept: int) -> Iterator[AttemptTimes]:
    """What became of the time of each attempt; of all its steps the run has `kept` so many."""
    attempts = outcome.attempts
    for seen, following in zip(attempts, (*attempts[1:], None), strict=True):
        steps = max(0, seen.steps - seen.resumed)
        until = kept if following is None else min(kept, following.resumed)
        first = seen.first if steps else None
        yield AttemptTimes(
            launched=launched + seen.begun,
            first=None if first is None else launched + first,
            ended=None if seen.ended is None else launched + seen.ended,
            working=max(0, steps - 1) * workload.step,
            saving=workload.save * seen.saves,
            steps=steps,
            kept=min(steps, max(0, until - seen.resumed)),
            restarts=seen.restarts,
        )


def faults_from(faults: Sequence[Fault], start: float) -> tuple[Fault, ...]:
    """What is to come `start` seconds after the first launch, and what still lasts then, by that clock."""
    return tuple(sorted(_from(faults, start), key=lambda fault: fault.time))


def _from(faults: Sequence[Fault], start: float) -> Iterator[Fault]:
    for fault in faults:
        if fault.time >= start:
            yield dataclasses.replace(fault, time=fault.time - start)
        elif _still_lasts(fault, faults, start):
            left = None if math.isinf(fault.until) else fault.until - start
            yield dataclasses.replace(fault, time=0.0, seconds=left)


def _still_lasts(fault: Fault, faults: Sequence[Fault], start: float) -> bool:
    """Whether a fault of a host has not ended by then; one of a rank has ended with its process."""
    if fault.kind == "clock_jump":
        return True
    if FAULT_KEYS[fault.kind][:1] != ("host",) or fault.kind in _AT_ONCE or fault.until <= start:
        return False
    return not any(
        other.kind == "return" and other.host == fault.host and fault.time <= other.time < start
        for other in faults
    )
