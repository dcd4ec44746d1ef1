"""A diagnosis: why a run failed or hangs, by the evidence of all its hosts, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.control.cause_history import History, history_of
from orchestrator.control.gather_evidence import Gathered, gather
from orchestrator.control.run_record import RunRecord
from orchestrator.control.runs import current_record
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.diagnosis.evidence import Case, Cause, Certainty
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["Diagnosis", "diagnose", "has_something_to_judge"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`cause` is None where nothing has failed, or no worker was ever started: then the record says why.

    `unread` are what could not be looked at, by host; `errors` of hosts that could not be asked at all.
    """

    record: RunRecord
    cause: Cause | None = None
    history: History = field(default_factory=History)
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    errors: Mapping[str, OrchestrateError] = field(default_factory=dict)
    gathered: Gathered | None = None

    @property
    def is_well(self) -> bool:
        """Whether the run goes on: no rank is known to be stalled, and nobody is blamed."""
        is_unknown = self.cause is None or self.cause.certainty is Certainty.UNKNOWN
        is_stalled = any(rank.stalled is not None for rank in self.record.ranks())
        return not self.record.state.is_terminal and is_unknown and not is_stalled


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
    attempt: int | None = None,
) -> Diagnosis:
    """Ask all hosts of a run, and judge what they say."""
    record = current_record(control) if record is None else record
    if not has_something_to_judge(record):
        return Diagnosis(record)
    gathered = gather(record, plan, fleet, attempt=attempt)
    cause = judge(gathered.case)
    return Diagnosis(
        record,
        cause,
        history_of(cause.culprit, without=control.run_id, root=control.root.parent.parent),
        {name: host.unread for name, host in gathered.case.hosts.items() if host.unread},
        gathered.errors,
        gathered,
    )
