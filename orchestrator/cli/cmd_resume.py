"""`orchestrate resume RUN`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.cli.bars import DistributionBar
from orchestrator.cli.follow import follow
from orchestrator.cli.options import json_option, meant_run, print_json, run_argument, say_notes, set_option
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.control.resume import Changes
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.transfer.plan_resume import Resumption, plan_resume
from orchestrator.transfer.resume_run import resume

__all__ = ["command"]


@click.command("resume")
@run_argument
@click.option(
    "--step",
    type=click.IntRange(min=0),
    help="Go on from this step; 0: from the beginning. Default: the newest that is complete over all hosts.",
)
@click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The servers to choose from. Default: the hosts that the run had.",
)
@click.option("--hosts", default="", metavar="LIST", help="Run on these, as in a job: other ones, or fewer.")
@set_option("Change a value of the job (train.steps=10).")
@click.option(
    "--job",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The job file, of a run that has kept none: one of an earlier version, or found on its hosts.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and which bytes move; move nothing.")
@click.option("--detach", is_flag=True, help="Return as soon as every worker has been started.")
@click.option(
    "--accept-new-host-keys", is_flag=True, help="Add unknown host keys; changed ones stay refused."
)
@json_option
def command(
    run: str | None,
    step: int | None,
    inventory: Path | None,
    hosts: str,
    overrides: tuple[str, ...],
    job: Path | None,
    dry_run: bool,
    detach: bool,
    accept_new_host_keys: bool,
    as_json: bool,
) -> int:
    """Go on with a run that has ended, as its next attempt, and follow it.

    A training goes on from its newest step that is complete over all hosts, with its optimizer and in its
    data. On the same hosts nothing is moved; to other hosts go the shards that they lack, from replicas; on
    fewer the layout changes and the global batch stays. The exit code is the run's.
    """
    control = meant_run(run)
    changes = Changes(inventory, hosts, overrides, job, step, accept_new_host_keys)
    found = plan_resume(control, changes)
    say_notes(found.notes)
    if dry_run:
        print_json(_data(found)) if as_json else click.echo("\n".join([*_lines(found), _NOTHING]))
        return 0
    for line in _lines(found) if not as_json else ():
        click.echo(line)
    with DistributionBar() as bar:
        resume(found, bar.show)
    return follow(
        control, until_started=detach, warn=True, as_json=as_json, attempt=found.plan.attempt.number
    )


_NOTHING = "nothing was moved or started (--dry-run)"


def _lines(found: Resumption) -> list[str]:
    """What is done, a line each."""
    plan, moves = found.plan, found.moves
    size = (
        f"{plan.world_size} rank{'s' * (plan.world_size > 1)} on {fold([host.name for host in plan.hosts])}"
    )
    if found.step is None:
        return [f"{plan.run_id}: attempt {plan.attempt.number} begins anew, {size}"]
    attempt, step = found.at
    lines = [
        f"{plan.run_id}: attempt {plan.attempt.number} goes on from step {step} of attempt {attempt}, {size}"
    ]
    if moves.anew:
        read = sum(moves.collected.values())
        lines.append(
            f"another layout: {byte_size(read)} are read from {fold(list(moves.collected))} and cut anew, "
            f"for which they take as much room here, in {found.control.root}"
        )
    if moves.in_place:
        ranks = fold_numbers(moves.in_place)
        lines.append(f"rank {ranks}: the shard is there, nothing moves")
    lines += [f"{host}: {byte_size(nbytes)} go there" for host, nbytes in moves.sent.items()]
    return lines


def _data(found: Resumption) -> dict[str, Any]:
    """The same for `--dry-run --json`."""
    plan, moves = found.plan, found.moves
    attempt, step = found.at
    return {
        "run_id": plan.run_id,
        "attempt": plan.attempt.number,
        "from": {"attempt": attempt, "step": step} if found.step is not None else None,
        "world_size": plan.world_size,
        "hosts": [host.name for host in plan.hosts],
        "in_place": list(moves.in_place),
        "another_layout": moves.anew,
        "bytes_read": dict(moves.collected),
        "bytes_sent": dict(moves.sent),
        "notes": list(found.notes),
    }
