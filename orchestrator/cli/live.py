"""The live view of a run: one renderable, made anew from the record at every refresh."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.plain import progress_line
from orchestrator.cli.progress import duration, progress_of
from orchestrator.inventory import fold
from orchestrator.monitor.record import TRAINING, RunRecord
from orchestrator.records import RankStatus
from orchestrator.states import RankState, RunState

__all__ = ["STYLES", "live_view"]

# State -> colour and the cell's sign: without colour the sign alone must tell.
STYLES: dict[RankState, tuple[str, str]] = {
    RankState.PENDING: ("dim", "·"),
    RankState.STARTING: ("cyan", "○"),
    RankState.RUNNING: ("green", "●"),
    RankState.UNREACHABLE: ("yellow", "?"),
    RankState.SUCCEEDED: ("blue", "✓"),
    RankState.FAILED: ("bold red", "✗"),
    RankState.STOPPED: ("magenta", "■"),
    RankState.LOST: ("bold red", "!"),
}
# With more hosts than this a row each would not fit a screen: those that are alike share one.
_MOST_ROWS = 16
_RUN_STYLES = {
    RunState.SUCCEEDED: "bold blue",
    RunState.FAILED: "bold red",
    RunState.STOPPED: "bold magenta",
    RunState.RUNNING: "bold green",
}


def live_view(record: RunRecord, *, now: float | None = None) -> RenderableType:
    """Header, bar with step, loss, speed and time left, a row of cells per host, and the legend."""
    moment = record.ended or (time.time() if now is None else now)
    parts: list[RenderableType] = [_header(record, moment)]
    progress = progress_of(record)
    if progress is not None and progress.total_steps:
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(
            ProgressBar(total=progress.total_steps, completed=progress.step), Text(progress_line(progress))
        )
        parts.append(bar)
    elif record.state is RunState.RUNNING and record.task in TRAINING:
        parts.append(Text("waiting for the first step (start, data, compilation)", style="dim"))
    parts.append(_cells(record))
    return Group(*parts)


def _header(record: RunRecord, moment: float) -> Text:
    header = Text(overflow="ellipsis", no_wrap=True)
    header.append(record.run_id, style="bold")
    header.append("  ")
    header.append(record.phase, style=_RUN_STYLES.get(record.state, "bold cyan"))
    header.append(f"  {record.world_size} ranks  {duration(moment - record.created)}")
    return header


def _cells(record: RunRecord) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_column(style="dim", overflow="ellipsis", no_wrap=True)
    together = _folded(record) if len(record.hosts) > _MOST_ROWS else {}
    for state, names in together.items():
        style, sign = STYLES[state]
        ranks = sum(len(record.hosts[name].ranks()) for name in names)
        table.add_row(fold(names), Text(f"{sign} {ranks} ranks {state}", style=style), Text())
    alone = set(record.hosts).difference(*together.values())
    for name, view in record.hosts.items():
        if name not in alone:
            continue
        row = Text()
        for rank in view.ranks():
            row.append_text(_cell(rank))
        table.add_row(name, row, Text(view.error, style="yellow"))
    return table


def _folded(record: RunRecord) -> dict[RankState, list[str]]:
    """Hosts on which all ranks are in one state and nothing else is to be told, by that state."""
    found: dict[RankState, list[str]] = {}
    for name, view in record.hosts.items():
        states = {rank.state for rank in view.ranks()}
        if len(states) == 1 and not view.error:
            found.setdefault(states.pop(), []).append(name)
    return found


def _cell(rank: RankStatus) -> Text:
    style, sign = STYLES[rank.state]
    return Text(f"{rank.rank}{sign} ", style=style)
