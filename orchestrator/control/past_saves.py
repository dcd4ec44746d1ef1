"""What the earlier runs of a job show of its saves and failures, from the records of this control node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.control.run_record import AttemptRecord, RunRecord, read_record
from orchestrator.control.runs import known_runs
from orchestrator.core.errors import RunNotFound
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.sizing.saving import PastSaves

__all__ = ["past_saves", "saves_in"]

_MOST = 20  # runs, the newest; each record is read


def past_saves(job_name: str, root: Path | None = None) -> PastSaves:
    """Of the newest runs of this job; what cannot be read is passed over."""
    runs = [run for run in known_runs(root) if run.run_id.startswith(f"{job_name}-")]
    return saves_in(job_name, (record for run in runs[: -_MOST - 1 : -1] for record in _record(run)))


def _record(control: ControlDir) -> Iterator[RunRecord]:
    try:
        yield read_record(control)
    except RunNotFound:
        return


def saves_in(job_name: str, records: Iterable[RunRecord]) -> PastSaves:
    """Of records, the newest first; those of other jobs do not count."""
    newest, failures, device_seconds = PastSaves(), 0, 0.0
    for record in records:
        if record.job != job_name:
            continue
        for attempt in record.attempts:
            seconds = _trained(record, attempt)
            device_seconds += seconds * record.world_size
            failures += seconds > 0 and attempt.state is RunState.FAILED
        if not newest.run_id:
            newest = _newest(record)
    return PastSaves(newest.run_id, newest.stall, newest.write, newest.step, failures, device_seconds)


def _newest(record: RunRecord) -> PastSaves:
    known = [(rank.save_stall, rank.save_write) for rank in record.ranks()]
    stalls = [stall for stall, _ in known if stall is not None]
    if not stalls:
        return PastSaves()
    writes = [write for _, write in known if write is not None]
    return PastSaves(record.run_id, max(stalls), max(writes, default=None), record.step_interval)


def _trained(record: RunRecord, attempt: AttemptRecord) -> float:
    """The seconds of an attempt that made a step; one that failed before that tells nothing of a rate."""
    is_last = attempt is record.attempts[-1]
    steps = (rank.progress.get("step") for rank in record.ranks()) if is_last else (attempt.last_step,)
    if attempt.started is None or not any(steps):
        return 0.0
    ended = attempt.ended if attempt.ended is not None else record.updated
    return max(0.0, ended - attempt.started)
