"""`orchestrate rank-table diff A B`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import DIFFERENT, json_option, print_json
from orchestrator.cli.rank_table_common import table_argument
from orchestrator.config.yaml_messages import plain
from orchestrator.rank_table.read_table import read_rank_tables
from orchestrator.rank_table.table_diff import differences

__all__ = ["command"]


@click.command("diff")
@table_argument("a")
@table_argument("b")
@json_option
def command(a: Path, b: Path, as_json: bool) -> int:
    """Compare what two tables say; the layout of the files does not matter. Exit code 6 if they differ."""
    first, second = read_rank_tables([a, b])
    found = differences(first.require_form(), second.require_form())
    if as_json:
        print_json([difference.to_json() for difference in found])
        return DIFFERENT if found else 0
    for difference in found:
        click.echo(plain(str(difference)))
    if not found:
        same = first.sha256 == second.sha256
        click.echo("no difference" if same else "no difference but in the layout of the files")
    return DIFFERENT if found else 0
