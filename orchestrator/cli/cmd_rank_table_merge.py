"""`orchestrate rank-table merge FILE...`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.rank_table_common import chip_option, output_option, table_argument, warn, write_table
from orchestrator.config.inventory import Chip
from orchestrator.config.inventory_file import load_inventory
from orchestrator.core.errors import Problem
from orchestrator.plan.launch_table import chip_of_hosts
from orchestrator.rank_table.merge import merge, merged_name
from orchestrator.rank_table.read_table import STDIN, read_rank_tables

__all__ = ["command"]


@click.command("merge")
@table_argument("files", many=True)
@output_option("hccl_<servers>s_<ranks>p.json")
@click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Order servers as its hosts. Default: by number of their ids, 10.0.0.2 before 10.0.0.10.",
)
@chip_option
@json_option
def command(
    files: tuple[Path, ...], output: Path | None, inventory: Path | None, chip: Chip | None, as_json: bool
) -> int:
    """Make one table of the servers' tables, with ranks from 0.

    A table of several servers is an earlier merged one and left out: `merge hccl*.json` can be repeated.
    Nothing is written unless HCCL would take the result.
    """
    hosts = load_inventory(inventory) if inventory else None
    inputs = [file for file in dict.fromkeys(files) if not _same(file, output)]
    told: list[Problem] = []
    if len(inputs) < len(dict.fromkeys(files)):
        told.append(Problem(str(output), "is the output, left out of what is merged"))
    if hosts is not None and chip is None:
        chip = chip_of_hosts(hosts.hosts)
    made = merge(read_rank_tables(inputs), inventory=hosts, chip=chip)
    told += [*made.left_out, *made.warnings]
    warn(told)
    write_table(made.table, output or Path(merged_name(made.table)), told, as_json=as_json)
    return 0


def _same(file: Path, output: Path | None) -> bool:
    return output is not None and STDIN not in (file, output) and file.absolute() == output.absolute()
