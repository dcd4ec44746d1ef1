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
@click.option(
    "--take-over",
    is_flag=True,
    help="Act on the run from here from now on; the control node that did is refused.",
)
@json_option
def command(run: str | None, take_over: bool, as_json: bool) -> int:
    """Follow a run again; the exit code is the run's. Ctrl-C detaches: the run goes on, the exit code is 5.

    A run that another control node launched is only watched, unless it is taken over.
    With --json nothing is printed until the run has ended, and then its record.
    """
    control = meant_run(run)
    record = attach(control, take_over=take_over, say=_say)
    if take_over:
        click.echo(f"orchestrate: from now on this control node acts on {control.run_id}", err=True)
    if record.elsewhere or (record.unwatched is not None and not take_over):
        click.echo(f"orchestrate: {watch_note(record)}", err=True)
    return follow(control, as_json=as_json)


def _say(line: str) -> None:
    click.echo(f"orchestrate: not told yet that the run is taken over: {line}", err=True)
