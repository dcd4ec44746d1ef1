"""`orchestrate checkpoint inspect | verify | diff`

What one of them needs is imported by it alone: `combine` is measured with its start.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import click

from orchestrator.cli.options import DIFFERENT, json_option, print_json
from orchestrator.cli.units import Number
from orchestrator.core.errors import CheckpointError

__all__ = ["diff_command", "inspect_command", "verify_command"]

_PATH = click.Path(path_type=Path)
strategy_option = click.option(
    "--strategy", type=_PATH, help="How the ranks' files are cut. Default: `strategy` beside the folder."
)
step_option = click.option(
    "--step", type=click.IntRange(min=0), metavar="N", help="This step; default: the newest complete one."
)


def say(notes: tuple[str, ...]) -> None:
    """Print what a person should know besides the result."""
    for note in notes:
        click.echo(f"orchestrate: {note}", err=True)


@click.command("inspect")
@click.argument("path", type=_PATH)
@strategy_option
@step_option
@click.option("--all", "every", is_flag=True, help="Every block, and the optimizer's state, row by row.")
@json_option
def inspect_command(path: Path, strategy: Path | None, step: int | None, every: bool, as_json: bool) -> int:
    """List what PATH holds: names, shapes, types, how it is cut, sizes.

    PATH is a checkpoint (.ckpt, .safetensors, an index), a folder with the files of all ranks (rank_0,
    rank_1, …), or strategy files. No tensor is read.
    """
    from orchestrator.transfer.inspect import inspect

    listing = inspect(path, strategy, step=step)
    if as_json:
        print_json(listing.to_json())
        return 0
    from orchestrator.cli.render_checkpoint import listing_view
    from orchestrator.cli.terminal import Console

    say(listing.notes)
    console = Console(highlight=False)
    console.print(listing_view(listing, every=every), soft_wrap=not console.is_terminal)
    return 0


@click.command("verify")
@click.argument("path", type=_PATH)
@strategy_option
@step_option
@json_option
def verify_command(path: Path, strategy: Path | None, step: int | None, as_json: bool) -> int:
    """Read every byte of PATH and say whether it is whole and undamaged.

    Each file: its structure, and its checksum where it carries one. A collected file: the checksums of the
    manifest beside it. A folder of ranks: strategies agree and
    fit, every slice is there, replicas hold the same bytes. Exit code 2 if anything is wrong.
    """
    from orchestrator.cli.render_checkpoint import finding_line
    from orchestrator.cli.terminal import Console
    from orchestrator.transfer.verify import verify

    console = Console(highlight=False, soft_wrap=True)
    found = []
    for finding in verify(path, strategy, step=step):
        found.append(finding)
        if not as_json:
            console.print(finding_line(finding))
    if as_json:
        print_json([asdict(finding) for finding in found])
    return 0 if all(finding.ok for finding in found) else CheckpointError.exit_code


@click.command("diff")
@click.argument("a", type=_PATH)
@click.argument("b", type=_PATH)
@click.option(
    "--atol",
    type=Number(min=0),
    metavar="X",
    help="Values may be X apart, whatever their types. Default: the same bits.",
)
@json_option
def diff_command(a: Path, b: Path, atol: float | None, as_json: bool) -> int:
    """Compare two checkpoints tensor by tensor and name the worst. Exit code 6 if they differ."""
    from orchestrator.transfer.inspect import diff

    found = diff(a, b, atol=atol)
    if as_json:
        # JSON has no infinity.
        rows = [asdict(one) | ({} if math.isfinite(one.largest) else {"largest": None}) for one in found]
        print_json({"equal": not found, "differences": rows})
    elif found:
        from orchestrator.cli.render_checkpoint import diff_view
        from orchestrator.cli.terminal import Console

        Console(highlight=False, soft_wrap=True).print(diff_view(found))
    else:
        click.echo("no difference" if atol is None else f"no difference above {atol:g}")
    return DIFFERENT if found else 0
