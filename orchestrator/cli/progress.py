"""How far a run is, in numbers, from the progress its ranks report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.monitor.record import RunRecord

__all__ = ["Progress", "duration", "progress_of"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the slowest rank is; `tokens_per_s` is of the whole run; `remaining` in seconds."""

    step: int
    total_steps: int
    loss: float | None
    lr: float | None
    tokens_per_s: float | None
    remaining: float | None


def progress_of(record: RunRecord) -> Progress | None:
    """The run's progress, or None while no rank has reported a step."""
    reports = [rank.progress for rank in record.ranks() if rank.progress.get("step") is not None]
    if not reports:
        return None
    slowest = min(reports, key=lambda report: int(report["step"]))
    step, total = int(slowest["step"]), int(slowest.get("total_steps") or 0)
    pace = _pace(slowest)
    remaining = (total - step) * pace if total and pace is not None else None
    return Progress(
        step, total, slowest.get("loss"), slowest.get("lr"), slowest.get("tokens_per_s"), remaining
    )


def _pace(report: Mapping[str, Any]) -> float | None:
    """Seconds a step, on average since the first report; None while there is only that one."""
    first = report.get("first") or {}
    if "time" not in report or "time" not in first or report["step"] <= first.get("step", report["step"]):
        return None
    return float((report["time"] - first["time"]) / (report["step"] - first["step"]))


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
