"""`orchestrate collect-ckpt [RUN]`"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import click

from orchestrator import api
from orchestrator.checkpoint.collection_manifest import manifest_path
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.output_layout import Format
from orchestrator.cli.copy_progress import copy_progress
from orchestrator.cli.options import json_option, meant_run, print_json, run_argument
from orchestrator.cli.units import RATE, byte_size
from orchestrator.transfer.collect import Collected, Collection
from orchestrator.transfer.collect_run import default_output, format_of

__all__ = ["command"]

_DTYPES = {"float32": "Float32", "float16": "Float16", "bfloat16": "BFloat16"}


class _Step(click.ParamType[int | str]):
    name = "n|latest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "latest":
            return "latest"
        if not str(value).isdecimal() or not str(value).isascii():
            self.fail(f"{value!r} is neither a step's number nor `latest`", param, ctx)
        return int(value)


@click.command("collect-ckpt")
@run_argument
@click.option(
    "--step",
    type=_Step(),
    help="Default: latest, the newest that all needed ranks have saved; or the step that was begun.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file; a new folder for huggingface and unified. Default: collected/RUN/JOB.FORMAT.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(get_args(Format)),
    help="Default: what the output's name says, else ckpt. unified: a folder that MindFormers loads.",
)
@click.option(
    "--attempt", type=click.IntRange(min=1), metavar="N", help="Of this attempt. Default: the one in force."
)
@click.option("--dtype", type=click.Choice(list(_DTYPES)), help="Write floats as this type.")
@click.option("--with-optimizer", is_flag=True, help="Keep the optimizer's moments too.")
@click.option("--replicated", is_flag=True, help="No strategy files: every rank holds the whole model.")
@click.option("--logs", "with_logs", is_flag=True, help="Bring the workers' logs along.")
@click.option("--bwlimit", type=RATE, help="Bytes a second at most, as 500k, 80M or 1.5G.")
@click.option(
    "--via-hosts", is_flag=True, help="Leave all reading to the hosts, also of files that are seen here."
)
@click.option(
    "--no-fsync", is_flag=True, help="Do not wait for the disk; a power cut just after may cost the file."
)
@click.option(
    "--check-replicas", is_flag=True, help="Have the hosts compare, byte by byte, what several ranks hold."
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Show what would be read from where; write nothing.")
@json_option
def command(
    run: str | None,
    step: int | str | None,
    output: Path | None,
    format_name: str | None,
    attempt: int | None,
    dtype: str | None,
    with_optimizer: bool,
    replicated: bool,
    with_logs: bool,
    bwlimit: int | None,
    via_hosts: bool,
    no_fsync: bool,
    check_replicas: bool,
    is_dry: bool,
    as_json: bool,
) -> int:
    """Combine the shards of a run into one file, with the model's configuration and tokenizer beside it.

    A collection that broke off goes on where it was: give the same command again.
    """
    control = meant_run(run, started=True)
    wanted = Collection(
        format=cast(Format, format_name or format_of(output)),
        step=step if isinstance(step, int) else None,
        latest=step == "latest",
        dtype=_DTYPES[dtype] if dtype else None,
        with_optimizer=with_optimizer,
        replicated=replicated,
        check_replicas=check_replicas,
        attempt=attempt,
    )
    output = output or default_output(control, wanted.format)
    if is_dry:
        # Late: a collection of a gigabyte takes a second, of which tables would be a tenth.
        from orchestrator.cli.render_collect import collection_data, print_collection

        found = api.collect_dry_run(control, wanted, via_hosts=via_hosts)
        print_json(collection_data(found, output)) if as_json else print_collection(found, output)
        return 0
    with copy_progress(sys.stderr) as progress:
        options = CopyOptions(rate=bwlimit, durable=not no_fsync, via_hosts=via_hosts)
        report = Report(progress.update, progress.say)
        collected = api.collect(control, output, wanted, with_logs=with_logs, options=options, report=report)
    _report(collected, as_json)
    return 0


def _report(collected: Collected, as_json: bool) -> None:
    for host, error in collected.unreachable.items():
        click.echo(f"{host} could not be asked and was not needed: {error.what}", err=True)
    tensors = len(collected.plan.tensors)
    if as_json:
        print_json(
            {
                "path": str(collected.path),
                "epoch": collected.choice.epoch,
                "step": collected.choice.step,
                "tensors": tensors,
                "bytes": collected.size,
                "resumed": collected.resumed,
                "unreachable": list(collected.unreachable),
            }
        )
        return
    text = f"{collected.path}: step {collected.choice.step}, {tensors} tensors, {collected.size:,} bytes"
    if collected.resumed:
        text += f" ({byte_size(collected.resumed)} of what was read had been there)"
    click.echo(text)
    for line in _beside(collected):
        click.echo(line)


def _beside(collected: Collected) -> Iterator[str]:
    """What else is there now, a folder's files as one."""
    home, put = collected.path.parent, collected.beside
    yield f"{manifest_path(collected.path)}: where each part came from, with checksums"
    for paths, what in (
        (put.written, "written"),
        (put.unchanged, "the same as before"),
        (put.removed, "removed, of an earlier collection"),
    ):
        own = [path for path in paths if path.parent == home]
        for path in own:
            yield f"{path}: {what}"
        for folder, count in Counter(path.parent for path in paths if path.parent != home).items():
            yield f"{folder}/: {count} files {what}"
