"""Following a run on the terminal until it ends: live where there is one, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.live import Live

from orchestrator.cli.live_view import PlainReport, live_view
from orchestrator.cli.render_run import summary
from orchestrator.control.monitor_process import monitor_pid
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.control.runs import attach, interrupt_launch
from orchestrator.core.errors import Interrupted
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState

__all__ = ["follow"]

_INTERVAL = 0.2


def follow(control: ControlDir, *, until_started: bool = False, warn: bool = False) -> int:
    """Show the run until it has ended (or started) and return its exit code.

    With `warn` what the checks before the start doubted goes to stderr, once, as soon as it is known.
    Ctrl-C undoes a launch that is under way and detaches from a run that has started.
    """
    console = Console()
    load = _loader(control, warn)
    try:
        if console.is_terminal:
            record = _follow_live(load, console, until_started)
        else:
            record = _follow_plainly(load, until_started)
    except KeyboardInterrupt:
        return _interrupted(control)
    if record.state.is_terminal:
        console.print(summary(record, control), highlight=False, soft_wrap=True)
    else:
        click.echo(f"{control.run_id} is {record.state}; follow it with: orchestrate attach {control.run_id}")
    for line in record.errors:
        click.echo(f"orchestrate: {line}", err=True)
    return record.exit_code or 0


def _loader(control: ControlDir, warn: bool) -> Callable[[], RunRecord]:
    """What loads the run's newest record; the first one that has warnings has them told."""
    is_told = not warn

    def load() -> RunRecord:
        nonlocal is_told
        record = _next(control)
        if record.warnings and not is_told:
            is_told = True
            for line in record.warnings:
                click.echo(f"orchestrate: warning: {line}", err=True)
        return record

    return load


def _follow_live(load: Callable[[], RunRecord], console: Console, until_started: bool) -> RunRecord:
    record = load()
    # What is written to a terminal meanwhile appears above the view; elsewhere it is in nobody's way.
    live = Live(
        live_view(record),
        console=console,
        refresh_per_second=8,
        transient=True,
        redirect_stderr=sys.stderr.isatty(),
    )
    with live:
        while not _is_done(record, until_started):
            time.sleep(_INTERVAL)
            record = load()
            live.update(live_view(record))
    if not record.errors and not until_started:
        console.print(live_view(record))
    return record


def _follow_plainly(load: Callable[[], RunRecord], until_started: bool) -> RunRecord:
    record = load()
    report = PlainReport(sys.stdout)
    report.show(record)
    while not _is_done(record, until_started):
        time.sleep(_INTERVAL)
        record = load()
        report.show(record)
    return record


def _next(control: ControlDir) -> RunRecord:
    record = read_record(control)
    if record.state.is_terminal or monitor_pid(control) is not None:
        return record
    # It may have written its last record in between; else it has died, and another takes its place.
    attach(control)
    return read_record(control)


def _is_done(record: RunRecord, until_started: bool) -> bool:
    return record.state.is_terminal or (until_started and record.state is RunState.RUNNING)


def _interrupted(control: ControlDir) -> int:
    if read_record(control).state is RunState.PREPARING:
        click.echo("\ninterrupted: undoing the launch", err=True)
        interrupt_launch(control)
        return Interrupted.exit_code
    click.echo(f"\ndetached; the run goes on. Back to it: orchestrate attach {control.run_id}", err=True)
    click.echo(f"End it: orchestrate stop {control.run_id}", err=True)
    return 0
