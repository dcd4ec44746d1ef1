"""`orchestrate logs [RUN]`"""

from __future__ import annotations

import json
import re

import click

from orchestrator.cli.options import json_option, run_argument
from orchestrator.control.logs import iter_lines, labels_of
from orchestrator.control.runs import current_record, find_run
from orchestrator.core.errors import UsageError
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["command", "parse_ranks"]


def parse_ranks(text: str) -> list[int]:
    """`0,3-5` -> [0, 3, 4, 5]; raises UsageError for anything else."""
    ranks: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", piece)
        if match is None:
            raise UsageError(f"--rank {text}: `{piece}` is no rank", remedy="write ranks like 0,3-5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"--rank {text}: `{piece}` runs backwards", remedy="write ranks like 0,3-5")
        ranks += range(first, last + 1)
    return ranks


@click.command("logs")
@run_argument
@click.option("-r", "--rank", "ranks", metavar="RANKS", help="Only these ranks, like 0,3-5. Default: all.")
@click.option("--host", metavar="HOST", help="Only the ranks of this host.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Begin N lines before the end.")
@click.option("--scheduler", is_flag=True, help="The scheduler's log instead of the ranks'.")
@json_option
def command(
    run: str | None,
    ranks: str | None,
    host: str | None,
    follow: bool,
    tail: int | None,
    scheduler: bool,
    as_json: bool,
) -> int:
    """Print what the workers wrote, each line behind its rank."""
    control = find_run(run)
    plan = read_plan(control.plan)
    if scheduler:
        labels = {name: ["scheduler"] for name, manifest in plan.manifests.items() if manifest.scheduler}
    else:
        labels = labels_of(plan, parse_ranks(ranks) if ranks else None, host)
    if not labels:
        raise UsageError("no rank of this run fits", remedy=f"it has ranks 0-{plan.world_size - 1}")

    def is_over() -> bool:
        return not follow or current_record(control).state.is_terminal

    hosts = [member for member in plan.hosts if member.name in labels]
    with fleet_of(hosts, plan.ssh) as fleet:
        for line in iter_lines(plan, fleet, labels, tail=tail, is_over=is_over):
            if as_json:
                click.echo(json.dumps({"host": line.host, "label": line.label, "line": line.text}))
            else:
                prefix = click.style(f"[{line.label.replace('_', ' ')}]", fg="cyan")
                click.echo(f"{prefix} {line.text}")
    return 0
