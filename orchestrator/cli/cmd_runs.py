"""`orchestrate runs`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.lazy_commands import LazyGroup
from orchestrator.cli.options import inventory_option, json_option, print_json
from orchestrator.cli.render_run import runs_table, summary_data
from orchestrator.cli.terminal import Console
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.control.monitor_process import watched_again
from orchestrator.control.remove_runs import Use, disk_use
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.control.runs import rediscover, survey_runs
from orchestrator.core.errors import OrchestrateError, PreflightError, RunNotFound
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.fleet import HostResults

__all__ = ["command"]

_VERBS = {"rm": ("cmd_runs_rm", "Remove runs that have ended, here and on their hosts.")}


@click.group("runs", cls=LazyGroup, verbs=_VERBS, invoke_without_command=True)
@click.pass_context
@click.option(
    "--rediscover", "ask_hosts", is_flag=True, help="Ask the hosts of the inventory for their runs."
)
@inventory_option
@click.option("--disk", "with_disk", is_flag=True, help="Ask the hosts what the runs have on their disks.")
@json_option
def command(
    ctx: click.Context, ask_hosts: bool, inventory: Path | None, with_disk: bool, as_json: bool
) -> int:
    """List the runs, newest first; with --json a summary of each, `status --json` has the rest.

    `runs rm` removes some.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    failed: dict[str, OrchestrateError] = {}
    others: list[str] = []
    if ask_hosts:
        # Late: what is known here is listed without an inventory.
        from orchestrator.config.inventory_file import load_inventory

        others, failed = rediscover(load_inventory(inventory))
    runs, beside = survey_runs()
    records = _records(runs, (*others, *beside), start=not as_json)
    readable = {record.run_id for record in records}
    use = disk_use([run for run in runs if run.run_id in readable]) if with_disk else None
    if as_json:
        print_json([_data(record, use) for record in reversed(records)])
    elif records:
        console = Console(soft_wrap=True)
        console.print(runs_table(records, console.width))
    else:
        click.echo("no runs are known here")
    if use is not None:
        failed = {**failed, **use.errors}
        if not as_json:
            _tell_use(use)
    HostResults({}, failed).raise_on_error()
    return 0


def _records(runs: Sequence[ControlDir], others: Sequence[str], *, start: bool) -> list[RunRecord]:
    """What is known of each run; what cannot be read, or is not watched, is said."""
    records = []
    for line in others:
        click.echo(f"orchestrate: {line}", err=True)
    for control in runs:
        try:
            records.append(watched_again(control, read_record(control), start=start))
        except (RunNotFound, PreflightError) as error:
            click.echo(f"orchestrate: {error}", err=True)
    return records


def _data(record: RunRecord, use: Use | None) -> dict[str, Any]:
    data = summary_data(record)
    return data if use is None else {**data, "disk": dict(use.runs.get(record.run_id, {}))}


def _tell_use(use: Use) -> None:
    """The runs by what they have on disks, most first; then the content stores."""
    for run_id, hosts in sorted(use.runs.items(), key=lambda item: -sum(item[1].values())):
        click.echo(f"{byte_size(sum(hosts.values())):>8} on {fold(hosts)}  {run_id}")
    if use.stores:
        total = byte_size(sum(use.stores.values()))
        click.echo(f"{total:>8} on {fold(use.stores)}  content stores, for the next launch")
