"""`orchestrate launch JOB`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.follow import follow
from orchestrator.cli.options import inventory_option, json_option, print_json, resolve_inventory
from orchestrator.cli.render_plan import plan_data, print_plan
from orchestrator.config.job import Job
from orchestrator.control.launch import discover_devices, launch, plan_launch
from orchestrator.core.errors import UsageError
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["command"]


@click.command("launch")
@click.argument("job", type=click.Path(path_type=Path, dir_okay=False))
@inventory_option
@click.option("--dry-run", is_flag=True, help="Print what would be done; no host is touched.")
@click.option("--discover", is_flag=True, help="With --dry-run: ask the hosts for their devices' addresses.")
@click.option("--detach", is_flag=True, help="Return as soon as every worker has been started.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the job (train.steps=10).",
)
@click.option(
    "--accept-new-host-keys", is_flag=True, help="Add unknown host keys; changed ones stay refused."
)
@json_option
def command(
    job: Path,
    inventory: Path | None,
    dry_run: bool,
    discover: bool,
    detach: bool,
    overrides: tuple[str, ...],
    accept_new_host_keys: bool,
    as_json: bool,
) -> int:
    """Start JOB on its hosts and follow it. Ctrl-C detaches; the run goes on."""
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run; `orchestrate status --json` tells of a run")
    loaded, plan = plan_launch(
        job, resolve_inventory(inventory), overrides, accept_new_host_keys=accept_new_host_keys
    )
    if discover and not dry_run:
        raise UsageError("--discover belongs to --dry-run", remedy="a launch always asks the hosts")
    if dry_run:
        if discover:
            plan = discover_devices(plan)
        print_json(plan_data(plan)) if as_json else print_plan(plan)
        return 0
    for warning in plan.warnings:
        click.echo(f"orchestrate: warning: {warning}", err=True)
    control = launch(_with_shards(loaded, plan))
    return follow(control, until_started=detach, warn=True)


def _with_shards(job: Job, plan: LaunchPlan) -> LaunchPlan:
    """The plan, with the parts of its checkpoint on the hosts where the job wants it distributed."""
    if not job.checkpoint.distribute:
        return plan
    # Late: NumPy and the checkpoint formats, which few launches need.
    from orchestrator.cli.bars import DistributionBar
    from orchestrator.transfer.distribute import with_shards

    with DistributionBar() as bar:
        return with_shards(job, plan, bar.show)
