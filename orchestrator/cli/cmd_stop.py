"""`orchestrate stop [RUN]`"""

from __future__ import annotations

import getpass

import click

from orchestrator import api
from orchestrator.cli.options import json_option, print_json, run_argument
from orchestrator.cli.render_run import summary_data

__all__ = ["command"]


@click.command("stop")
@run_argument
@json_option
def command(run: str | None, as_json: bool) -> int:
    """End every worker of the run: SIGTERM, the job's grace period, SIGKILL. Stopping twice is no error.

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
        )
    if as_json:
        print_json(summary_data(record))
    else:
        click.echo(f"{record.run_id} {record.state}")
    return 0
