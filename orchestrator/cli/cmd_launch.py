"""`orchestrate launch JOB`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator import api
from orchestrator.cli.follow import follow, interrupted
from orchestrator.cli.options import inventory_option, json_option, print_json, say_notes, set_option
from orchestrator.cli.render_plan import plan_data, print_plan
from orchestrator.core.errors import UsageError

__all__ = ["command"]


@click.command("launch")
@click.argument("job", type=click.Path(path_type=Path, dir_okay=False))
@inventory_option
@click.option("--dry-run", is_flag=True, help="Print what would be done; no host is touched.")
@click.option("--discover", is_flag=True, help="With --dry-run: ask the hosts for their devices' addresses.")
@click.option("--detach", is_flag=True, help="Return as soon as every worker has been started.")
@set_option("Change a value of the job (train.steps=10).")
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
    """Start JOB on its hosts and follow it.

    Ctrl-C before every worker has been started undoes the launch; after that it detaches, and the run goes
    on. Either says so, and is exit code 5. With --json nothing is printed before the end (with --detach: the
    start), and then the run's record.
    """
    if discover and not dry_run:
        raise UsageError("--discover belongs to --dry-run", remedy="a launch always asks the hosts")
    planned = api.plan(
        job, inventory, overrides, accept_new_host_keys=accept_new_host_keys, discover=discover
    )
    if dry_run:
        print_json(plan_data(planned.plan)) if as_json else print_plan(planned.plan)
        return 0
    say_notes(planned.plan.notes)
    for warning in planned.plan.warnings:
        click.echo(f"orchestrate: warning: {warning}", err=True)
    if planned.job.restart.max and not _starts_monitors():
        what = "restart: when this machine is restarted, nobody goes on with the run"
        click.echo(f"orchestrate: note: {what}; `orchestrate service install` changes that", err=True)
    try:
        control = _start(planned)
    except KeyboardInterrupt:
        # The monitor may be at work already, out of reach of the terminal's Ctrl-C.
        begun = [run for run in api.runs() if run.run_id == planned.plan.run_id]
        if not begun:
            raise
        return interrupted(begun[0])
    return follow(control, until_started=detach, warn=True, as_json=as_json)


def _starts_monitors() -> bool:
    # Late: only jobs that go on by themselves ask.
    from orchestrator.control.service import is_installed

    return is_installed()


def _start(planned: api.Planned) -> api.Run:
    if not planned.job.checkpoint.distribute:
        return api.start(planned)
    # Late: NumPy and the checkpoint formats, which few launches need.
    from orchestrator.cli.bars import DistributionBar

    taken: list[str] = []
    with DistributionBar() as bar:
        run = api.start(planned, bar.show, taken.append)
    say_notes(taken)
    return run
