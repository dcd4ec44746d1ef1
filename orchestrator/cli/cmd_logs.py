"""`orchestrate logs [RUN]`"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from orchestrator import api
from orchestrator.cli.log_printer import LogPrinter, folded_data, line_data, wants_colour
from orchestrator.cli.options import json_option, meant_run, run_argument
from orchestrator.config.host_ranges import RangeError, numbers
from orchestrator.control.log_fold import FOLDED_BLOCK, fold_lines
from orchestrator.control.log_stream import LogBatch, iter_lines
from orchestrator.control.shared_heap import share_heap
from orchestrator.core.errors import UsageError
from orchestrator.core.visible_text import RawStream

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
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended, over its attempts.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Begin N lines before the end.")
@click.option("--scheduler", is_flag=True, help="The scheduler's log instead of the ranks'.")
@click.option(
    "--timestamps",
    is_flag=True,
    help="When each line was read, in front of it; with <: when it had been written at the latest.",
)
@click.option(
    "--attempt", type=click.IntRange(min=1), metavar="N", help="Of this attempt. Default: the one in force."
)
@click.option("--fold", is_flag=True, help="Print equal lines of several ranks once, behind all of them.")
@json_option
def command(
    run: str | None,
    ranks: str | None,
    host: str | None,
    follow: bool,
    tail: int | None,
    scheduler: bool,
    timestamps: bool,
    attempt: int | None,
    fold: bool,
    as_json: bool,
) -> int:
    """Print what the workers wrote, each line behind its rank.

    Lines of one rank keep their order. Control characters are shown as escapes. With --json an object a line.
    """
    wanted = parse_ranks(ranks) if ranks else None
    share_heap()
    control = meant_run(run, started=True)
    batches = api.log_batches(
        control,
        ranks=wanted,
        host=host,
        scheduler=scheduler,
        follow=follow,
        tail=tail,
        attempt=attempt,
        begun=_Begun(control),
        **({"block": FOLDED_BLOCK} if fold else {}),
    )
    out = RawStream(sys.stdout)
    printer = LogPrinter(out, colour=wants_colour(out), times=timestamps)
    if fold:
        for folded in fold_lines(_flushing(batches, out)):
            out.write(folded_data(folded) + "\n") if as_json else printer.show_folded(folded)
    elif as_json:
        for line in iter_lines(_flushing(batches, out)):
            out.write(line_data(line) + "\n")
    else:
        for batch in batches:
            if batch is not None:
                printer.show(batch)
    return 0


class _Begun:
    """Says of which attempt the next lines are, where it is another one than of those before."""

    def __init__(self, control: api.Run) -> None:
        self._control, self._last = control, 0

    def __call__(self, number: int) -> None:
        if self._last:
            click.echo(f"orchestrate: attempt {number} of {self._control.run_id}", err=True)
        self._last = number


def _flushing(batches: Iterator[LogBatch | None], out: RawStream) -> Iterator[LogBatch | None]:
    """What has been printed is seen before the next batch is waited for."""
    for batch in batches:
        yield batch
        out.flush()
