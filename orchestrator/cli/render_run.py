"""Runs as text and tables for people."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.live_view import STYLES, duration, live_view, progress_of
from orchestrator.cli.sentences import (
    cause_sentence,
    end_note,
    end_sentence,
    host_note,
    ranks_text,
    stop_sentence,
)
from orchestrator.config.worker_config import TRAINING
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.core.codec import to_json
from orchestrator.core.ends import SCHEDULER, End, EndKind, label_of
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RunState

__all__ = ["ranks_view", "record_json", "runs_table", "status_view", "summary"]

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
    text.append(f"Cause: {cause_sentence(cause)} at {when}\n", style="bold red")
    for line in cause.end.tail[-_TAIL_SHOWN:]:
        text.append(f"  | {line}\n")
    if record.warnings:
        text.append("Doubtful before the start:\n")
    for line in record.warnings:
        text.append(f"  | {line}\n")
    if record.victims:
        text.append(f"Ended because of it: {ranks_text(record.victims)}\n")
    if cause.rank is not None and cause.rank != SCHEDULER:
        text.append(f"Whole log: orchestrate logs {record.run_id} --rank {cause.rank}\n")
    return text


def status_view(record: RunRecord) -> RenderableType:
    """What `status` prints: the live view once, then a line per rank, then the cause."""
    parts: list[RenderableType] = [live_view(record), Text(""), ranks_view(record)]
    if record.cause is not None:
        parts += [Text(""), _cause(record)]
    parts += [Text(line, style="red") for line in record.errors]
    return Group(*parts)


def ranks_view(record: RunRecord) -> Table:
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
        table.add_row("", name, "", "unknown", "", "", "", host_note(view))
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
            end_note(rank.end) if rank.end else host_note(view),
        )


def runs_table(records: list[RunRecord]) -> Table:
    """One row per run, newest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    # A name that is cut cannot be copied: the other columns give way.
    table.add_column("RUN", no_wrap=True, min_width=max(len(record.run_id) for record in records))
    for column in ("STATE", "STARTED", "TOOK", "HOSTS", "RANKS", "STEP"):
        table.add_column(column, no_wrap=True)
    is_noted = any(record.unwatched is not None for record in records)
    if is_noted:
        table.add_column("NOTE", no_wrap=True)
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
            *[_unwatched(record)] * is_noted,
        )
    return table


def _unwatched(record: RunRecord) -> str:
    """That a run's monitor had died; who lists the runs starts another."""
    if record.unwatched is None:
        return ""
    return f"unwatched since {time.strftime('%m-%d %H:%M', time.localtime(record.unwatched))}"


def record_json(record: RunRecord) -> dict[str, Any]:
    """The record for `--json`; beside the ends there are the labels and sentences that programs know."""
    data: dict[str, Any] = to_json(record)
    data["victims"] = [label_of(rank) for rank in record.victims]
    if record.cause is not None:
        cause, end = record.cause, record.cause.end
        label = "" if cause.rank is None else label_of(cause.rank)
        data["cause"].update(label=label, what=end_sentence(end), tail=list(end.tail))
    for name, view in record.hosts.items():
        if view.status is not None:
            host = data["hosts"][name]["status"]
            host["stop_reason"] = stop_sentence(view.status.stop)
            for item, rank in zip(host["ranks"], view.status.ranks, strict=True):
                item.update(_flat_end(rank))
            if view.status.scheduler is not None:
                host["scheduler"].update(_flat_end(view.status.scheduler))
    return data


def _flat_end(rank: RankStatus) -> dict[str, Any]:
    end = rank.end or End(EndKind.DESCRIBED)
    return {
        "label": rank.label,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "ended": end.time,
        "reason": end.message or stop_sentence(end.reason),
        "tail": list(end.tail),
    }
