"""The situation of a run whose attempt has ended, from its record, its plan and what hosts say now. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.tasks import TRAINING
from orchestrator.control.attempt_outcome import end_key, outcome_of_kind
from orchestrator.control.attempts import finished
from orchestrator.control.decisions import Choice, Decision, DeviceFault, Ground, Level, Outcome
from orchestrator.control.host_loss import is_stuck
from orchestrator.control.run_record import AttemptRecord, Cause, RunRecord
from orchestrator.core.ends import EndKind
from orchestrator.diagnosis import evidence
from orchestrator.diagnosis.judge import judge
from orchestrator.diagnosis.signatures import KINDS, Place
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.recovery.device_levels import asked_by, counted, faults_in
from orchestrator.recovery.situation import HostState, PastAttempt, Situation

__all__ = ["Now", "host_states", "situation_of"]

# For so long a host that was taken out on suspicion comes last, as MindCluster's repeats are counted.
_SUSPECTED_FOR = 86400.0
# Launches that came to nothing are told apart up to so many in a row.
_MOST_REFUSED = 3


@dataclass(frozen=True, slots=True)
class Now:
    """What is known when an attempt has ended, beside record and plan; `time` is of our clock.

    `hosts` are the states of hosts and spares by name, `faults` what their devices tell. `kept` is the newest
    step of the attempt that is whole in a checkpoint. `fits` are numbers of hosts, fewer than all, on which
    the job can be laid out. `waits_since`: since when hosts are waited for. `verdict` is the judgement by the
    evidence of all hosts, where there is one.
    """

    time: float
    hosts: Mapping[str, HostState]
    faults: Sequence[DeviceFault] = ()
    kept: int | None = None
    fits: Sequence[int] = ()
    waits_since: float | None = None
    verdict: evidence.Cause | None = None
    unreachable: float = 60.0

    def by_evidence(self, case: evidence.Case) -> Now:
        """What is known, with what logs, kernels and devices of all hosts tell."""
        faults = faults_in(case.hosts, self.time)
        return dataclasses.replace(self, faults=(*self.faults, *faults), verdict=judge(case))


def host_states(record: RunRecord) -> dict[str, HostState]:
    """The states of the hosts that took part, as far as the monitor has heard."""
    return {
        name: HostState(
            name,
            answers=not view.error and view.status is not None,
            is_gone=view.lost,
            is_stuck=is_stuck(view.status),
        )
        for name, view in record.hosts.items()
    }


def situation_of(record: RunRecord, plan: LaunchPlan, now: Now) -> Situation:
    """All that is to be judged. The record is that of the attempt that has ended, the plan is its own."""
    history = _faults_before(record)
    faults = counted(now.faults, history)
    attempts = _attempts(record, now, [asked_by(fault) for fault in faults])
    begun = max(number for number, each in enumerate(attempts) if each.by_hand)
    decisions = [each.decision for each in record.attempts[begun:] if each.decision is not None]
    known_keeps = plan.task in TRAINING or any(_tells_of_saves(each, plan.task) for each in attempts)
    taken_out, drained, suspects = _taken_out(decisions, now.time)
    return Situation(
        now=now.time,
        policy=plan.restart,
        attempts=attempts,
        wanted=attempts[begun].hosts,
        hosts=now.hosts,
        spares=tuple(host.name for host in plan.spares),
        faults=faults,
        history=history,
        taken_out=taken_out,
        drained=tuple(drained),
        fits=tuple(now.fits),
        waits_since=now.waits_since,
        devices_out=_devices_out(decisions, now.time),
        keeps=known_keeps,
        unreachable=now.unreachable,
        suspects=suspects,
    )


# Attempts.


def _attempts(record: RunRecord, now: Now, faults: Sequence[DeviceFault]) -> tuple[PastAttempt, ...]:
    *before, _ = record.attempts
    past = [_past(each, by_hand) for each, by_hand in zip(before, _by_hand(record), strict=False)]
    last = finished(record)
    ended = now.time if last.ended is None else last.ended
    last = dataclasses.replace(last, kept=now.kept, ended=ended)
    own = _past(last, _by_hand(record)[-1])
    own = _with_device(record, own)
    own = _by_device(_by_verdict(own, now.verdict), faults)
    if own.outcome is Outcome.LAUNCH:
        own = dataclasses.replace(own, exit_code=record.exit_code)
    return (*past, own, *_refused(record, own))


def _tells_of_saves(attempt: PastAttempt, task: str) -> bool:
    """MindFormers up to 1.3 logs its phases and no save: that nothing is known to be kept says nothing."""
    return bool(attempt.kept) if task == "mindformers" else attempt.kept is not None


def _by_hand(record: RunRecord) -> list[bool]:
    """Of each attempt whether a person started it, and not the decision at the end of the one before."""
    return [True, *(not _goes_on(each) for each in record.attempts[:-1])]


def _goes_on(attempt: AttemptRecord) -> bool:
    """Whether it was decided that another attempt follows, and nobody stopped the run then."""
    decision, is_over = attempt.decision, attempt.outcome in (Outcome.DONE, Outcome.STOPPED)
    decided = decision is not None and (decision.choice.goes_on or decision.choice is Choice.WAIT)
    return decided and not is_over


def _past(attempt: AttemptRecord, by_hand: bool) -> PastAttempt:
    cause, started = attempt.cause, attempt.started or 0.0
    if cause is not None and cause.end.kind is EndKind.NO_FIRST_STEP:
        # Those that made none are many, of which the first is named.
        cause = dataclasses.replace(cause, sure=False)
        cause = cause if len(cause.end.missing) == 1 else dataclasses.replace(cause, host="", rank=None)
    return PastAttempt(
        number=attempt.number,
        started=started,
        ended=attempt.ended if attempt.ended is not None else started,
        outcome=attempt.outcome or Outcome.CRASH,
        host=cause.host if cause is not None else "",
        rank=cause.rank if cause is not None else None,
        device=_device_of(attempt.decision, cause),
        kind=attempt.kind,
        key=end_key(attempt.kind, cause),
        sure=cause.sure if cause is not None else False,
        origin=0 if attempt.origin is None else attempt.origin[1],
        last_step=attempt.last_step,
        kept=attempt.kept,
        hosts=attempt.hosts,
        step=cause.end.step if cause is not None else None,
        exit_code=cause.end.exit_code if cause is not None else None,
        by_hand=by_hand,
    )


def _device_of(decision: Decision | None, cause: Cause | None) -> int | None:
    """The device of who failed, as the decision of then has it."""
    if decision is None or cause is None or (decision.host, decision.rank) != (cause.host, cause.rank):
        return None
    return decision.device


def _with_device(record: RunRecord, attempt: PastAttempt) -> PastAttempt:
    view = record.hosts.get(attempt.host)
    ranks = view.ranks() if view is not None else ()
    device = next((rank.device_id for rank in ranks if rank.rank == attempt.rank), -1)
    return dataclasses.replace(attempt, device=device if device >= 0 else None)


def _by_verdict(attempt: PastAttempt, verdict: evidence.Cause | None) -> PastAttempt:
    """The attempt as the evidence of all hosts judges it: where that names somebody it knows better."""
    is_failure = attempt.outcome in (Outcome.CRASH, Outcome.HOST, Outcome.DEVICE)
    if verdict is None or verdict.culprit is None or not is_failure:
        return attempt
    who = verdict.culprit
    is_sure = verdict.certainty is evidence.Certainty.SURE
    if attempt.sure and not is_sure and (who.host, who.rank) != (attempt.host, attempt.rank):
        return attempt
    is_same = (who.host, who.rank) == (attempt.host, attempt.rank)
    kind = verdict.kind if is_sure else attempt.kind
    return dataclasses.replace(
        attempt,
        outcome=outcome_of_kind(kind) if is_sure else attempt.outcome,
        host=who.host,
        rank=who.rank,
        device=who.device,
        kind=kind,
        key=f"{kind}@{who.host}" if outcome_of_kind(kind) is Outcome.HOST else kind or attempt.key,
        sure=is_sure or (attempt.sure and is_same),
    )


def _by_device(attempt: PastAttempt, faults: Sequence[DeviceFault]) -> PastAttempt:
    """A crash on a device that tells of a fault is the device's, unless the program says it is its own."""
    is_job = attempt.kind in KINDS and KINDS[attempt.kind].place is Place.JOB
    told = [each for each in faults if (each.host, each.device) == (attempt.host, attempt.device)]
    if attempt.outcome is Outcome.CRASH and not is_job and any(each.level > Level.NOTED for each in told):
        return dataclasses.replace(attempt, outcome=Outcome.DEVICE)
    return attempt


