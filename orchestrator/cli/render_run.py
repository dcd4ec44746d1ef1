"""Runs as text and tables for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.account_lines import account_data, account_line, run_account
from orchestrator.cli.attempt_notes import attempt_name, attempt_notes, decided_line, without_attempts
from orchestrator.cli.copy_notes import copies_note
from orchestrator.cli.decision_sentences import decision_sentence
from orchestrator.cli.health_notes import health_notes, phase_of
from orchestrator.cli.language import language
from orchestrator.cli.live_view import cells, header, notes, progress_bar, progress_of
from orchestrator.cli.render_ranks import MOST_RANKS, folded_view, ranks_view
from orchestrator.cli.sentences import (
    cause_sentence,
    duration,
    end_sentence,
    ranks_text,
    saved_note,
    stop_sentence,
    watch_note,
)
from orchestrator.cli.spare_notes import spares_line
from orchestrator.cli.terminal import Wrapped
from orchestrator.config.tasks import TRAINING
from orchestrator.control.health_findings import FindingKind
from orchestrator.control.run_record import RunRecord
from orchestrator.core.codec import to_json
from orchestrator.core.ends import SCHEDULER, End, EndKind, label_of
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RunState
from orchestrator.core.visible_text import visible

__all__ = ["record_json", "runs_table", "status_view", "summary", "summary_data"]

_TAIL_SHOWN = 10
# Of a run of many ranks, whose table takes up more of the screen.
_TAIL_OF_MANY = 6
_QUOTE = "  | "
_ROW = 76  # characters beside the bar, on a terminal of 80
_MOST_LINES = 12
_MOST_SPANS = 8


def summary(record: RunRecord, control: ControlDir) -> Text:
    """How the run ended, and what to do next."""
    took = duration((record.ended or time.time()) - record.created)
    text = Text()
    which = f" ({name})" if (name := attempt_name(record)) else ""
    text.append(f"{record.run_id}{which} {record.state} after {took}\n")
    if record.cause is not None:
        text.append_text(_cause(record))
    elif note := saved_note(record):
        text.append(f"{note}\n")
    elif record.state is RunState.SUCCEEDED and record.task in TRAINING:
        text.append(f"Next: orchestrate collect-ckpt {record.run_id}\n")
    elif record.errors:
        text.append(f"The monitor's log: {control.monitor_log}\n", style="dim")
    if line := decided_line(record.attempts[-1]):
        text.append(f"Decided: {line}\n")
    if line := account_line(run_account(record), language()):
        text.append(f"{line[0].upper()}{line[1:]}\n")
    text.rstrip()
    return text


def _cause(record: RunRecord, *, most_tail: int = _TAIL_SHOWN) -> Text:
    text = Text()
    for line, style in _cause_lines(record, most_tail):
        text.append(f"{line}\n", style=style)
    return text


def _cause_lines(record: RunRecord, most_tail: int) -> Iterator[tuple[str, str]]:
    """What is said of the cause, each line with its style; those that quote begin with `  | `."""
    cause = record.cause
    if cause is None:
        return
    when = time.strftime("%H:%M:%S", time.localtime(cause.time))
    yield f"Cause: {cause_sentence(cause)} at {when}", "bold red"
    for line in _tail(cause.end.tail, most_tail):
        yield f"{_QUOTE}{line}", ""
    if record.warnings:
        yield "Doubtful before the start:", ""
    for line in record.warnings[:_MOST_LINES]:
        yield f"{_QUOTE}{line}", ""
    if record.victims:
        yield f"Ended because of it: {ranks_text(record.victims, most=_MOST_SPANS)}", ""
    if cause.rank is not None and cause.rank != SCHEDULER:
        yield f"Whole log: orchestrate logs {record.run_id} --rank {cause.rank}", ""
    yield f"On what evidence: orchestrate diagnose {record.run_id}", ""


def _tail(lines: Sequence[str], most: int) -> list[str]:
    """The last lines that take up no more than `most` rows of a screen; a longer one is cut."""
    shown: list[str] = []
    room = most
    for line in reversed(lines):
        rows = 1 + len(line) // _ROW
        if rows > room and shown:
            break
        shown.append(line if rows <= room else f"{line[: room * _ROW - 3]}...")
        room -= rows
        if room <= 0:
            break
    return shown[::-1]


def status_view(record: RunRecord, *, every_rank: bool = False) -> RenderableType:
    """What `status` prints: how the run is and why, how far it is, then its ranks.

    More ranks than fit a screen share rows with their likes, unless `every_rank` is to have its own.
    """
    moment = record.ended or time.time()
    is_small = record.world_size <= MOST_RANKS
    parts: list[RenderableType] = [header(record, moment)]
    parts += [Wrapped(note, "dim") for note in attempt_notes(record)]
    if note := watch_note(record):
        parts.append(Text(note, style="yellow"))
    parts += [Text(note, style=style) for note, style in notes(record)]
    if line := copies_note(record):
        parts.append(Wrapped(line, "dim"))
    if line := account_line(run_account(record), language()):
        parts.append(Wrapped(line, "dim"))
    if line := spares_line(record):
        parts.append(Wrapped(line, "", 8))
    if record.cause is not None and record.state is not RunState.RESTARTING:
        lines = _cause_lines(record, _TAIL_SHOWN if is_small else _TAIL_OF_MANY)
        parts += [Wrapped(line, style, _indent_of(line)) for line, style in lines]
        parts.append(Text(""))
    if note := saved_note(record):
        parts.append(Text(note))
    parts += [Text(line, style="red") for line in record.errors[:_MOST_LINES]]
    if len(record.errors) > _MOST_LINES:
        parts.append(Text(f"and {len(record.errors) - _MOST_LINES} more: `--json` has them all", style="red"))
    if record.state.is_terminal and not record.has_started:
        return Group(*parts)  # a launch that came to nothing: there are no ranks
    parts += progress_bar(record)
    if every_rank or is_small:
        parts += [*([cells(record)] if is_small else []), Text(""), ranks_view(record)]
    else:
        parts += [Text(""), folded_view(record)]
    return Group(*parts)


def _indent_of(line: str) -> int:
    return len(_QUOTE) if line.startswith(_QUOTE) else 2


def runs_table(records: list[RunRecord], width: int = 80) -> RenderableType:
    """One row per run, newest first, no wider than `width`: first what matters less is left out.

    A name that is cut cannot be copied. Where even the rest is too wide, it is below the name.
    """
    rows = [_run_row(record) for record in reversed(records)]
    columns = [*_COLUMNS, *["NOTE"] * any(row["NOTE"] for row in rows)]
    for column in _LEFT_OUT:
        if _width(rows, columns) > width:
            columns.remove(column)
    if _width(rows, columns) > width:
        names = [Text(row["RUN"], no_wrap=True, overflow="ignore") for row in rows]
        rest = [Text("  " + "  ".join(filter(None, (row[each] for each in columns[1:])))) for row in rows]
        return Group(*(line for pair in zip(names, rest, strict=True) for line in pair))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


_COLUMNS = ("RUN", "STATE", "STARTED", "TOOK", "HOSTS", "RANKS", "STEP")
_LEFT_OUT = ("HOSTS", "TOOK", "RANKS", "STARTED")


def _run_row(record: RunRecord) -> dict[str, str]:
    progress = progress_of(record)
    total = f"/{progress.total_steps}" if progress and progress.total_steps else ""
    return {
        "RUN": record.run_id,
        "STATE": str(record.state),
        "STARTED": time.strftime("%m-%d %H:%M", time.localtime(record.created)),
        "TOOK": duration((record.ended or time.time()) - record.created),
        "HOSTS": str(len(record.hosts)),
        "RANKS": str(record.world_size),
        "STEP": f"{progress.step}{total}" if progress else "",
        "NOTE": ", ".join(filter(None, [attempt_name(record), _note(record)])),
    }


def _width(rows: list[dict[str, str]], columns: list[str]) -> int:
    widest = [
        max(cell_len(visible(text)) for text in (column, *(row[column] for row in rows)))
        for column in columns
    ]
    return sum(widest) + 2 * (len(columns) - 1)


def summary_data(record: RunRecord) -> dict[str, Any]:
    """What one asks first about a run, as data: state, step, loss, and the cause as a sentence."""
    progress, does = progress_of(record), phase_of(record)
    return {
        "run_id": record.run_id,
        "job": record.job,
        "task": record.task,
        "state": str(record.state),
        "phase": record.phase,
        "created": record.created,
        "ended": record.ended,
        "world_size": record.world_size,
        "hosts": list(record.hosts),
        "step": progress.step if progress else None,
        "total_steps": progress.total_steps if progress else None,
        "loss": progress.loss if progress else None,
        "tokens_per_s": progress.tokens_per_s if progress else None,
        "seconds_left": progress.remaining if progress else None,
        "seconds_without_step": progress.idle if progress else None,
        "doing": None if does is None else to_json(does),
        "not_well": health_notes(record),
        "cause": cause_sentence(record.cause) if record.cause is not None else None,
        "exit_code": record.exit_code,
        "unwatched": record.unwatched,
        "errors": list(record.errors),
        **({"attempt": record.attempts[-1].number} if attempt_name(record) else {}),
        **({"decided": line} if (line := decided_line(record.attempts[-1])) else {}),
    }


def _note(record: RunRecord) -> str:
    """That a run hangs, or that its monitor had died; who lists the runs starts another."""
    hang = next((each for each in record.health if each.kind is FindingKind.HANG), None)
    if hang is not None and not record.state.is_terminal:
        return f"hangs since {time.strftime('%m-%d %H:%M', time.localtime(hang.since))}"
    if record.unwatched is None:
        return ""
    return f"unwatched since {time.strftime('%m-%d %H:%M', time.localtime(record.unwatched))}"


def record_json(record: RunRecord) -> dict[str, Any]:
    """The record for `--json`, its summary on top; beside the ends are the labels and sentences of old."""
    account = account_data(run_account(record))
    head = {"summary": summary_data(record), "account": account}
    data: dict[str, Any] = {**head, **without_attempts(to_json(record))}
    _name_decisions(data["attempts"], record)
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


def _name_decisions(data: list[dict[str, Any]], record: RunRecord) -> None:
    """Beside what was decided is the sentence for it."""
    for item, attempt in zip(data, record.attempts, strict=True):
        if attempt.decision is not None:
            item["decision"]["sentence"] = decision_sentence(attempt.decision, language())


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
