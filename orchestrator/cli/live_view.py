"""The live view of a run: how far it is, made anew from the record at every refresh, or as plain lines."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.attempt_notes import DecisionLog, attempt_name
from orchestrator.cli.health_notes import health_notes, phase_note
from orchestrator.cli.language import output_encoding
from orchestrator.cli.sentences import duration, host_note, sight_notes, stall_notes, watch_note
from orchestrator.config.host_ranges import fold
from orchestrator.config.tasks import TRAINING
from orchestrator.control.health_findings import FindingKind
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.core.records import RankStatus, StallKind
from orchestrator.core.states import RankState, RunState

__all__ = [
    "GRAVEST",
    "STYLES",
    "PlainReport",
    "Progress",
    "cells",
    "duration",
    "header",
    "live_view",
    "notes",
    "progress_bar",
    "progress_line",
    "progress_of",
    "sign_of",
]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the slowest rank is; `tokens_per_s` is of the whole run; `remaining` in seconds.

    `loss` and `lr` are of the slowest one that tells them: they are never of an earlier step than `step`.

    `idle`: for so many seconds it has made no step, far longer than one takes; then it has no speed.
    """

    step: int
    total_steps: int
    loss: float | None
    lr: float | None
    tokens_per_s: float | None
    remaining: float | None
    idle: float | None = None


def progress_of(record: RunRecord) -> Progress | None:
    """The run's progress, or None while no rank has reported a step."""
    reports = [
        (rank.progress, rank, view)
        for view in record.hosts.values()
        for rank in view.ranks()
        if rank.progress.get("step") is not None
    ]
    if not reports:
        return None
    # Of the ranks of a host one tells its numbers, the others their step alone: of equals it is that one.
    slowest, rank, host = min(
        reports, key=lambda report: (int(report[0]["step"]), report[0].get("loss") is None)
    )
    step, total = int(slowest["step"]), int(slowest.get("total_steps") or 0)
    telling = [report for report, _, _ in reports if report.get("loss") is not None]
    told = min(telling, key=lambda report: int(report["step"]), default=slowest)
    loss, lr, speed = told.get("loss"), told.get("lr"), told.get("tokens_per_s")
    pace = _pace(slowest)
    goes_on = not record.state.is_terminal
    idle = _idle(record, rank, host, pace) if goes_on and (not total or step < total) else None
    if idle is not None:
        return Progress(step, total, loss, lr, None, None, idle)
    remaining = (total - step) * pace if total and pace is not None and goes_on else None
    return Progress(step, total, loss, lr, speed, remaining)


def _idle(record: RunRecord, rank: RankStatus, host: HostView, pace: float | None) -> float | None:
    """How many seconds old a rank's last report is, where the next one is long overdue or will not come."""
    report = rank.progress
    if "time" not in report or record.state is not RunState.RUNNING:
        return None
    idle = float(record.updated - host.ours(report["time"]))
    is_held_up = rank.stalled in (StallKind.STOPPED, StallKind.BLOCKED) or any(
        each.kind is FindingKind.HANG for each in record.health
    )
    return idle if is_held_up or idle > _expected(record, pace) else None


def _expected(record: RunRecord, pace: float | None) -> float:
    """Seconds within which the next step should be seen: hosts tell of theirs now and then."""
    if record.step_interval is None:
        return max(_LEAST_IDLE, _IDLE_STEPS * (pace or 0.0))
    told = max(_TOLD_EVERY, len(record.hosts) / _HOSTS_A_SECOND)
    return max(_LEAST_SEEN, _SEEN_STEPS * max(told, record.step_interval))


def _pace(report: Mapping[str, Any]) -> float | None:
    """Seconds a step, on average since the first report; None while there is only that one."""
    first = report.get("first") or {}
    if "time" not in report or "time" not in first or report["step"] <= first.get("step", report["step"]):
        return None
    return float((report["time"] - first["time"]) / (report["step"] - first["step"]))


