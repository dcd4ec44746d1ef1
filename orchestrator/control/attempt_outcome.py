"""What ended an attempt, from its record: how it counts for going on, and the kind of failure. Pure."""

from __future__ import annotations

import signal

from orchestrator.control.cause import kind_of
from orchestrator.control.decisions import Outcome
from orchestrator.control.run_record import Cause, RunRecord
from orchestrator.core.ends import UNASKED, EndKind, StopKind
from orchestrator.core.states import RunState
from orchestrator.diagnosis.signatures import KINDS, Place

__all__ = ["end_key", "failure_kind", "outcome_of", "outcome_of_kind"]

_SUPERVISORS = {
    StopKind.RUN_DIRECTORY_REMOVED: "run_directory_removed",
    StopKind.LAUNCH_LAPSED: "launch_lapsed",
}
# Kinds whose host is at fault: it is gone, or not what it was.
_OF_HOSTS = frozenset(
    {
        "blocked_in_kernel",
        "disk_fault",
        "host_fault",
        "host_lost",
        "host_rebooted",
        "supervisor_gone",
        "supervisor_silent",
    }
)


def outcome_of(record: RunRecord) -> Outcome:
    """What ended the attempt in force."""
    if record.state is RunState.SUCCEEDED:
        return Outcome.DONE
    if record.state is RunState.STOPPED:
        return Outcome.STOPPED
    cause = record.cause
    if cause is None:
        return Outcome.CRASH if record.has_started else Outcome.LAUNCH
    if cause.end.kind in (EndKind.HANG, EndKind.NO_FIRST_STEP):
        return Outcome.HANG
    return outcome_of_kind(failure_kind(record, cause))


def outcome_of_kind(kind: str) -> Outcome:
    """How a kind of failure counts, of a run that did not hang."""
    if kind in _OF_HOSTS:
        return Outcome.HOST
    is_device = kind in KINDS and KINDS[kind].place is Place.DEVICE
    return Outcome.DEVICE if is_device else Outcome.CRASH


def failure_kind(record: RunRecord, cause: Cause) -> str:
    """The kind of failure, of `diagnosis.signatures.KINDS`; empty where nothing is known but that it ended.

    What is not sure has none: the words are then those of others.
    """
    end = cause.end
    if end.kind in (EndKind.HANG, EndKind.NO_FIRST_STEP):
        return "hang"
    view = record.hosts.get(cause.host)
    if view is not None and view.lost and end.kind is EndKind.LOST:
        return "host_lost"
    if end.reason is not None and end.reason.kind in UNASKED:
        return _SUPERVISORS.get(end.reason.kind, "supervisor_gone")
    if not cause.sure or end.kind is EndKind.LOST:
        return ""
    if end.kind is EndKind.NOT_STARTED:
        return "not_started"
    said = kind_of(cause)
    if said and not (said == "program_error" and end.signal == signal.SIGKILL):
        return said
    return "" if end.signal is None else _SIGNALS.get(end.signal, "crashed")


_SIGNALS = {
    signal.SIGKILL.value: "killed",
    signal.SIGTERM.value: "terminated",
    signal.SIGINT.value: "terminated",
}


def end_key(kind: str, cause: Cause | None) -> str:
    """What an end is told apart by: its kind, else signal or exit code; of a lost host with its name."""
    if kind in _OF_HOSTS and cause is not None:
        return f"{kind}@{cause.host}"
    if kind:
        return kind
    if cause is None:
        return ""
    end = cause.end
    if end.signal is not None:
        return f"signal:{end.signal}"
    return str(end.kind.value) if end.exit_code is None else f"exit:{end.exit_code}"
