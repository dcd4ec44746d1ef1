"""Following a run on the terminal until it ends: live where there is one, plain lines where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
from rich.live import Live

from orchestrator import api
from orchestrator.api import Run
from orchestrator.cli.attempt_notes import DecisionLog, restarts_by_itself
from orchestrator.cli.live_view import PlainReport, live_view
from orchestrator.cli.options import print_json
from orchestrator.cli.render_run import record_json, summary
from orchestrator.cli.sentences import go_on_note
from orchestrator.cli.spare_notes import spare_warnings
from orchestrator.cli.terminal import Console, Wrapped
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.control.runs import interrupt_launch
from orchestrator.core.errors import Interrupted
from orchestrator.core.states import RunState

__all__ = ["follow", "interrupted"]


def follow(
    control: Run,
    *,
    until_started: bool = False,
    warn: bool = False,
    as_json: bool = False,
    attempt: int | None = None,
) -> int:
    """Show the run until it has ended (or started), over all its attempts, and return its exit code.

    With `warn` what the checks before the start doubted goes to stderr, once, as soon as it is known. With
    `as_json` nothing is shown but the record at the end. Ctrl-C undoes a launch that is under way and
    detaches from a run that has started, also while it restarts. `attempt` is the one that was launched, if
    it is known: where it comes to nothing, that is told and its exit code returned.
    """
    try:  # from the first line on: the monitor is at work, and a Ctrl-C that is missed undoes nothing
        console = Console()
        records = _records(control, until_started, warn)
        launched = attempt or read_record(control).attempts[-1].number
        is_live = console.is_terminal and not as_json
        record = _follow_live(records, console) if is_live else _follow_plainly(records, quiet=as_json)
    except KeyboardInterrupt:
        return interrupted(control)
    refused = record.refused if record.refused and record.refused.number == launched else None
    if as_json:
        print_json(record_json(record))
        return (refused or record).exit_code or 0
    if refused is not None:  # another attempt came to nothing, so that the one before is in force again
        for line in refused.errors:
            click.echo(f"orchestrate: {line}", err=True)
        return refused.exit_code
    if is_live and not record.errors and not until_started:
        console.print(live_view(record))
    if record.state.is_terminal:
        console.print(summary(record, control), highlight=False, soft_wrap=True)
        if line := go_on_note(record):
            click.echo(line)
    else:
        click.echo(f"{control.run_id} is {record.state}; follow it with: orchestrate attach {control.run_id}")
    for line in record.errors:
        click.echo(f"orchestrate: {line}", err=True)
    return record.exit_code or 0


def _records(control: Run, until_started: bool, warn: bool) -> Iterator[RunRecord]:
    """The run's records until it has ended or started; each warning is told once."""
    told: set[str] = set()
    for record in api.watch(control):
        for line in (*record.warnings, *spare_warnings(record)) if warn else ():
            if line not in told:
                told.add(line)
                click.echo(f"orchestrate: warning: {line}", err=True)
        yield record
        if until_started and record.state is RunState.RUNNING:
            return


def _follow_live(records: Iterator[RunRecord], console: Console) -> RunRecord:
    last = next(records)
    # What is written to a terminal meanwhile appears above the view; elsewhere it is in nobody's way.
    live = Live(
        live_view(last),
        console=console,
        refresh_per_second=8,
        transient=True,
        redirect_stderr=sys.stderr.isatty(),
    )
    decisions = DecisionLog()
    with live:
        record: RunRecord | None = last
        while record is not None:
            for line in decisions.news(record):
                console.print(Wrapped(line))  # above the view, where it stays
            live.update(live_view(record))
            last, record = record, next(records, None)
    return last


def _follow_plainly(records: Iterator[RunRecord], *, quiet: bool = False) -> RunRecord:
    report = PlainReport(sys.stdout)
    for record in records:
        if not quiet:
            report.show(record)
    return record


def interrupted(control: Run) -> int:
    """Ctrl-C: undo the launch or leave the run, and say which of the two, and what is there now."""
    record = read_record(control)
    restarts = restarts_by_itself(record)
    if record.state is RunState.PREPARING and not restarts:
        click.echo("\ninterrupted: undoing the launch", err=True)
        interrupt_launch(control)
        record = read_record(control)
    if record.state is RunState.PREPARING and not restarts:
        click.echo(
            "the launch is not undone yet. Hosts that hear no more of it undo it by themselves;\n"
            f"to be sure: orchestrate stop {control.run_id}",
            err=True,
        )
    elif record.state.is_terminal:
        for line in record.errors:
            click.echo(f"orchestrate: {line}", err=True)
        click.echo(f"{control.run_id} is undone on every host that answers", err=True)
    else:
        click.echo(f"\ndetached; the run goes on. Back to it: orchestrate attach {control.run_id}", err=True)
        click.echo(f"End it: orchestrate stop {control.run_id}", err=True)
    return Interrupted.exit_code