def _refused(record: RunRecord, last: PastAttempt) -> Iterator[PastAttempt]:
    """Launches of the next attempt that came to nothing, once each."""
    refused = record.refused
    if refused is None or refused.number <= last.number or refused.time < last.ended:
        return
    decision, goes_on = record.attempts[-1].decision, _goes_on(record.attempts[-1])
    hosts = decision.hosts if decision is not None and goes_on else ()
    for number in range(min(refused.count, _MOST_REFUSED)):
        yield PastAttempt(
            refused.number,
            refused.time,
            refused.time,
            Outcome.LAUNCH,
            key=f"launch:{refused.exit_code}",
            hosts=hosts or last.hosts,
            exit_code=refused.exit_code,
            by_hand=not goes_on and number == 0,
        )


# What was decided before.


def _faults_before(record: RunRecord) -> tuple[DeviceFault, ...]:
    """What devices told when attempts before had ended; the one in force is judged now."""
    return tuple(
        fault
        for attempt in record.attempts[:-1]
        if attempt.decision is not None
        for fault in attempt.decision.faults
    )


def _taken_out(
    decisions: Sequence[Decision], now: float
) -> tuple[Mapping[str, float], list[str], tuple[str, ...]]:
    """Hosts that are out, since when; those of them that are out for good, and those that come last."""
    out: dict[str, float] = {}
    drained: list[str] = []
    suspects: list[str] = []
    for decision in decisions:
        for host in decision.hosts:
            out.pop(host, None)
        for host, ground in decision.out_for.items():
            out[host] = decision.time
            told = [asked_by(fault) for fault in decision.faults if fault.host == host]
            if ground is Ground.DEVICE_OUT and any(_stays_out(fault, now) for fault in told):
                drained.append(host)
            elif ground in (Ground.HOST_FAULT, Ground.DEVICE_OUT) and now - decision.time < _SUSPECTED_FOR:
                suspects.append(host)
    return out, [host for host in drained if host in out], tuple(host for host in suspects if host in out)


def _stays_out(fault: DeviceFault, now: float) -> bool:
    is_released = fault.released is not None and fault.released <= now
    return fault.level >= Level.OTHER_DEVICE and not is_released


def _devices_out(decisions: Sequence[Decision], now: float) -> Mapping[str, tuple[int, ...]]:
    """Devices that are not used any more, but for those that may be again."""
    out: dict[str, set[int]] = {}
    released: set[tuple[str, int]] = set()
    for decision in decisions:
        for host, devices in decision.devices_out.items():
            out.setdefault(host, set()).update(devices)
        for fault in map(asked_by, decision.faults):
            if fault.released is not None and fault.released <= now:
                released.add((fault.host, fault.device))
            elif fault.level >= Level.OTHER_DEVICE:
                released.discard((fault.host, fault.device))
    found = {
        host: tuple(sorted(device for device in devices if (host, device) not in released))
        for host, devices in out.items()
    }
    return {host: devices for host, devices in found.items() if devices}
