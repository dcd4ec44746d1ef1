"""`orchestrate collect-ckpt [RUN]`"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from orchestrator.cli.options import run_argument
from orchestrator.collect import Format
from orchestrator.collect_run import collect_run
from orchestrator.plan import read_plan
from orchestrator.runs import find_run

__all__ = ["command"]


@click.command("collect-ckpt")
@run_argument
@click.option(
    "--step", type=click.IntRange(min=0), metavar="N", help="This step; default: the newest complete one."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: collected/RUN/JOB.FORMAT.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["ckpt", "safetensors"]),
    help="Default: what the name of the output says, else ckpt.",
)
@click.option("--with-optimizer", is_flag=True, help="Keep the optimizer's moments too.")
@click.option("--replicated", is_flag=True, help="No strategy files: every rank holds the whole model.")
def command(
    run: str | None,
    step: int | None,
    output: Path | None,
    format_name: str | None,
    with_optimizer: bool,
    replicated: bool,
) -> int:
    """Combine the shards of a run into one file, with the model's configuration and tokenizer beside it."""
    control = find_run(run)
    named = "safetensors" if output is not None and output.suffix == ".safetensors" else "ckpt"
    format = cast(Format, format_name or named)
    if output is None:
        output = Path("collected") / control.run_id / f"{read_plan(control.plan).job_name}.{format}"
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("collect", total=None)
        collected = collect_run(
            control,
            output,
            format=format,
            step=step,
            with_optimizer=with_optimizer,
            replicated=replicated,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for host, error in collected.unreachable.items():
        click.echo(f"orchestrate: {host} was not needed, which is as well: {error.what}", err=True)
    tensors, size = len(collected.plan.tensors), output.stat().st_size
    click.echo(f"{output}: step {collected.choice.step}, {tensors} tensors, {size:,} bytes")
    return 0
