"""Runs as text and tables for people."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.live_view import STYLES, duration, live_view, progress_of
from orchestrator.control.run_record import TRAINING, HostView, RunRecord
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RankState, RunState

__all__ = ["rank_table", "runs_table", "status_view", "summary"]

_TAIL_SHOWN = 10


def summary(record: RunRecord, control: ControlDir) -> Text:
    """How the run ended, and what to do next."""
    took = duration((record.ended or time.time()) - record.created)
    text = Text()
    text.append(f"{record.run_id} {record.state} after {took}\n")
    if record.cause is not None:
        text.append_text(_cause(record))
    elif record.state is RunState.SUCCEEDED and record.task in TRAINING:
        text.append(f"Next: orchestrate collect-ckpt {record.run_id}\n")
    elif record.errors:
        text.append(f"The monitor's log: {control.monitor_log}\n", style="dim")
    text.rstrip()
    return text


def _cause(record: RunRecord) -> Text:
    cause = record.cause
    text = Text()
    if cause is None:
        return text
    when = time.strftime("%H:%M:%S", time.localtime(cause.time))
    label = cause.label.replace("_", " ")
    text.append(
        f"Cause: {label} on {cause.host} {cause.what} at {when}\n".replace("  ", " "), style="bold red"
    )
    for line in cause.tail[-_TAIL_SHOWN:]:
        text.append(f"  | {line}\n")
    if record.warnings:
        text.append("Doubtful before the start:\n")
    for line in record.warnings:
        text.append(f"  | {line}\n")
    if record.victims:
        text.append(f"Ended because of it: {_fold_ranks(record.victims)}\n")
    if cause.label.startswith("rank_"):
        text.append(f"Whole log: orchestrate logs {record.run_id} --rank {cause.label[5:]}\n")
    return text


def _fold_ranks(labels: tuple[str, ...]) -> str:
    ranks = sorted(int(label[5:]) for label in labels if label.startswith("rank_"))
    pieces: list[str] = []
    start = previous = None
    for rank in [*ranks, None]:
        if previous is not None and rank == previous + 1:
            previous = rank
            continue
        if start is not None:
            pieces.append(f"{start}-{previous}" if start != previous else f"{start}")
        start = previous = rank
    others = [label for label in labels if not label.startswith("rank_")]
    return ", ".join([f"rank {', '.join(pieces)}" if pieces else "", *others]).strip(", ")


def status_view(record: RunRecord) -> RenderableType:
    """What `status` prints: the live view once, then a line per rank, then the cause."""
    parts: list[RenderableType] = [live_view(record), Text(""), rank_table(record)]
    if record.cause is not None:
        parts += [Text(""), _cause(record)]
    parts += [Text(line, style="red") for line in record.errors]
    return Group(*parts)


def rank_table(record: RunRecord) -> Table:
    """One row per rank."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("RANK", "HOST", "DEVICE", "STATE", "PID", "STEP", "LOSS"):
        table.add_column(
            column, justify="right" if column in ("RANK", "DEVICE", "PID", "STEP", "LOSS") else "left"
        )
    table.add_column("NOTE", overflow="fold")
    for name, view in record.hosts.items():
        _add_host(table, name, view)
    return table


def _add_host(table: Table, name: str, view: HostView) -> None:
    if not view.ranks():
        table.add_row("", name, "", "unknown", "", "", "", view.error)
    for rank in view.ranks():
        style, sign = STYLES[rank.state]
        loss = rank.progress.get("loss")
        table.add_row(
            str(rank.rank),
            name,
            str(rank.device_id),
            Text(f"{sign} {rank.state}", style=style),
            str(rank.process.pid) if rank.process else "",
            str(rank.progress.get("step", "")),
            f"{loss:.4f}" if isinstance(loss, float) else "",
            _note(rank, view),
        )


def _note(rank: RankStatus, view: HostView) -> str:
    """What the state alone does not tell. That a stopped rank got a signal is no news."""
    if rank.state is RankState.STOPPED:
        return rank.reason
    parts = [rank.reason or view.error]
    if rank.exit_code:
        parts.insert(0, f"exit code {rank.exit_code}")
    if rank.signal:
        parts.insert(0, f"signal {rank.signal}")
    return ", ".join(part for part in parts if part)


def runs_table(records: list[RunRecord]) -> Table:
    """One row per run, newest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    # A name that is cut cannot be copied: the other columns give way.
    table.add_column("RUN", no_wrap=True, min_width=max(len(record.run_id) for record in records))
    for column in ("STATE", "STARTED", "TOOK", "HOSTS", "RANKS", "STEP"):
        table.add_column(column, no_wrap=True)
    for record in reversed(records):
        started = time.strftime("%m-%d %H:%M", time.localtime(record.created))
        progress = progress_of(record)
        table.add_row(
            record.run_id,
            str(record.state),
            started,
            duration((record.ended or time.time()) - record.created),
            str(len(record.hosts)),
            str(record.world_size),
            f"{progress.step}/{progress.total_steps}" if progress else "",
        )
    return table
