"""`orchestrate distribute-ckpt FILE --job JOB`"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.table import Table

from orchestrator.cli.bars import DistributionBar
from orchestrator.cli.options import inventory_option, json_option, print_json, say_notes
from orchestrator.cli.terminal import Console
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.core.errors import UsageError
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.placement import place
from orchestrator.transfer.distribute import Shards, cut_for, distribute, hash_shards
from orchestrator.transfer.mindformers_share import share_of

__all__ = ["command"]


@click.command("distribute-ckpt")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--job", "job_path", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Whose layout."
)
@inventory_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the job.")
@click.option("--dry-run", is_flag=True, help="Print the bytes of each host; no host is touched.")
@json_option
def command(
    file: Path,
    job_path: Path,
    inventory: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> int:
    """Cut FILE for the layout of a job and put on each host only what its ranks load.

    FILE holds whole tensors: .ckpt, .safetensors or an index. Of `task: mindformers` it may be the folder of
    all ranks' files, or of a checkpoint 2.0, too. What a host has already is not sent again. A launch of the
    job with `checkpoint: {load: FILE, distribute: true}` does the same by itself.
    """
    servers = load_inventory(inventory)
    job = load_job(job_path, overrides)
    with ExitStack() as stack:
        shards, notes = _shards(job, servers, file, stack)
        say_notes(notes)
        return _send(shards, servers, dry_run=dry_run, as_json=as_json)


def _shards(job: Job, servers: Inventory, file: Path, stack: ExitStack) -> tuple[Shards, Sequence[str]]:
    """What each host gets; what is made for that lives as long as the stack."""
    if job.task == "command":
        raise UsageError(
            "the layout of `task: command` is not known here",
            where=str(job.path),
            remedy="use `orchestrate checkpoint split` with its strategy files",
        )
    if job.task != MINDFORMERS:
        return cut_for(job, place(job, servers), file), ()
    # It is this file that is loaded, whatever the job names.
    options = dataclasses.replace(job.checkpoint, load=str(file.absolute()), distribute=True)
    job = job.model_copy(update={"checkpoint": options})
    spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestrate-")))
    share = share_of(job, make_plan(job, servers), file, spool)
    return share.shards, share.notes


def _send(shards: Shards, servers: Inventory, *, dry_run: bool, as_json: bool) -> int:
    if dry_run and as_json:
        print_json(
            {host: {"ranks": ranks, "bytes": shards.nbytes(host)} for host, ranks in shards.ranks.items()}
        )
        return 0
    if dry_run:
        Console(highlight=False, soft_wrap=True).print(_table(shards))
        click.echo("nothing was sent (--dry-run)")
        return 0
    hosts = [servers.host(name) for name in shards.ranks]
    with DistributionBar() as progress, fleet_of(hosts, servers.ssh) as fleet:
        shares = distribute(fleet, shards, hash_shards(shards, progress.show), progress.show)
    if as_json:
        print_json({host: {"sent": share.sent, "had": share.had} for host, share in shares.items()})
        return 0
    sent, had = sum(s.sent for s in shares.values()), sum(s.had for s in shares.values())
    already = f", {byte_size(had)} were there already" if had else ""
    click.echo(f"{fold(list(shares))}: {byte_size(sent)} sent{already}")
    return 0


def _table(shards: Shards) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("HOST", "RANKS", "BYTES"):
        table.add_column(column, justify="right" if column == "BYTES" else "left", no_wrap=True)
    for host, ranks in shards.ranks.items():
        table.add_row(host, _span(ranks), byte_size(shards.nbytes(host)))
    return table


def _span(ranks: tuple[int, ...]) -> str:
    return f"{ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else f"{ranks[0]}"
