"""`orchestrate attach [RUN]`"""

from __future__ import annotations

import click

from orchestrator.cli.follow import follow
from orchestrator.cli.options import run_argument
from orchestrator.control.runs import attach, find_run

__all__ = ["command"]


@click.command("attach")
@run_argument
def command(run: str | None) -> int:
    """Follow a run again; the exit code is the run's. Ctrl-C detaches."""
    control = find_run(run)
    attach(control)
    return follow(control)
