"""`orchestrate stop [RUN]`"""

from __future__ import annotations

import getpass

import click

from orchestrator import api
from orchestrator.cli.options import json_option, print_json, run_argument
from orchestrator.cli.render_run import summary_data
from orchestrator.cli.sentences import saved_note

__all__ = ["command"]


@click.command("stop")
@run_argument
@click.option("--now", is_flag=True, help="Kill every worker at once, also while a checkpoint is saved.")
@json_option
def command(run: str | None, now: bool, as_json: bool) -> int:
    """End every worker of the run: SIGTERM, the job's grace period, SIGKILL. Stopping twice is no error.

    The bundled trainer answers SIGTERM by a checkpoint of all ranks at the same step. Then the grace period
    is as long as its steps and saves have taken twice, if that is more than the job's.

    Without RUN the active run; of several none, they are listed.
    """
    control = api.find(run)
    # A host that was lost may be back, with workers that nobody could tell that their run is over.
    if run is None and not api.is_active(control) and not api.may_live_on(control):
        click.echo(
            f"orchestrate: no run is active, nothing was stopped (the newest, {control.run_id}, has ended)",
            err=True,
        )
        record = api.record(control)
    else:
        record = api.stop(
            control,
            f"stopped by {getpass.getuser()}",
            say=lambda line: click.echo(f"orchestrate: {line}", err=True),
            now=now,
        )
    if as_json:
        print_json(summary_data(record))
    else:
        click.echo(f"{record.run_id} {record.state}")
        if note := saved_note(record):
            click.echo(note)
    return 0
