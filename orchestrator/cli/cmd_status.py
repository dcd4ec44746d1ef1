"""`orchestrate status [RUN]`"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
from rich.live import Live

from orchestrator import api
from orchestrator.cli.options import json_option, meant_run, print_json, run_argument
from orchestrator.cli.render_run import record_json, status_view
from orchestrator.cli.scroll_view import ScrollView, keys_of_terminal
from orchestrator.cli.sentences import go_on_note
from orchestrator.cli.terminal import Console
from orchestrator.control.run_record import RunRecord

__all__ = ["command"]

_INTERVAL = 1.0


@click.command("status")
@run_argument
@click.option("-w", "--watch", is_flag=True, help="Refresh until the run has ended; arrows scroll, q leaves.")
@click.option("--ranks", "every_rank", is_flag=True, help="A row for each rank, however many there are.")
@json_option
def command(run: str | None, watch: bool, every_rank: bool, as_json: bool) -> int:
    """Show where a run is. The exit code is the run's once it has ended, 0 before and with --json.

    Ranks of which the same is to be said share a row where there are more than fit a screen.
    """
    control = meant_run(run)
    record = api.status(control)
    if as_json:
        print_json(record_json(record))
        return 0
    console = Console()
    if watch and not record.state.is_terminal:
        record = _watch(control, record, console, every_rank)
    console.print(status_view(record, every_rank=every_rank), highlight=False)
    if line := go_on_note(record):
        click.echo(line)
    return record.exit_code or 0


def _watch(control: api.Run, record: RunRecord, console: Console, every_rank: bool) -> RunRecord:
    """Show the run until it has ended, or one has enough of it; its last record."""
    latest = [record]

    def records(*, waits: bool) -> Iterator[RunRecord]:
        for latest[0] in api.watch(control, interval=_INTERVAL, waits=waits):
            yield latest[0]

    if console.is_terminal and sys.stdin is not None and sys.stdin.isatty():
        views = (status_view(each, every_rank=every_rank) for each in records(waits=False))
        with keys_of_terminal() as read_key:
            ScrollView(console).run(views, read_key, interval=_INTERVAL)
        return latest[0]
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        for each in records(waits=True):
            live.update(status_view(each, every_rank=every_rank))
    return latest[0]
