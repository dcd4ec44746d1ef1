"""`orchestrate stop [RUN]`"""

from __future__ import annotations

import getpass

import click

from orchestrator import api
from orchestrator.cli.options import run_argument

__all__ = ["command"]


@click.command("stop")
@run_argument
def command(run: str | None) -> int:
    """End every worker of the run: SIGTERM, the job's grace period, SIGKILL. Stopping twice is no error."""
    record = api.stop(run, f"stopped by {getpass.getuser()}")
    click.echo(f"{record.run_id} {record.state}")
    return 0
