"""`orchestrate stop [RUN]`"""

from __future__ import annotations

import getpass

import click

from orchestrator.cli.options import run_argument
from orchestrator.control.runs import find_run
from orchestrator.control.stop import stop_run
from orchestrator.core.ends import StopReason

__all__ = ["command"]


@click.command("stop")
@run_argument
def command(run: str | None) -> int:
    """End every worker of the run: SIGTERM, the job's grace period, SIGKILL. Stopping twice is no error."""
    control = find_run(run)
    record = stop_run(control, StopReason.requested(f"stopped by {getpass.getuser()}"))
    click.echo(f"{record.run_id} {record.state}")
    return 0
