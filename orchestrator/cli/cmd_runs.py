"""`orchestrate runs`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import inventory_option, json_option, print_json
from orchestrator.cli.render_run import runs_table, summary_data
from orchestrator.cli.terminal import Console
from orchestrator.config.inventory_file import load_inventory
from orchestrator.control.run_record import read_record
from orchestrator.control.runs import rediscover, survey_runs
from orchestrator.core.errors import OrchestrateError, RunNotFound
from orchestrator.hosts.fleet import HostResults

__all__ = ["command"]


@click.command("runs")
@click.option(
    "--rediscover", "ask_hosts", is_flag=True, help="Ask the hosts of the inventory for their runs."
)
@inventory_option
@json_option
def command(ask_hosts: bool, inventory: Path | None, as_json: bool) -> int:
    """List the runs, newest first; with --json a summary of each, `status --json` has the rest."""
    failed: dict[str, OrchestrateError] = {}
    others: list[str] = []
    if ask_hosts:
        others, failed = rediscover(load_inventory(inventory))
    records = []
    runs, beside = survey_runs()
    for line in (*others, *beside):
        click.echo(f"orchestrate: {line}", err=True)
    for control in runs:
        try:
            records.append(read_record(control))
        except RunNotFound as error:
            click.echo(f"orchestrate: {error}", err=True)
    if as_json:
        print_json([summary_data(record) for record in reversed(records)])
    elif records:
        console = Console(soft_wrap=True)
        console.print(runs_table(records, console.width))
    else:
        click.echo("no runs are known here")
    HostResults({}, failed).raise_on_error()
    return 0
