"""`orchestrate runs`"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from orchestrator.cli.options import inventory_option, json_option, print_json, resolve_inventory
from orchestrator.cli.render_run import runs_table
from orchestrator.config.inventory_file import load_inventory
from orchestrator.control.run_record import read_record
from orchestrator.control.runs import known_runs, rediscover
from orchestrator.core.codec import to_json
from orchestrator.core.errors import HostsFailed, OrchestrateError, RunNotFound

__all__ = ["command"]


@click.command("runs")
@click.option(
    "--rediscover", "ask_hosts", is_flag=True, help="Ask the hosts of the inventory for their runs."
)
@inventory_option
@json_option
def command(ask_hosts: bool, inventory: Path | None, as_json: bool) -> int:
    """List the runs, newest first."""
    failed: dict[str, OrchestrateError] = {}
    others: list[str] = []
    if ask_hosts:
        others, failed = rediscover(load_inventory(resolve_inventory(inventory)))
    records = []
    for line in others:
        click.echo(f"orchestrate: {line}", err=True)
    for control in known_runs():
        try:
            records.append(read_record(control))
        except RunNotFound as error:
            click.echo(f"orchestrate: {error}", err=True)
    if as_json:
        print_json([to_json(record) for record in records])
    elif records:
        Console(soft_wrap=True).print(runs_table(records), highlight=False)
    else:
        click.echo("no runs are known here")
    if failed:
        raise HostsFailed(failed)
    return 0
