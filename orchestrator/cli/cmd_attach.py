"""`orchestrate attach [RUN]`"""

from __future__ import annotations

import click

from orchestrator import api
from orchestrator.cli.follow import follow
from orchestrator.cli.options import run_argument

__all__ = ["command"]


@click.command("attach")
@run_argument
def command(run: str | None) -> int:
    """Follow a run again; the exit code is the run's. Ctrl-C detaches."""
    return follow(api.attach(run))
