"""A diagnosis: why a run failed or hangs, by the evidence of all its hosts, and what goes with it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.control.cause_history import History, history_of
from orchestrator.control.gather_evidence import Gathered, gather
from orchestrator.control.hang_stacks import StackFold, StackGroup
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.run_record import RunRecord
from orchestrator.control.runs import current_record
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.diagnosis.evidence import Case, Cause, Certainty, Culprit, Proof
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["Diagnosis", "diagnose", "has_something_to_judge", "with_health"]

_MOST_PROOFS = 4


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`cause` is None where nothing has failed, or no worker was ever started: then the record says why.

    `unread` are what could not be looked at, by host; `errors` of hosts that could not be asked at all. In
    the file `stacks` are those of all ranks as of the last hang, where there was one; `stacks_now` are those
    of a run that goes on, where nothing says outright why it should not.
    """

    record: RunRecord
    cause: Cause | None = None
    history: History = field(default_factory=History)
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    errors: Mapping[str, OrchestrateError] = field(default_factory=dict)
    gathered: Gathered | None = None
    stacks: Path | None = None
    stacks_now: tuple[StackGroup, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether the run goes on: nothing is known not to be well, and no log or kernel blames anybody.

        That a rank is a step behind others says nothing of a run that goes on.
        """
        if self.record.state.is_terminal or _not_well(self.record):
            return False
        if any(rank.stalled is not None for rank in self.record.ranks()):
            return False
        cause = self.cause
        if cause is None or cause.certainty is Certainty.UNKNOWN:
            return True
        is_told = any(proof.source != "steps" for proof in cause.proofs)
        return cause.certainty is Certainty.LIKELY and not is_told


def has_something_to_judge(record: RunRecord) -> bool:
    """Whether workers were started and have failed, or may hang."""
    return record.has_started and record.state not in (RunState.SUCCEEDED, RunState.PREPARING)


def diagnose(
    control: ControlDir,
    plan: LaunchPlan,
    fleet: Fleet,
    judge: Callable[[Case], Cause],
    *,
    record: RunRecord | None = None,
) -> Diagnosis:
    """Ask all hosts of a run, and judge what they say."""
    record = current_record(control) if record is None else record
    if not has_something_to_judge(record):
        return Diagnosis(record)
    gathered = gather(record, plan, fleet)
    cause = with_health(judge(gathered.case), record)
    return Diagnosis(
        record,
        cause,
        history_of(cause.culprit, without=control.run_id, root=control.root.parent.parent),
        {name: host.unread for name, host in gathered.case.hosts.items() if host.unread},
        gathered.errors,
        gathered,
        control.hang_stacks if control.hang_stacks.is_file() else None,
        _stacks_now(record, cause, fleet),
    )


def _stacks_now(record: RunRecord, cause: Cause, fleet: Fleet) -> tuple[StackGroup, ...]:
    """Where the ranks are, of a run that goes on; equal ones together. Who cannot tell is left out."""
    if record.state.is_terminal or cause.certainty is Certainty.SURE:
        return ()
    fold = StackFold()
    for answer in fleet.each(lambda agent: agent.stacks(record.run_id)).values.values():
        for rank, stacks in answer.ranks.items():
            if rank.isdecimal():
                fold.add(int(rank), stacks)
    return tuple(fold.groups())


# What the monitor has seen of ranks that run, by how much it says: the kind of failure, and the words of it.
_SEEN = {
    FindingKind.BLOCKED: ("blocked_in_kernel", "process state D since {}: blocked in the kernel"),
    FindingKind.STOPPED: ("process_stopped", "process state T since {}: stopped by a signal or a debugger"),
    FindingKind.HANG: ("hang", "no rank has made a new step since {}"),
    FindingKind.SILENT: ("rank_stuck", "no new step since {}, while others make steps"),
}
_NO_STATUS = "its supervisor has written no status since {}, though the host answers"


def with_health(cause: Cause, record: RunRecord) -> Cause:
    """The cause; where logs, kernels and devices do not say it outright, with what the monitor has seen.

    One rank that is named is likely the one; several are suspects. That a run was stopped by hand is no
    reason, if it had hung before.
    """
    seen = _not_well(record)
    if not seen or (cause.certainty is Certainty.SURE and cause.kind != "stopped"):
        return cause
    found = min(seen, key=lambda each: (list(_SEEN).index(each.kind), not each.ranks))
    named = tuple(_culprit(record, rank) for rank in found.ranks)
    proofs = tuple(_proof(found, who) for who in named[:_MOST_PROOFS] or (Culprit(found.host),))
    if cause.certainty is Certainty.LIKELY and any(proof.source != "steps" for proof in cause.proofs):
        return dataclasses.replace(cause, proofs=(*cause.proofs, *proofs))
    kind = _SEEN[found.kind][0]
    if found.kind is FindingKind.SILENT and not named:  # of its ranks nothing is known
        return Cause("supervisor_silent", Certainty.LIKELY, Culprit(found.host), proofs, cause.victims)
    if len(named) == 1:
        kind = "rank_stuck" if kind == "hang" else kind
        victims = tuple(each for each in cause.victims if each != found.ranks[0])
        return Cause(kind, Certainty.LIKELY, named[0], proofs, victims)
    return Cause(
        kind, Certainty.UNKNOWN, None, (*proofs, *cause.proofs), cause.victims, named or cause.suspects
    )


def _not_well(record: RunRecord) -> list[Finding]:
    return [found for found in record.health if found.kind in _SEEN]


def _culprit(record: RunRecord, rank: int) -> Culprit:
    for name, view in record.hosts.items():
        for member in view.status.everyone() if view.status is not None else ():
            if member.rank == rank:
                return Culprit(name, rank, member.device_id)
    return Culprit(rank=rank)


def _proof(found: Finding, who: Culprit) -> Proof:
    when = time.strftime("%H:%M:%S", time.localtime(found.since))
    where = f"; in {found.detail}" if found.detail else ""
    text = _SEEN[found.kind][1] if found.ranks or found.kind is FindingKind.HANG else _NO_STATUS
    return Proof(who.host, who.rank, "monitor", f"{text.format(when)}{where}")
