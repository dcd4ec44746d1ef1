"""`orchestrate checkpoint combine | split | transform`"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.output_layout import Format
from orchestrator.cli.cmd_checkpoint_inspect import say, step_option
from orchestrator.cli.copy_progress import copy_progress
from orchestrator.cli.options import json_option, print_json
from orchestrator.cli.units import ByteSize, byte_size
from orchestrator.transfer.convert import Conversion, plan_combine, plan_split, plan_transform, write

__all__ = ["combine_command", "split_command", "transform_command"]

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_FORMATS = click.Choice(["ckpt", "safetensors"])


def _common(function: F) -> F:
    for option in (
        json_option,
        click.option("--dry-run", is_flag=True, help="Print bytes and what is left out; write nothing."),
        click.option(
            "--no-fsync",
            is_flag=True,
            help="Do not wait for the disk; a power cut just after may cost the output.",
        ),
        click.option("--with-optimizer", is_flag=True, help="Keep the optimizer's state and counters too."),
    ):
        function = option(function)
    return function


def _source(function: F) -> F:
    for option in (
        click.option("--replicated", is_flag=True, help="No strategies: every rank holds the whole model."),
        step_option,
        click.option(
            "--strategy-dir",
            type=_PATH,
            help="Strategies of these files, a folder or one file. Default: `strategy` beside the folder.",
        ),
        click.option("--checkpoint-dir", type=_PATH, required=True, help="The folder with rank_0, rank_1, …"),
    ):
        function = option(function)
    return function


@click.command("combine")
@_source
@click.option("-o", "--output", type=_PATH, required=True, help="The file; .ckpt or .safetensors.")
@click.option("--format", "format_name", type=_FORMATS, help="Default: what the output's name says.")
@click.option(
    "--max-shard-size",
    type=ByteSize(),
    help="A folder of safetensors of at most this size each, with an index.",
)
@_common
def combine_command(
    checkpoint_dir: Path,
    strategy_dir: Path | None,
    step: int | None,
    replicated: bool,
    output: Path,
    format_name: str | None,
    max_shard_size: int | None,
    with_optimizer: bool,
    no_fsync: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Join the files of all ranks into one file of whole tensors.

    Works on what MindSpore and MindFormers leave: output/checkpoint/rank_* and output/strategy. Moments,
    accumulated gradients, loss scale and step counters stay behind unless --with-optimizer.
    """
    several = max_shard_size is not None or output.suffix == ".safetensors"
    conversion = plan_combine(
        checkpoint_dir,
        strategy_dir,
        step=step,
        with_optimizer=with_optimizer,
        replicated=replicated,
        format=cast(Format, format_name or ("safetensors" if several else "ckpt")),
        max_shard_bytes=max_shard_size,
    )
    return _carry_out(conversion, output, dry_run, no_fsync, as_json)


@click.command("split")
@click.argument("file", type=_PATH)
@click.option("--strategy", type=_PATH, required=True, help="Of the ranks to write: folder or file.")
@click.option("-o", "--output", type=_PATH, required=True, help="A new folder, for rank_0, rank_1, …")
@click.option("--format", "format_name", type=_FORMATS, default="ckpt", show_default=True)
@_common
def split_command(
    file: Path,
    strategy: Path,
    output: Path,
    format_name: str,
    with_optimizer: bool,
    no_fsync: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Cut FILE, a checkpoint of whole tensors, into the files of all ranks."""
    conversion = plan_split(file, strategy, with_optimizer=with_optimizer, format=cast(Format, format_name))
    return _carry_out(conversion, output, dry_run, no_fsync, as_json)


@click.command("transform")
@_source
@click.option("--target-strategy", type=_PATH, required=True, help="Of the ranks to write: folder or file.")
@click.option("-o", "--output", type=_PATH, required=True, help="A new folder, for rank_0, rank_1, …")
@click.option("--format", "format_name", type=_FORMATS, default="ckpt", show_default=True)
@_common
def transform_command(
    checkpoint_dir: Path,
    strategy_dir: Path | None,
    step: int | None,
    replicated: bool,
    target_strategy: Path,
    output: Path,
    format_name: str,
    with_optimizer: bool,
    no_fsync: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Turn the files of all ranks of one layout into those of another."""
    conversion = plan_transform(
        checkpoint_dir,
        strategy_dir,
        target_strategy,
        step=step,
        with_optimizer=with_optimizer,
        replicated=replicated,
        format=cast(Format, format_name),
    )
    return _carry_out(conversion, output, dry_run, no_fsync, as_json)


def _carry_out(conversion: Conversion, output: Path, dry_run: bool, no_fsync: bool, as_json: bool) -> int:
    say(conversion.notes)
    if dry_run and as_json:
        print_json({**_data(conversion, output), "written": False})
        return 0
    if dry_run:
        # Late: to write a gigabyte takes a second, of which tables would be a tenth.
        from orchestrator.cli.render_checkpoint import conversion_view
        from orchestrator.cli.terminal import Console

        Console(highlight=False, soft_wrap=True).print(conversion_view(conversion, str(output)))
        return 0
    with copy_progress(sys.stderr) as progress:
        report = Report(progress.update, progress.say)
        write(conversion, output, CopyOptions(durable=not no_fsync), report)
    if as_json:
        print_json({**_data(conversion, output), "written": True})
        return 0
    files = f"{len(conversion.sizes)} files, " if conversion.is_folder else ""
    tensors = f"{_tensors(conversion)} tensors"
    click.echo(f"{output}: {conversion.label}{files}{tensors}, {byte_size(sum(conversion.sizes))}")
    return 0


def _tensors(conversion: Conversion) -> int:
    return len({copy.stored.spec.name for copy in conversion.plan.copies})


def _data(conversion: Conversion, output: Path) -> dict[str, Any]:
    left_out = conversion.left_out.items()
    return {
        "path": str(output),
        "step": conversion.step or None,
        "files": len(conversion.sizes),
        "tensors": _tensors(conversion),
        "bytes": sum(conversion.sizes),
        "left_out": [{"reason": why, "tensors": count, "bytes": size} for why, (count, size) in left_out],
        "notes": list(conversion.notes),
    }
