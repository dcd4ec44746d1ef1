"""How often a host or a device was the cause before: by the records of this control node's runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.control.runs import known_runs
from orchestrator.core.errors import RunNotFound
from orchestrator.diagnosis.evidence import Culprit

__all__ = ["History", "history_of"]

_MOST_RUNS = 200
_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class History:
    """Of the last `runs` before this one, those whose cause was the host, and those where it was this device.

    By their names, the newest first.
    """

    runs: int = 0
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
    """Look through the newest `most` runs but the one `without`, for at most so many seconds."""
    if culprit is None or not culprit.host:
        return History()
    until, count = clock() + seconds, 0
    of_host, of_device = [], []
    for control in [run for run in reversed(known_runs(root)) if run.run_id != without][:most]:
        if clock() > until:
            break
        try:
            record = read_record(control)
        except RunNotFound:
            continue
        count += 1
        if record.cause is None or not record.cause.sure or record.cause.host != culprit.host:
            continue
        of_host.append(control.run_id)
        if culprit.device is not None and _device_of(record) == culprit.device:
            of_device.append(control.run_id)
    return History(count, tuple(of_host), tuple(of_device))


def _device_of(record: RunRecord) -> int | None:
    """The device of the rank that was the cause."""
    assert record.cause is not None
    view = record.hosts.get(record.cause.host)
    ranks = view.status.ranks if view is not None and view.status is not None else ()
    return next((rank.device_id for rank in ranks if rank.rank == record.cause.rank), None)