_EVERY = 5.0
_LEAST_IDLE, _IDLE_STEPS = 60.0, 5.0
# The same where the monitor knows how far apart new steps are; hosts tell of them as `hosts.host_link` says.
_LEAST_SEEN, _SEEN_STEPS = 10.0, 3.0
_TOLD_EVERY, _HOSTS_A_SECOND = 2.0, 50.0


def progress_line(progress: Progress) -> str:
    """`step 40/400  loss 3.214  1,204 tokens/s  12s left`"""
    total = f"/{progress.total_steps}" if progress.total_steps else ""
    parts = [f"step {progress.step}{total}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_s is not None:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.idle is not None:
        parts.append(f"no new step seen for {duration(progress.idle)}")
    if progress.remaining is not None:
        parts.append(f"{duration(progress.remaining)} left")
    return "  ".join(parts)


class PlainReport:
    """Writes what has changed since the last call."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._said: dict[str, str] = {}
        self._not_well: list[str] = []
        self._decisions = DecisionLog()
        self._last_progress = (0, -_EVERY)

    def show(self, record: RunRecord) -> None:
        for line in self._decisions.news(record):
            self._write(line)
        which = f" ({name})" if (name := attempt_name(record)) else ""
        self._say("run", f"{record.run_id}{which}: {record.phase}")
        self._show_health(record)
        for name, view in record.hosts.items():
            if view.error or name in self._said:
                note = host_note(view, counting=False) or "reachable again"
                self._say(name, note if note.startswith(f"{name}: ") else f"{name}: {note}")
        self._show_progress(record)

    def _show_health(self, record: RunRecord) -> None:
        if note := watch_note(record):
            self._say("watch", note)
        if does := phase_note(record, counting=False):
            self._say("phase", does)
        health = health_notes(record, counting=False)
        for note in health:
            if note not in self._not_well:
                self._write(note)
        self._not_well = health
        stalls = stall_notes(record)
        if stalls or self._said.get("stalls"):
            self._say("stalls", "\n".join(stalls) or "all ranks go on again")

    def _show_progress(self, record: RunRecord) -> None:
        progress = progress_of(record)
        now = self._clock()
        if progress is None or progress.step == self._last_progress[0]:
            return
        if now - self._last_progress[1] >= _EVERY or record.state.is_terminal:
            self._last_progress = (progress.step, now)
            self._write(progress_line(progress))

    def _say(self, topic: str, text: str) -> None:
        if self._said.get(topic) != text:
            self._said[topic] = text
            self._write(text)

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


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
# The same for terminals whose encoding (GBK, Latin-1) has no such signs.
_PLAIN_SIGNS = {
    RankState.PENDING: ".",
    RankState.STARTING: "o",
    RankState.RUNNING: "*",
    RankState.UNREACHABLE: "?",
    RankState.SUCCEEDED: "+",
    RankState.FAILED: "x",
    RankState.STOPPED: "#",
    RankState.LOST: "!",
}
# What is to be seen first.
GRAVEST = (
    RankState.FAILED,
    RankState.LOST,
    RankState.UNREACHABLE,
    RankState.STOPPED,
    RankState.PENDING,
    RankState.STARTING,
    RankState.RUNNING,
    RankState.SUCCEEDED,
)
# With more hosts than this a row each would not fit a screen: those that are alike share one.
_MOST_ROWS = 16
_WIDEST_NAMES = 40
_RUN_STYLES = {
    RunState.SUCCEEDED: "bold blue",
    RunState.FAILED: "bold red",
    RunState.STOPPED: "bold magenta",
    RunState.RUNNING: "bold green",
}


def sign_of(state: RankState) -> str:
    """The cell's sign, as one that standard output has."""
    return STYLES[state][1] if _has_signs(output_encoding()) else _PLAIN_SIGNS[state]


@functools.cache
def _has_signs(encoding: str | None) -> bool:
    try:
        "".join(sign for _, sign in STYLES.values()).encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def live_view(record: RunRecord, *, now: float | None = None) -> RenderableType:
    """Header, bar with step, loss, speed and time left, a row of cells per host, and the legend."""
    moment = record.ended or (time.time() if now is None else now)
    parts: list[RenderableType] = [header(record, moment)]
    if note := watch_note(record):
        parts.append(Text(note, style="yellow"))
    parts += [Text(note, overflow="ellipsis", no_wrap=True, style=style) for note, style in notes(record)]
    return Group(*parts, *progress_bar(record), cells(record))


def notes(record: RunRecord) -> list[tuple[str, str]]:
    """What its ranks do but steps, and what is not well, each with a style."""
    does = [note] if (note := phase_note(record)) else []
    not_well = (*sight_notes(record), *health_notes(record), *stall_notes(record))
    return [*((note, "cyan") for note in does), *((note, "yellow") for note in not_well)]


def progress_bar(record: RunRecord) -> list[RenderableType]:
    """The bar with step, loss, speed and time left, or what is waited for; empty where there is nothing."""
    progress = progress_of(record)
    if progress is not None and progress.total_steps:
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(
            ProgressBar(total=progress.total_steps, completed=progress.step), Text(progress_line(progress))
        )
        return [bar]
    if record.state is RunState.RUNNING and record.task in TRAINING:
        return [Text("waiting for the first step (start, data, compilation)", style="dim")]
    return []


def header(record: RunRecord, moment: float) -> Text:
    """Run, phase, which attempt it is, ranks and time."""
    header = Text(overflow="ellipsis", no_wrap=True)
    header.append(record.run_id, style="bold")
    header.append("  ")
    header.append(record.phase, style=_RUN_STYLES.get(record.state, "bold cyan"))
    which = f"  {name}" if (name := attempt_name(record)) else ""
    header.append(f"{which}  {record.world_size} ranks  {duration(moment - record.created)}")
    return header


def cells(record: RunRecord) -> Table:
    """A row for each host, or for those that are alike; the gravest where all of them would be too many."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", overflow="ellipsis", no_wrap=True, max_width=_WIDEST_NAMES)
    table.add_column()
    table.add_column(style="dim", overflow="ellipsis", no_wrap=True)
    rows = _rows(record)
    for names in rows[:_MOST_ROWS]:
        view = record.hosts[names[0]]
        if len(names) == 1:
            row = Text().join(_cell(rank) for rank in view.ranks())
        else:
            row = _counts([rank.state for name in names for rank in record.hosts[name].ranks()])
        table.add_row(fold(names), row, Text(host_note(view), style="yellow"))
    if left := [name for names in rows[_MOST_ROWS:] for name in names]:
        table.add_row(f"{len(left)} more hosts", Text(), Text())
    return table


def _rows(record: RunRecord) -> list[list[str]]:
    """The hosts that share a row: each its own while there are few, then those that are alike.

    A launch that came to nothing has nothing to tell of hosts of which nothing is known.
    """
    hosts = {
        name: view
        for name, view in record.hosts.items()
        if view.status is not None or view.error or not record.state.is_terminal
    }
    if len(record.hosts) <= _MOST_ROWS:
        return [[name] for name in hosts]
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, view in hosts.items():
        alike.setdefault((*sorted(rank.state for rank in view.ranks()), view.error), []).append(name)
    return sorted(alike.values(), key=lambda names: _gravity(record.hosts[names[0]]))


def _gravity(view: HostView) -> int:
    return min(
        (GRAVEST.index(rank.state) for rank in view.ranks()), default=0 if view.error else len(GRAVEST)
    )


def _counts(states: list[RankState]) -> Text:
    """`● 128 ranks running`"""
    found = [(state, states.count(state)) for state in GRAVEST if state in states]
    return Text(", ").join(
        Text(f"{sign_of(state)} {count} ranks {state}", style=STYLES[state][0]) for state, count in found
    )


def _cell(rank: RankStatus) -> Text:
    return Text(f"{rank.rank}{sign_of(rank.state)} ", style=STYLES[rank.state][0])
