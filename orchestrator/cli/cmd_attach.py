"""`orchestrate attach [RUN]`"""

from __future__ import annotations

import click

from orchestrator.cli.follow import follow
from orchestrator.cli.options import json_option, meant_run, run_argument
from orchestrator.cli.sentences import watch_note
from orchestrator.control.runs import attach

__all__ = ["command"]


@click.command("attach")
@run_argument
@json_option
def command(run: str | None, as_json: bool) -> int:
    """Follow a run again; the exit code is the run's. Ctrl-C detaches: the run goes on, the exit code is 5.

    With --json nothing is printed until the run has ended, and then its record.
    """
    control = meant_run(run)
    record = attach(control)
    if record.unwatched is not None or record.elsewhere:
        click.echo(f"orchestrate: {watch_note(record)}", err=True)
    return follow(control, as_json=as_json)
