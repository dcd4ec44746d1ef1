"""`orchestrate rank-table push FILE`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import inventory_option, json_option, print_json
from orchestrator.cli.rank_table_common import chip_option, table_argument, warn
from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Chip
from orchestrator.config.inventory_file import load_inventory
from orchestrator.core.errors import ConfigError
from orchestrator.plan.launch_table import chip_of_hosts
from orchestrator.rank_table.findings import errors_of, problems_of, warnings_of
from orchestrator.rank_table.push_table import push_table
from orchestrator.rank_table.read_table import read_rank_table
from orchestrator.rank_table.rules import check_file

__all__ = ["command"]


@click.command("push")
@table_argument("file")
@inventory_option
@click.option("--to", metavar="PATH", help="Where, on every host. Default: <workdir>/rank_table.json.")
@chip_option
@json_option
def command(file: Path, inventory: Path | None, to: str | None, chip: Chip | None, as_json: bool) -> int:
    """Put a table on all servers that are in it, and compare the SHA-256 that each reads back.

    A table that HCCL would refuse is not put anywhere, and nothing is written before all are reached.
    """
    hosts = load_inventory(inventory)
    if to is not None and not to.startswith(("/", "~")):
        raise click.UsageError(
            "--to must be an absolute path: a relative one means another place on each host"
        )
    if to is not None and not to.endswith(".json"):
        raise click.UsageError("--to must end in .json: HCCL opens no other file")
    reading = read_rank_table(file)
    found = check_file(reading, chip=chip or chip_of_hosts(hosts.hosts))
    warn(problems_of(reading.name, warnings_of(found)))
    if errors := errors_of(found):
        raise ConfigError(list(problems_of(reading.name, errors)))
    pushed = push_table(reading.table, reading.data, hosts, to)
    if as_json:
        print_json([{"host": item.host, "path": item.path, "sha256": item.sha256} for item in pushed])
        return 0
    by_path: dict[str, list[str]] = {}
    for item in pushed:
        by_path.setdefault(item.path, []).append(item.host)
    for path, names in by_path.items():
        click.echo(f"{fold(names)}: {path}")
    click.echo(f"sha256 {reading.sha256}, read back from {len(pushed)} host(s)")
    return 0
