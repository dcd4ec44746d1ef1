"""The end of a process as data: how a worker ended, and for what reason it was made to end.

Sentences are made of these in `cli/sentences` alone. What an earlier version wrote down as a sentence is kept
as `described`.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import enum
import re
from typing import Any, Mapping, Optional, Tuple

from orchestrator.core.record_class import dataclass

__all__ = [
    "SAVED_EXIT",
    "SCHEDULER",
    "UNASKED",
    "End",
    "EndKind",
    "StopKind",
    "StopReason",
    "label_of",
    "rank_of_label",
]

# The rank of the process that is none: MindSpore's scheduler.
SCHEDULER = -1

# With this a worker ends that was told to by SIGTERM and has saved before: EX_TEMPFAIL of sysexits.h, "the
# user is invited to retry".
SAVED_EXIT = 75


def label_of(rank: int) -> str:
    """What a worker's files are called: `rank_3`, `scheduler`."""
    return "scheduler" if rank == SCHEDULER else f"rank_{rank}"


def rank_of_label(label: str) -> Optional[int]:
    """The rank that a label of an earlier version names; None where it names none."""
    if label == "scheduler":
        return SCHEDULER
    found = re.match(r"rank_([0-9]{1,9})\Z", label)
    return int(found.group(1)) if found else None


class EndKind(str, enum.Enum):
    """What ended a worker."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    NOT_STARTED = "not_started"
    # A crash in native code after the worker had said that its work was done: no failure.
    CRASHED_WHEN_DONE = "crashed_when_done"
    STOPPED = "stopped"
    SUPERVISOR_ENDED = "supervisor_ended"
    LOST = "lost"
    # It did not end: it made no first step in time, and is made to end for that.
    NO_FIRST_STEP = "no_first_step"
    # It did not end: no rank made steps any more, and the policy of its run says that it ends then.
    HANG = "hang"
    DESCRIBED = "described"


class StopKind(str, enum.Enum):
    """Why workers were made to end that had not failed."""

    REQUESTED = "requested"
    WORKER_FAILED = "worker_failed"
    RANKS_DONE = "ranks_done"
    LAUNCH_LAPSED = "launch_lapsed"
    UNDONE = "undone"
    RUN_DIRECTORY_REMOVED = "run_directory_removed"
    SUPERVISOR_TERMINATED = "supervisor_terminated"
    SUPERVISOR_ENDED = "supervisor_ended"
    SUPERVISOR_GONE = "supervisor_gone"
    GUARDIAN_ENDED = "guardian_ended"
    LEASE_ENDED = "lease_ended"  # no monitor was heard, and no step made, for as long as the job allows


# What nobody has asked for: a run that ends by one of these was not stopped, it has failed.
UNASKED = frozenset(
    {
        StopKind.LAUNCH_LAPSED,
        StopKind.RUN_DIRECTORY_REMOVED,
        StopKind.SUPERVISOR_TERMINATED,
        StopKind.SUPERVISOR_ENDED,
        StopKind.SUPERVISOR_GONE,
        StopKind.GUARDIAN_ENDED,
        StopKind.LEASE_ENDED,
    }
)


@dataclass(frozen=True)
class StopReason:
    """Why: what a person said (`text`), or which rank of which host failed and how.

    Of any other kind `host` is set where a part of the run was ended there first, and the rest with it.
    `now`: without any grace, also where they are ending already.
    """

    kind: StopKind
    host: str = ""
    rank: Optional[int] = None
    end: Optional[End] = None
    text: str = ""
    now: bool = False

    @classmethod
    def requested(cls, text: str) -> StopReason:
        return cls(StopKind.REQUESTED, text=text)


@dataclass(frozen=True)
class End:
    """How a worker ended. `time` is seconds since the epoch by the clock of its host.

    `phase` and `step` are the last that it reported, `message` is what the system said, `tail` the last lines
    of its log, `evidence` those lines near its end that tell who failed and who only noticed. `missing` are
    ranks that lack what it lacked, of `expected`; `seconds` is a limit that was reached. `reason` says why it
    was stopped, or how its supervisor ended. `saved` is the step of the checkpoint that it left when it was
    told to end, see `SAVED_EXIT`.
    """

    kind: EndKind
    time: Optional[float] = None
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    phase: str = ""
    step: Optional[int] = None
    message: str = ""
    tail: Tuple[str, ...] = ()
    reason: Optional[StopReason] = None
    missing: Tuple[int, ...] = ()
    expected: int = 0
    seconds: float = 0.0
    evidence: Tuple[str, ...] = ()
    saved: Optional[int] = None


def earlier_reason(text: str) -> Optional[Mapping[str, Any]]:
    """The data of a reason that an earlier version wrote as a sentence."""
    return {"kind": StopKind.REQUESTED, "text": text} if text else None


def earlier_end(data: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """The data of a worker's end from the keys of earlier versions: state, exit_code, signal, reason, …"""
    kind = _EARLIER_KINDS.get(str(data.get("state")))
    if kind is None:
        return None
    reason = str(data.get("reason") or "")
    end = {name: data.get(name) for name in ("exit_code", "signal")}
    end.update(time=data.get("ended"), tail=data.get("tail", ()))
    if kind is EndKind.STOPPED:
        end["reason"] = earlier_reason(reason)
    elif kind is EndKind.EXITED and end["signal"] is not None:
        kind = EndKind.SIGNALLED
    elif kind is EndKind.EXITED and reason:
        kind = EndKind.DESCRIBED
    return {**end, "kind": kind, "message": "" if kind is EndKind.STOPPED else reason}


_EARLIER_KINDS = {
    "succeeded": EndKind.EXITED,
    "failed": EndKind.EXITED,
    "stopped": EndKind.STOPPED,
    "lost": EndKind.LOST,
}
