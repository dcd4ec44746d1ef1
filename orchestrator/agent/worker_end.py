"""The end of a worker's process, as it was seen, and what it means for its rank. Pure."""

from __future__ import annotations

import signal
from typing import Optional, Tuple

from orchestrator.core.ends import SAVED_EXIT, End, EndKind, StopReason
from orchestrator.core.record_class import dataclass, replace
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RankState

__all__ = ["Exit", "end_of"]

# How a process ends that breaks in native code.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


@dataclass(frozen=True)
class Exit:
    """A process that has ended, with `code` as of `wait` (negative for a signal), at `time` of the host.

    `was_done`: it had said that its work was done. `not_started`: why its program could not be run, where
    that was found out only when the process was there, as in a container.
    """

    rank: int
    code: int
    time: float
    was_done: bool = False
    tail: Tuple[str, ...] = ()
    evidence: Tuple[str, ...] = ()
    not_started: str = ""


def end_of(
    ended: Exit, status: RankStatus, was_signalled: bool, reason: Optional[StopReason]
) -> Tuple[End, RankState]:
    """The end of this rank and its state by it; `reason` is that of our signal, or else of a stop, if any."""
    step = status.progress.get("step")
    end = End(
        EndKind.EXITED if ended.code >= 0 else EndKind.SIGNALLED,
        ended.time,
        exit_code=ended.code if ended.code >= 0 else None,
        signal=-ended.code if ended.code < 0 else None,
        phase="" if status.phase is None else str(status.phase),
        step=step if isinstance(step, int) else None,
        tail=ended.tail if ended.code else (),
        evidence=ended.evidence if ended.code else (),
        saved=status.saved if ended.code == SAVED_EXIT else None,
    )
    if ended.not_started and ended.code > 0:
        end = End(EndKind.NOT_STARTED, ended.time, exit_code=ended.code, message=ended.not_started)
        return end, RankState.FAILED
    has_saved = ended.code == SAVED_EXIT and reason is not None
    if was_signalled or has_saved:
        return replace(end, kind=EndKind.STOPPED, reason=reason), RankState.STOPPED
    if -ended.code in _CRASHES and ended.was_done:
        end = replace(end, kind=EndKind.CRASHED_WHEN_DONE, tail=(), evidence=())
        return end, RankState.SUCCEEDED
    return end, RankState.FAILED if ended.code else RankState.SUCCEEDED
