"""How often a host or a device was the cause before: by the records of this control node's runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control.run_record import Cause, RunRecord, read_record
from orchestrator.control.runs import known_runs
from orchestrator.core.errors import RunNotFound
from orchestrator.diagnosis.evidence import Culprit

__all__ = ["History", "history_of"]

_MOST_RUNS = 200
_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class History:
    """Of the last `attempts` before this one, of all runs, those whose cause was the host, and those where it
    was this device: by the names of their runs, the newest first, a run with several attempts several times.
    """

    attempts: int = 0
    of_host: tuple[str, ...] = ()
    of_device: tuple[str, ...] = ()


def history_of(
    culprit: Culprit | None,
    *,
    without: str,
    root: Path | None = None,
    most: int = _MOST_RUNS,
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> History:
    """Look through the newest `most` runs, for at most so many seconds; of `without` through what was before
    the attempt in force."""
    if culprit is None or not culprit.host:
        return History()
    until, count = clock() + seconds, 0
    of_host, of_device = [], []
    for control in list(reversed(known_runs(root)))[:most]:
        if clock() > until:
            break
        try:
            record = read_record(control)
        except RunNotFound:
            continue
        causes = _causes(record)[int(control.run_id == without) :]
        count += len(causes)
        for cause in causes:
            if cause is not None and cause.sure and cause.host == culprit.host:
                of_host.append(control.run_id)
                if culprit.device is not None and _device_of(record, cause) == culprit.device:
                    of_device.append(control.run_id)
    return History(count, tuple(of_host), tuple(of_device))


def _causes(record: RunRecord) -> list[Cause | None]:
    """Those of all attempts, the newest first."""
    return [record.cause, *(attempt.cause for attempt in reversed(record.attempts[:-1]))]


def _device_of(record: RunRecord, cause: Cause) -> int | None:
    """The device of the rank that was the cause, as far as it is still on that host."""
    view = record.hosts.get(cause.host)
    ranks = view.status.ranks if view is not None and view.status is not None else ()
    return next((rank.device_id for rank in ranks if rank.rank == cause.rank), None)
