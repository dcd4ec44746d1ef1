"""`orchestrate status [RUN]`"""

from __future__ import annotations

import time

import click
from rich.live import Live

from orchestrator import api
from orchestrator.cli.options import json_option, print_json, run_argument
from orchestrator.cli.render_run import record_json, status_view
from orchestrator.cli.terminal import Console

__all__ = ["command"]

_INTERVAL = 1.0


@click.command("status")
@run_argument
@click.option("-w", "--watch", is_flag=True, help="Refresh until the run has ended.")
@json_option
def command(run: str | None, watch: bool, as_json: bool) -> int:
    """Show where a run is. The exit code is the run's once it has ended, 0 before."""
    control = api.find(run)
    record = api.status(control)
    if as_json:
        print_json(record_json(record))
        return 0
    console = Console()
    if not watch:
        console.print(status_view(record), highlight=False)
        return record.exit_code or 0
    with Live(status_view(record), console=console, refresh_per_second=4) as live:
        while not record.state.is_terminal:
            time.sleep(_INTERVAL)
            record = api.status(control)
            live.update(status_view(record))
    return record.exit_code or 0
