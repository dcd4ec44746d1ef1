"""The figures of a run, real or simulated, that an estimate of other choices rests on. Pure.

Of a real run they are in its record: how long its steps, saves and starts took, how often it failed. What
nobody has measured there is assumed, and named.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.control.decisions import Ground
from orchestrator.control.run_record import AttemptRecord, RunRecord
from orchestrator.control.step_times import Spent
from orchestrator.core.errors import UsageError
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.simulation.simulated_day import SimulatedDay
from orchestrator.simulation.what_if import Figures, host_losses
from orchestrator.simulation.workload import Workload

__all__ = ["Measured", "figures_of_day", "figures_of_run", "is_covered"]

_LOSSES = frozenset({Ground.HOST_GONE, Ground.HOST_STUCK, Ground.HOST_FAULT, Ground.HOSTS_MISSING})
# Where a run has had no restart: a person comes, or it goes on by itself.
_BY_HAND, _BY_ITSELF = 600.0, 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures; `failures` were seen in so many seconds of attempts; what was `assumed`, a line each."""

    figures: Figures
    failures: int
    lived: float
    assumed: tuple[str, ...] = ()


def figures_of_day(
    day: SimulatedDay, plan: LaunchPlan, workload: Workload, mtbf: float | None = None
) -> Measured:
    """Of a simulated day. `mtbf`: what the faults were drawn by; else it is counted.

    Raises UsageError where nothing has failed, and no `mtbf` says how often that is.
    """
    times = [each for attempt in day.attempts for each in attempt.all_times]
    ended = [each for each in times if each.ended is not None and each.ended < day.seconds - 1.0]
    failures = len(ended)
    starts = [each.first - each.launched for each in times if each.first is not None]
    gaps = [later.launched - each.ended for each, later in pairwise(times) if each.ended is not None]
    account = day.account
    lived = account.productive + account.lost + account.saving + account.starting
    share, repair = host_losses()
    figures = Figures(
        mtbf=_mtbf(mtbf, lived, failures),
        step=workload.step,
        save_every=workload.save_every,
        save=workload.save,
        write=workload.write,
        start=_mean(starts, workload.imports + workload.first_step),
        restart=_restart(gaps, plan),
        notice=account.waiting / failures if failures else 0.0,
        spares=len(plan.spares),
        host_share=share,
        repair=repair,
        is_covered=is_covered(plan),
    )
    return Measured(figures, failures, lived, _assumed(share, repair, gaps, plan))


def figures_of_run(record: RunRecord, plan: LaunchPlan, mtbf: float | None = None) -> Measured:
    """Of a run by its record and the plan of its last attempt.

    Raises UsageError where it has told of no steps; where it has not failed, and no `mtbf` says how often it
    would.
    """
    attempts = [each for each in record.attempts if each.spent is not None and each.spent.first is not None]
    spent = [each.spent for each in attempts if each.spent is not None]
    steps = sum(_steps(each) for each in spent)
    if steps <= 0:
        raise UsageError(f"run {record.run_id} has told of no steps", remedy="take a training that made some")
    over = [*record.attempts[:-1], *[record.attempts[-1]] * (record.state is RunState.FAILED)]
    failed = [each for each in over if each.state is RunState.FAILED]
    save_every = _save_every(plan)
    saves = sum(_steps(each) // save_every for each in spent) if save_every else 0
    share, repair = host_losses()
    decided = [each.decision for each in failed if each.decision is not None]
    if decided:
        share = sum(each.ground in _LOSSES for each in decided) / len(decided)
    lived = sum(_lived(each) for each in record.attempts)
    gaps = list(_gaps(record.attempts))
    figures = Figures(
        mtbf=_mtbf(mtbf, lived, len(failed)),
        step=sum(each.working for each in spent) / steps,
        save_every=save_every,
        save=sum(each.saving for each in spent) / saves if saves else 0.0,
        start=_mean(_starts(attempts), 0.0),
        restart=_restart(gaps, plan),
        notice=_mean(_notices(failed), 0.0),
        spares=len(plan.spares),
        host_share=share,
        repair=repair,
        is_covered=is_covered(plan),
    )
    return Measured(figures, len(failed), lived, _assumed(None if decided else share, repair, gaps, plan))


def is_covered(plan: LaunchPlan) -> bool:
    """Whether each shard is on a second host, too: as a copy, or as that of a replica."""
    if plan.copies is not None:
        return True
    parallel = plan.worker_settings.get("parallel", {})
    if isinstance(parallel, Mapping) and parallel.get("optimizer_shard"):
        return False
    hosts: dict[tuple[int, int], set[str]] = {}
    for placement in plan.placements:
        hosts.setdefault((placement.mp, placement.pp), set()).add(placement.host)
    return bool(hosts) and all(len(each) > 1 for each in hosts.values())


def _mtbf(given: float | None, lived: float, failures: int) -> float:
    if given is not None:
        return given
    if failures < 1 or lived <= 0:
        raise UsageError("nothing has failed, so that nobody knows how often it does", remedy="give --mtbf")
    return lived / failures


def _save_every(plan: LaunchPlan) -> int | None:
    checkpoint = plan.worker_settings.get("checkpoint", {})
    found: Any = checkpoint.get("save_steps") if isinstance(checkpoint, Mapping) else None
    return found if type(found) is int and found > 0 else None


def _steps(spent: Spent) -> int:
    """Of those whose time is known: all but the first."""
    return (spent.step or 0) - (spent.first_step or 0)


def _lived(attempt: AttemptRecord) -> float:
    """Until its last step, as far as it made any."""
    spent = attempt.spent
    if spent is None or spent.newest is None or attempt.started is None:
        return 0.0
    return max(0.0, spent.newest - attempt.started)


def _starts(attempts: Iterable[AttemptRecord]) -> Iterator[float]:
    for attempt in attempts:
        if attempt.started is not None and attempt.spent is not None and attempt.spent.first is not None:
            yield max(0.0, attempt.spent.first - attempt.started)


def _notices(failed: Iterable[AttemptRecord]) -> Iterator[float]:
    for attempt in failed:
        if attempt.ended is not None and attempt.spent is not None and attempt.spent.newest is not None:
            yield max(0.0, attempt.ended - attempt.spent.newest)


def _gaps(attempts: Sequence[AttemptRecord]) -> Iterator[float]:
    for each, later in pairwise(attempts):
        if each.ended is not None and later.started is not None:
            yield max(0.0, later.started - each.ended)


def _mean(values: Iterable[float], otherwise: float) -> float:
    found = list(values)
    return statistics.fmean(found) if found else otherwise


def _restart(gaps: Sequence[float], plan: LaunchPlan) -> float:
    """From the end of an attempt to the next launch; the median, for waits for hosts are counted apart."""
    if gaps:
        return statistics.median(gaps)
    return _BY_ITSELF if plan.restart.max else _BY_HAND


def _assumed(share: float | None, repair: float, gaps: Sequence[float], plan: LaunchPlan) -> tuple[str, ...]:
    lines = []
    if share is not None:
        lines.append(f"of the failures {100 * share:.0f}% take a host away (published shares)")
    lines.append(f"a host that is lost is back after {repair / 60:.0f} min on average")
    if not gaps:
        lines.append(f"the next attempt is launched {_restart(gaps, plan):.0f} s after a failure")
    return tuple(lines)
