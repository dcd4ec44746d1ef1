"""`orchestrate logs [RUN]`"""

from __future__ import annotations

import json

import click

from orchestrator import api
from orchestrator.cli.options import json_option, run_argument
from orchestrator.config.host_ranges import RangeError, numbers
from orchestrator.core.errors import UsageError

__all__ = ["command", "parse_ranks"]


def parse_ranks(text: str) -> list[int]:
    """`0,3-5` -> [0, 3, 4, 5]; raises UsageError for anything else."""
    try:
        return [int(number) for number in numbers(text)]
    except RangeError as error:
        raise UsageError(f"--rank {text}: {error}", remedy="write ranks like 0,3-5") from None


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
    wanted = parse_ranks(ranks) if ranks else None
    for line in api.logs(run, ranks=wanted, host=host, scheduler=scheduler, follow=follow, tail=tail):
        if as_json:
            click.echo(json.dumps({"host": line.host, "label": line.label, "line": line.text}))
        else:
            prefix = click.style(f"[{line.label.replace('_', ' ')}]", fg="cyan")
            click.echo(f"{prefix} {line.text}")
    return 0
