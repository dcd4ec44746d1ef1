"""The attempts of a run in its record: the next one put in force, or taken back as if it had never been.

Pure, but for the record of the attempt before, which is kept beside that one's plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orchestrator.control.attempt_outcome import failure_kind, outcome_of
from orchestrator.control.decisions import Choice, Decision
from orchestrator.control.host_loss import step_of
from orchestrator.control.run_record import AttemptRecord, Refused, RunRecord, failed_launch, new_record
from orchestrator.core.codec import DecodeError, dumps, load
from orchestrator.core.errors import RunFailed, UsageError
from orchestrator.core.paths import ControlDir, atomic_write
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan, read_hosts, read_plan

__all__ = [
    "came_to_nothing",
    "ended_again",
    "finished",
    "keep_record",
    "kept_step",
    "next_record",
    "plan_of_record",
    "told_why",
    "with_decision",
    "with_hosts_before",
    "with_news_of",
]


def finished(record: RunRecord) -> AttemptRecord:
    """The attempt in force, which is over, with what is to be remembered of it."""
    ranks = record.ranks()
    steps = [step for rank in ranks if (step := step_of(rank)) is not None]
    begun = [first for rank in ranks if isinstance(first := _first(rank.progress), int)]
    left = tuple(name for name, view in record.hosts.items() if view.may_have_workers)
    last = record.attempts[-1]
    return dataclasses.replace(
        last,
        state=RunState.FAILED if record.state is RunState.RESTARTING else last.state,
        cause=record.cause,
        first_step=min(begun, default=None),
        last_step=max(steps, default=None),
        hosts=tuple(record.hosts),
        left=left,
        outcome=outcome_of(record),
        kind="" if record.cause is None else failure_kind(record, record.cause),
        kept=kept_step(record),
    )


def kept_step(record: RunRecord) -> int | None:
    """The newest step of which all ranks of the attempt in force have a whole checkpoint of this attempt.

    0: there is none; None: its workers tell nothing of checkpoints.
    """
    ranks = record.ranks()
    saved = [rank.saved for rank in ranks if rank.saved is not None]
    if ranks and len(saved) == len(ranks) == record.world_size:
        return min(saved)
    return 0 if saved or any(rank.phase is not None for rank in ranks) else None


def _first(progress: object) -> object:
    first = progress.get("first") if isinstance(progress, dict) else None
    return first.get("step") if isinstance(first, dict) else None


def next_record(record: RunRecord, plan: LaunchPlan, now: float) -> RunRecord:
    """The record of a run that has ended, with the attempt of this plan in force, which nobody started."""
    begun = AttemptRecord(
        plan.attempt.number,
        plan.attempt.token,
        started=now,
        hosts=tuple(host.name for host in plan.hosts),
        origin=plan.origin,
    )
    over = finished(record)
    if plan.origin is not None and plan.origin[0] == over.number:
        over = dataclasses.replace(over, kept=plan.origin[1])
    return dataclasses.replace(
        new_record(plan, record.claim),
        run_id=record.run_id,
        job=record.job,
        created=record.created,
        updated=now,
        attempts=(*record.attempts[:-1], over, begun),
        watched=now,
    )


def keep_record(control: ControlDir, record: RunRecord) -> None:
    """Keep the record as it is when the attempt in force is over and another one is to follow."""
    atomic_write(control.kept_record(record.attempts[-1].number), dumps(record))


def came_to_nothing(
    control: ControlDir, record: RunRecord, lines: Sequence[str], exit_code: int, now: float
) -> RunRecord:
    """The record of a launch that came to nothing: of a first attempt that, of a later one that of before.

    That one is as it was when the attempt before was over, but for `refused`, which has what is to be told.
    """
    if len(record.attempts) < 2:
        return failed_launch(record, lines, exit_code, now)
    number = record.attempts[-2].number
    path = control.kept_record(number)
    try:
        before = load(RunRecord, path, control.runs)
    except (OSError, DecodeError):
        return failed_launch(record, lines, exit_code, now)  # it cannot be told how it was before
    last, number = before.refused, record.attempts[-1].number
    count = last.count + 1 if last is not None and last.number == number else 1
    refused = Refused(number, tuple(lines), exit_code, now, count)
    return dataclasses.replace(
        before, claim=record.claim, refused=refused, watched=now, unwatched=None, elsewhere=""
    )


def told_why(record: RunRecord, lines: Sequence[str], exit_code: int, now: float) -> RunRecord:
    """The record of a run that is given up since its next attempt cannot even be planned, with why; one that
    goes on, or of which it is told already, stays as it is."""
    number = record.attempts[-1].number + 1
    is_told = record.refused is not None and record.refused.number == number
    if not record.state.is_terminal or is_told:
        return record
    return dataclasses.replace(record, refused=Refused(number, tuple(lines), exit_code, now, 1))


def with_decision(record: RunRecord, decision: Decision) -> RunRecord:
    """The record of an attempt that has ended with what was decided: `restarting` where the run goes on."""
    *before, last = record.attempts
    attempts = (*before, dataclasses.replace(last, decision=decision))
    if decision.choice.goes_on or decision.choice is Choice.WAIT:
        return dataclasses.replace(
            record, state=RunState.RESTARTING, phase="restarting", exit_code=None, attempts=attempts
        )
    return dataclasses.replace(record, attempts=attempts)


def ended_again(record: RunRecord) -> RunRecord:
    """A run that was to go on, as it was when its last attempt had ended."""
    state = RunState.FAILED
    return dataclasses.replace(record, state=state, phase=str(state), exit_code=RunFailed.exit_code)


def with_news_of(record: RunRecord, number: int, left: Sequence[str]) -> RunRecord:
    """The record with the hosts on which an attempt that is over may still run."""
    attempts = tuple(
        dataclasses.replace(each, left=tuple(left)) if each.number == number else each
        for each in record.attempts
    )
    return dataclasses.replace(record, attempts=attempts)


def plan_of_record(control: ControlDir, record: RunRecord, number: int | None = None) -> LaunchPlan:
    """The plan of an attempt of this record, by default of the one in force.

    Raises UsageError where the run has no such attempt, RunNotFound where its plan cannot be read.
    """
    known = [attempt.number for attempt in record.attempts]
    wanted = known[-1] if number is None else number
    if wanted not in known:
        which = f"attempts 1 to {known[-1]}" if len(known) > 1 else "one attempt"
        raise UsageError(f"run {record.run_id} has {which}, and no attempt {wanted}")
    return read_plan(control.plan_of(wanted))


def with_hosts_before(control: ControlDir, plan: LaunchPlan) -> LaunchPlan:
    """The plan with the hosts of all other attempts behind its own: wherever the run has left something."""
    hosts = {host.name: host for host in plan.hosts}
    for number in control.numbers():
        if number != plan.attempt.number and control.plan_of(number).exists():
            for host in read_hosts(control.plan_of(number)).hosts:
                hosts.setdefault(host.name, host)
    return dataclasses.replace(plan, hosts=tuple(hosts.values()))
