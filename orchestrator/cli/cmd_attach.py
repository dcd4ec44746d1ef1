"""`orchestrate attach [RUN]`"""

from __future__ import annotations

import click

from orchestrator import api
from orchestrator.cli.follow import follow
from orchestrator.cli.options import run_argument
from orchestrator.cli.sentences import watch_note
from orchestrator.control.runs import attach

__all__ = ["command"]


@click.command("attach")
@run_argument
def command(run: str | None) -> int:
    """Follow a run again; the exit code is the run's. Ctrl-C detaches."""
    control = api.find(run)
    record = attach(control)
    if record.unwatched is not None:
        click.echo(f"orchestrate: {watch_note(record)}", err=True)
    return follow(control)
