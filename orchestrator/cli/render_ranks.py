"""The table of a run's ranks: a row each while they fit a screen, then a row for those that are alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from orchestrator.cli.live_view import GRAVEST, STYLES, sign_of
from orchestrator.cli.sentences import end_note, host_note, worker_name
from orchestrator.config.host_ranges import fold
from orchestrator.control.run_record import Cause, HostView, RunRecord
from orchestrator.core.ends import End, EndKind, StopKind
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RankState

__all__ = ["MOST_RANKS", "folded_view", "ranks_view"]

# With more ranks than this a row each would not fit a screen.
MOST_RANKS = 16
_MOST_KINDS = 6
_MOST_SPANS = 4
_LONGEST_HOSTS = 30
_LONGEST_NOTE = 70


def ranks_view(record: RunRecord) -> Table:
    """One row per rank."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("RANK", "HOST", "DEVICE", "STATE", "PID", "STEP", "LOSS"):
        table.add_column(
            column, justify="right" if column in ("RANK", "DEVICE", "PID", "STEP", "LOSS") else "left"
        )
    table.add_column("NOTE", overflow="fold")
    for name, view in record.hosts.items():
        _add_host(table, name, view, record.cause)
    return table


def _add_host(table: Table, name: str, view: HostView, cause: Cause | None) -> None:
    if not view.ranks():
        table.add_row("", name, "", "unknown", "", "", "", host_note(view))
    for rank in view.ranks():
        table.add_row(
            str(rank.rank),
            name,
            str(rank.device_id),
            _state(rank.state),
            str(rank.process.pid) if rank.process else "",
            str(rank.progress.get("step", "")),
            _loss(rank),
            _note(rank, view, cause),
        )


@dataclass(slots=True)
class _Kind:
    """Ranks of which the same is to be said."""

    state: RankState | None
    note: str
    ranks: list[int] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


def folded_view(record: RunRecord) -> Table:
    """One row for all ranks of one state and note, the gravest first, and what is left in one line."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("RANKS", "STATE", "STEP", "WHICH", "HOSTS"):
        table.add_column(column, justify="right" if column == "RANKS" else "left", no_wrap=column != "WHICH")
    table.add_column("NOTE", overflow="fold")
    kinds = _kinds(record)
    for kind in kinds[:_MOST_KINDS]:
        table.add_row(
            str(len(kind.ranks) or ""),
            "unknown" if kind.state is None else _state(kind.state),
            fold_numbers([min(kind.steps), max(kind.steps)], "-") if kind.steps else "",
            fold_numbers(kind.ranks, most=_MOST_SPANS),
            _cut(fold(list(dict.fromkeys(kind.hosts))), _LONGEST_HOSTS),
            _cut(kind.note, _LONGEST_NOTE),
        )
    if rest := kinds[_MOST_KINDS:]:
        count = sum(len(kind.ranks) for kind in rest)
        table.add_row(str(count), "others", "", "", "", f"in {len(rest)} ways; `--ranks` has a row for each")
    return table


def _kinds(record: RunRecord) -> list[_Kind]:
    found: dict[tuple[RankState | None, str], _Kind] = {}
    culprit = record.cause.rank if record.cause is not None else None
    for name, view in record.hosts.items():
        if not view.ranks():
            found.setdefault((None, host_note(view)), _Kind(None, host_note(view))).hosts.append(name)
        for rank in view.ranks():
            note = _note(rank, view, record.cause)
            kind = found.setdefault((rank.state, note), _Kind(rank.state, note))
            kind.ranks.append(rank.rank)
            kind.hosts.append(name)
            if isinstance(step := rank.progress.get("step"), int):
                kind.steps.append(step)
    return sorted(
        found.values(),
        key=lambda kind: (culprit not in kind.ranks, (kind.state and GRAVEST.index(kind.state)) or 0),
    )


def _state(state: RankState) -> Text:
    return Text(f"{sign_of(state)} {state}", style=STYLES[state][0])


def _loss(rank: RankStatus) -> str:
    loss = rank.progress.get("loss")
    return f"{loss:.4f}" if isinstance(loss, float) else ""


def _note(rank: RankStatus, view: HostView, cause: Cause | None) -> str:
    """Of a rank that was stopped for the cause, whose it is: what became of that stands above the table."""
    end = rank.end
    if end is None:
        return host_note(view)
    if cause is not None and cause.rank is not None and end.saved is None and _is_victim(end, cause):
        return f"because of {worker_name(cause.rank)}"
    return end_note(end)


def _is_victim(end: End, cause: Cause) -> bool:
    reason = end.reason
    if end.kind is not EndKind.STOPPED or reason is None or reason.kind is not StopKind.WORKER_FAILED:
        return False
    return reason.rank == cause.rank and reason.host in ("", cause.host)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
