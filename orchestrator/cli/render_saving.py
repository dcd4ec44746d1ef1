"""What saving costs a job, and how often to save, for people and as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from orchestrator.checkpoint.save_interval import BYTES_COPIED, BYTES_WRITTEN, DEFAULT_SOURCE
from orchestrator.cli.render_sizing import LABEL, sized
from orchestrator.cli.sentences import duration
from orchestrator.cli.terminal import wrapped
from orchestrator.config.job import JobCheckpoint
from orchestrator.sizing.saving import Saving

__all__ = ["saving_data", "saving_view"]


def saving_view(options: JobCheckpoint, saving: Saving, *, width: int = 80) -> Text:
    """Memory of a save, and the interval at which saves and failures cost least; `width` in columns."""
    return Text("\n".join(part for line in _lines(options, saving) for part in wrapped(line, width, LABEL)))


def _lines(options: JobCheckpoint, saving: Saving) -> Iterator[str]:
    what = f"{sized(saving.shard)} of a rank"
    if options.asynchronous:
        what += f", copied into its host's memory: up to {sized(saving.snapshots)} of a host"
    yield f"a checkpoint             {what}"
    steps = "" if saving.steps is None else f", {saving.steps} steps"
    now = " (save_every: auto does so)" if options.save_every == "auto" else ""
    each = f"every {_time(saving.interval)}{steps}{now}"
    cost = f"saves, and what failures undo, cost {saving.cost:.2%} of the time then"
    yield f"how often to save        {each}: {cost}"
    left = " " * LABEL
    yield f"{left}a save holds the steps up for {_time(saving.stall)}: {_stall(options, saving)}"
    yield f"{left}a failure comes every {_time(saving.mtbf)}: {_failures(options, saving)}"


def _stall(options: JobCheckpoint, saving: Saving) -> str:
    if saving.measured_in:
        return f"measured in {saving.measured_in}"
    rate, what = (BYTES_COPIED, "copied") if options.asynchronous else (BYTES_WRITTEN, "written")
    return f"assumed, {rate / 1e9:g} GB/s {what}"


def _failures(options: JobCheckpoint, saving: Saving) -> str:
    if saving.failures:
        return f"{saving.failures} of this job's earlier runs"
    return "checkpoint.mtbf" if options.mtbf is not None else f"assumed, {DEFAULT_SOURCE}"


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return duration(seconds) if seconds < 2 * 86_400 else f"{seconds / 86_400:,.0f} days"


def saving_data(saving: Saving) -> dict[str, Any]:
    """Bytes and seconds."""
    return {
        "shard": saving.shard,
        "snapshots_of_a_host": saving.snapshots,
        "stall_s": round(saving.stall, 3),
        "stall_measured_in": saving.measured_in or None,
        "mtbf_s": round(saving.mtbf, 1),
        "failures": saving.failures,
        "interval_s": round(saving.interval, 1),
        "save_steps": saving.steps,
        "cost": round(saving.cost, 6),
    }
