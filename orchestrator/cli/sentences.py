"""The sentences for people about how workers and runs ended; everywhere else ends are data."""

from __future__ import annotations

from orchestrator.control.run_record import Cause
from orchestrator.core.ends import SCHEDULER, End, EndKind, StopKind, StopReason
from orchestrator.core.number_ranges import fold_numbers

__all__ = ["cause_sentence", "end_note", "end_sentence", "ranks_text", "stop_sentence", "worker_name"]

_STOPPED = {
    StopKind.RANKS_DONE: "all ranks are done",
    StopKind.LAUNCH_LAPSED: "the launch broke off before every host had started",
    StopKind.UNDONE: "the launch was undone",
    StopKind.RUN_DIRECTORY_REMOVED: "the run directory was removed",
    StopKind.SUPERVISOR_TERMINATED: "the supervisor was told to end (SIGTERM)",
    StopKind.SUPERVISOR_GONE: "the supervisor is gone (was the host restarted?)",
}
_MOST_MISSING = 16


def worker_name(rank: int | None) -> str:
    """`rank 3`, `scheduler`; empty where no rank is known."""
    if rank is None:
        return ""
    return "scheduler" if rank == SCHEDULER else f"rank {rank}"


def cause_sentence(cause: Cause) -> str:
    """`rank 3 on b exited with code 1`"""
    return " ".join(filter(None, [worker_name(cause.rank), "on", cause.host, end_sentence(cause.end)]))


def end_sentence(end: End) -> str:
    """What the worker did, as the rest of a sentence that begins with its name."""
    if end.kind is EndKind.DESCRIBED:
        return end.message or "failed"
    if end.kind is EndKind.NO_FIRST_STEP:
        return _no_first_step(end)
    if end.kind is EndKind.NOT_STARTED:
        return f"failed: cannot start {end.message}"
    if end.kind is EndKind.LOST:
        return f"was lost: {end.message or stop_sentence(end.reason)}"
    if end.kind is EndKind.SUPERVISOR_ENDED:
        return f"failed: {stop_sentence(end.reason)}"
    if end.signal is not None:
        return f"was killed by signal {end.signal}"
    return "failed" if end.exit_code is None else f"exited with code {end.exit_code}"


def end_note(end: End) -> str:
    """What a table says beside a worker's state. That a stopped one got a signal is no news."""
    if end.kind is EndKind.STOPPED:
        return stop_sentence(end.reason)
    if end.kind is EndKind.CRASHED_WHEN_DONE:
        return f"crashed at its exit (signal {end.signal}), after its work was done"
    parts = [f"signal {end.signal}"] if end.signal else []
    if end.exit_code:
        parts.append(f"exit code {end.exit_code}")
    if end.kind is EndKind.NOT_STARTED:
        parts.append(f"cannot start {end.message}")
    elif end.message or end.reason:
        parts.append(end.message or stop_sentence(end.reason))
    return ", ".join(parts)


def stop_sentence(reason: StopReason | None) -> str:
    """Why workers were made to end; empty where nobody said."""
    if reason is None:
        return ""
    if reason.kind is StopKind.WORKER_FAILED:
        what = end_sentence(reason.end) if reason.end is not None else "failed"
        return " ".join(filter(None, [worker_name(reason.rank), "on", reason.host, what]))
    if reason.kind is StopKind.SUPERVISOR_ENDED:
        killed_by = reason.end.signal if reason.end is not None else None
        how = "an error of its own" if killed_by is None else f"signal {killed_by}"
        return f"the supervisor on {reason.host} was ended by {how}"
    text = _STOPPED.get(reason.kind, reason.text)
    return f"{reason.host} has stopped: {text}" if reason.host else text


def ranks_text(ranks: tuple[int, ...], most: int | None = None) -> str:
    """`rank 0-3, 7, scheduler`; of more than `most` ranges the others are dots."""
    spans = fold_numbers((rank for rank in ranks if rank != SCHEDULER), ", ", most)
    return ", ".join(filter(None, [spans and f"rank {spans}", "scheduler" if SCHEDULER in ranks else ""]))


def _no_first_step(end: End) -> str:
    missing = ", ".join(str(rank) for rank in end.missing[:_MOST_MISSING])
    have = end.expected - len(end.missing)
    return f"made no step within {end.seconds:g} s ({have} of {end.expected} ranks have; missing: {missing})"
