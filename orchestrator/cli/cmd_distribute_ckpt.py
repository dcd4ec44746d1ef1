"""`orchestrate distribute-ckpt FILE --job JOB`"""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from orchestrator.cli.bars import DistributionBar
from orchestrator.cli.options import inventory_option, json_option, print_json
from orchestrator.cli.terminal import Console
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.core.errors import UsageError
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.placement import place
from orchestrator.transfer.distribute import Shards, cut_for, distribute, hash_shards

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

    FILE holds whole tensors: .ckpt, .safetensors or an index. What a host has already is not sent again. A
    launch of the job with `checkpoint: {load: FILE, distribute: true}` does the same by itself.
    """
    servers = load_inventory(inventory)
    job = load_job(job_path, overrides)
    if job.task == "command":
        raise UsageError(
            "the layout of `task: command` is not known here",
            where=str(job_path),
            remedy="use `orchestrate checkpoint split` with its strategy files",
        )
    if job.task == MINDFORMERS:
        raise UsageError(
            "of `task: mindformers` MindFormers itself cuts what its load_checkpoint names",
            where=str(job_path),
            remedy="put a folder of whole weights on the hosts, as `collect-ckpt --format unified` makes it, "
            "and name it there; with strategy files: `orchestrate checkpoint split`",
        )
    placements = place(job, servers)
    shards = cut_for(job, placements, file)
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
