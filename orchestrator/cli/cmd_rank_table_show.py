"""`orchestrate rank-table show FILE`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import json_option, print_json
from orchestrator.cli.rank_table_common import table_argument
from orchestrator.cli.render_rank_table import devices_view, print_whole, servers_view
from orchestrator.config.yaml_messages import plain
from orchestrator.rank_table.findings import errors_of
from orchestrator.rank_table.read_table import read_rank_table
from orchestrator.rank_table.rules import check_file
from orchestrator.rank_table.rules_super_pods import pod_of_server
from orchestrator.rank_table.table import RankTable

__all__ = ["command"]


@click.command("show")
@table_argument("file")
@click.option("--ranks", is_flag=True, help="A line per rank instead of one per server.")
@json_option
def command(file: Path, ranks: bool, as_json: bool) -> int:
    """Show which ranks are on which devices of which servers."""
    reading = read_rank_table(file)
    table = reading.require_form()
    if as_json:
        print_json({"file": reading.name, "sha256": reading.sha256, **_as_data(table)})
        return 0
    size = f"{len(table.server_list)} server(s), {table.device_count} device(s)"
    click.echo(plain(f"{reading.name}: version {table.version}, {table.status}, {size}"))
    click.echo(f"sha256 {reading.sha256}")
    print_whole(devices_view(table) if ranks else servers_view(table))
    if count := len(errors_of(check_file(reading))):
        text = f"this table has {count} error(s): orchestrate rank-table validate {file}"
        click.echo(f"orchestrate: warning: {plain(text)}", err=True)
    return 0


def _as_data(table: RankTable) -> dict[str, object]:
    """The table as written, with the super pod of each server."""
    pods = pod_of_server(table)
    data = table.model_dump(exclude_unset=True)
    for server in data["server_list"]:
        if server["server_id"] in pods:
            server["super_pod_id"] = pods[server["server_id"]]
    return {"devices": table.device_count, "table": data}
