"""The sentences for people about how workers and runs ended; everywhere else ends are data."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.cli.language import language
from orchestrator.config.host_ranges import fold
from orchestrator.control.run_record import Cause, HostView, RunRecord, Waits
from orchestrator.core.ends import SAVED_EXIT, SCHEDULER, End, EndKind, StopKind, StopReason
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.core.records import StallKind
from orchestrator.core.states import RankState, RunState

__all__ = [
    "cause_sentence",
    "clock_text",
    "duration",
    "end_note",
    "end_sentence",
    "go_on_note",
    "host_note",
    "ranks_text",
    "saved_note",
    "sight_notes",
    "stall_notes",
    "stop_sentence",
    "watch_note",
    "worker_name",
]

_STOPPED = {
    StopKind.RANKS_DONE: "all ranks are done",
    StopKind.LAUNCH_LAPSED: "the launch broke off before every host had started",
    StopKind.UNDONE: "the launch was undone",
    StopKind.RUN_DIRECTORY_REMOVED: "the run directory was removed",
    StopKind.SUPERVISOR_TERMINATED: "the supervisor was told to end (SIGTERM)",
    StopKind.GUARDIAN_ENDED: "the guardian, the supervisor's parent, was killed",
    StopKind.LEASE_ENDED: "no monitor was heard and no step was made for longer than `restart.lease`",
    StopKind.SUPERVISOR_GONE: "the supervisor is gone (was the host restarted?)",
}
_WAITS = {
    Waits.LOGIN: "a login that is refused says nothing about the run",
    Waits.FAULT: "the fault is on this machine",
    Waits.NO_HOST: "no host answers, so this machine's network may be away",
    Waits.STEPS: "the ranks make steps",
    Waits.NO_SIGN: "nothing else says that it is gone",
}
_MOST_MISSING = 16
# A monitor writes every ten seconds, and on a busy machine not to the second.
_STALE = 30.0


def worker_name(rank: int | None) -> str:
    """`rank 3`, `scheduler`; empty where no rank is known."""
    if rank is None:
        return ""
    return "scheduler" if rank == SCHEDULER else f"rank {rank}"


def cause_sentence(cause: Cause) -> str:
    """`rank 3 on b exited with code 1: out of memory of the device`, where its log says so much; where the
    evidence does not suffice, that it does not."""
    if cause.end.kind is EndKind.HANG:
        return _hang_sentence(cause.end, cause.host)
    if not cause.sure and cause.rank is None:
        how = end_sentence(cause.end)
        return f"not known: {ranks_text(cause.reporters[:1])} {how} first, and tells of the loss of another"
    sentence = " ".join(filter(None, [worker_name(cause.rank), "on", cause.host, end_sentence(cause.end)]))
    if not cause.sure:
        return f"not certain, probably {sentence}"
    return ": ".join(filter(None, [sentence, _kind_name(cause)]))


def _hang_sentence(end: End, host: str) -> str:
    """What was seen of a run that hung, and who may be why."""
    sentence = f"no rank made a new step for {duration(end.seconds)}, and their stacks stayed the same"
    where = f", in {end.message}" if end.message else ""
    if not end.missing:
        return f"{sentence}{where}"
    on = f" on {host}" if host else ""
    return f"{sentence}; suspect: {ranks_text(end.missing, _MOST_STALLED)}{on}{where}"


def _kind_name(cause: Cause) -> str:
    """What its log says that went wrong: `no space left on the disk`; empty where it does not."""
    end = cause.end
    if end.kind not in (EndKind.EXITED, EndKind.SIGNALLED) or not (end.evidence or end.tail):
        return ""
    from orchestrator.control.cause import kind_of  # late: of a run that failed alone
    from orchestrator.diagnosis.signatures import KINDS

    kind = kind_of(cause)
    if kind not in KINDS:
        return ""
    return KINDS[kind].name_zh if language() == "zh" else KINDS[kind].name_en


def host_note(view: HostView, *, counting: bool = True) -> str:
    """Why a host is not heard, and what that means: whether it is waited for, and until when."""
    if view.lost or view.waits not in _WAITS:
        return view.error
    why = _WAITS[view.waits]
    limit = "" if view.limit is None else f", until it has been silent for {view.limit:g} s"
    if counting:
        limit += f" ({view.silent:.0f} s so far)"
    return f"{view.error}; not lost: {why}{limit}"


def watch_note(record: RunRecord) -> str:
    """Who watches the run, where that is not as it should be; else empty."""
    left = [name for name, view in record.hosts.items() if view.may_have_workers]
    if record.state.is_terminal:
        return _left_note(record, left)
    if record.elsewhere:
        when = clock_text(record.watched or record.updated)
        return f"its monitor lives on {record.elsewhere}; this is what it wrote last, of {when}"
    if record.unwatched is None:
        return _stale_note(record)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.unwatched))
    return f"nobody has watched this run since {since}: its monitor has died; another one is started"


def _left_note(record: RunRecord, left: Sequence[str]) -> str:
    """What there may be on hosts that did not answer when the run was over."""
    if left:
        return f"workers may be left on {fold(left)}, lost before the run ended; not stopped yet"
    held = () if record.held is None else record.held.at(record.watched)
    if record.held is None or not held:
        return ""
    until = clock_text(record.held.until)
    return f"devices may be held for it on {fold(held)} until {until}: that none follows was not heard there"


def go_on_note(record: RunRecord) -> str:
    """How a run that has ended before its time goes on; empty where it has not, or never began."""
    if record.state not in (RunState.FAILED, RunState.STOPPED) or not record.has_started:
        return ""
    return f"Go on with it: orchestrate resume {record.run_id}"


def sight_notes(record: RunRecord) -> list[str]:
    """Since when nothing is known of hosts of a run that goes on, a line for each reason."""
    if record.state.is_terminal:
        return []
    blind: dict[str, list[str]] = {}
    for name, view in record.hosts.items():
        if view.error and not view.lost:
            blind.setdefault(_BLIND.get(view.waits, "they do not answer"), []).append(name)
    lines = []
    for why, names in blind.items():
        views = [record.hosts[name] for name in names]
        since = min((view.blind_since or view.last_contact or record.created) for view in views)
        lines.append(f"nothing is known of {fold(names)} since {clock_text(since)}: {why}")
    stale = {name: view.stale_since for name, view in record.hosts.items() if view.stale_since is not None}
    if stale:
        since = min(stale.values())
        lines.append(
            f"{fold(stale)} answers, but its supervisor has written no status since {clock_text(since)}"
        )
    return lines


def stall_notes(record: RunRecord) -> list[str]:
    """Which ranks run and do not go on, where, and since when: a line for each way.

    That no step came is for who sees all hosts to say: a supervisor's word for it counts where nobody does.
    """
    if record.state.is_terminal:
        return []
    is_watched = bool(record.watched) and record.unwatched is None
    found: dict[StallKind, list[tuple[float, int, str]]] = {}
    for name, view in record.hosts.items():
        for rank in view.ranks():
            if rank.stalled is None or (rank.stalled is StallKind.NO_STEP and is_watched):
                continue
            if rank.state is RankState.RUNNING:
                ours = view.ours(rank.stalled_since or record.updated)
                found.setdefault(rank.stalled, []).append((ours, rank.rank, name))
    lines = []
    for kind in sorted(found, key=list(_STALLS).index):
        stalled = found[kind]
        ranks = ranks_text(tuple(rank for _, rank, _ in stalled), _MOST_STALLED)
        hosts = fold(dict.fromkeys(name for _, _, name in stalled))
        first = min(moment for moment, _, _ in stalled)
        lines.append(f"{ranks} on {hosts}: {_STALLS[kind]} since {clock_text(first)}")
    return lines


# Those who are stopped or blocked come first: the others may only wait for them.
_STALLS = {
    StallKind.STOPPED: "stopped by a signal or a debugger",
    StallKind.BLOCKED: "blocked in the kernel (a disk or a file system that hangs?)",
    StallKind.NO_STEP: "no new step",
}
_STUCK = "a process there was killed and does not end (blocked in the kernel)"
_MOST_STALLED = 8
_BLIND = {
    Waits.LOGIN: "logins are refused",
    Waits.FAULT: "the fault is on this machine",
    Waits.NO_HOST: "no host answers",
}


def clock_text(moment: float) -> str:
    """The time, with the day where that is another."""
    when, today = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M:%S" if when[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", when)


def duration(seconds: float) -> str:
    """`7s`, `3m 07s`, `2h 05m`, `1d 02h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def _stale_note(record: RunRecord) -> str:
    """Of a run whose monitor lives, and has nonetheless written nothing for a while."""
    is_watched = record.watched and record.state in (RunState.STARTING, RunState.RUNNING)
    if not is_watched or time.time() - record.watched < _STALE:
        return ""
    when = time.strftime("%H:%M:%S", time.localtime(record.watched))
    return f"this is of {when}: the monitor has written nothing since then (full disk, or does it hang?)"


def end_sentence(end: End) -> str:
    """What the worker did, as the rest of a sentence that begins with its name."""
    if end.kind is EndKind.DESCRIBED:
        return end.message or "failed"
    if end.kind is EndKind.NO_FIRST_STEP:
        return _no_first_step(end)
    if end.kind is EndKind.HANG:
        return f"made no new step for {duration(end.seconds)}, nor did any other"
    if end.kind is EndKind.NOT_STARTED:
        return f"failed: cannot start {end.message}"
    if end.kind is EndKind.LOST:
        return f"was lost: {end.message or stop_sentence(end.reason) or _STUCK}"
    if end.kind is EndKind.SUPERVISOR_ENDED:
        return f"failed: {stop_sentence(end.reason)}"
    if end.signal is not None:
        return f"was killed by signal {end.signal}"
    return "failed" if end.exit_code is None else f"exited with code {end.exit_code}"


def end_note(end: End) -> str:
    """What a table says beside a worker's state. That a stopped one got a signal is no news."""
    if end.kind is EndKind.STOPPED:
        saved = "" if end.saved is None else f"saved step {end.saved}"
        return ", ".join(filter(None, [stop_sentence(end.reason), saved]))
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


def saved_note(record: RunRecord) -> str:
    """Which step the ranks of a run saved that was stopped; empty where none did."""
    ends = [rank.end for rank in record.ranks() if rank.end is not None and rank.end.exit_code == SAVED_EXIT]
    stopped = [end for end in ends if end.kind is EndKind.STOPPED]
    if record.state is not RunState.STOPPED or not stopped:
        return ""
    steps = sorted({end.saved for end in stopped if end.saved is not None})
    if len(stopped) < record.world_size or len(steps) != 1:
        told = f", of step {', '.join(map(str, steps))}" if steps else ""
        return f"{len(stopped)} of {record.world_size} ranks saved a checkpoint when they were stopped{told}"
    return f"Saved step {steps[0]} when it was stopped"


def stop_sentence(reason: StopReason | None) -> str:
    """Why workers were made to end; empty where nobody said."""
    if reason is None:
        return ""
    if reason.kind is StopKind.WORKER_FAILED and reason.end is not None and reason.end.kind is EndKind.HANG:
        return f"it hung: {_hang_sentence(reason.end, reason.host)}"
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
