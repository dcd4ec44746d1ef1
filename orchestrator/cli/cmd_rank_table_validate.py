"""`orchestrate rank-table validate FILE...`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.cli.options import json_option, print_json
from orchestrator.cli.rank_table_common import chip_option, table_argument, warn
from orchestrator.config.inventory import Chip, Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.core.errors import ConfigError, OrchestrateError, Problem
from orchestrator.hosts.fleet import HostResults
from orchestrator.plan.launch_table import chip_of_hosts
from orchestrator.rank_table.findings import Finding, errors_of, problems_of, warnings_of
from orchestrator.rank_table.live_table import Compared, compare_with_hosts, compare_with_inventory
from orchestrator.rank_table.read_table import Reading, read_rank_table
from orchestrator.rank_table.rules import check_file
from orchestrator.rank_table.table import RankTable

__all__ = ["command"]


@click.command("validate")
@table_argument("files", many=True)
@click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also compare with what it says of its hosts.",
)
@click.option("--live", is_flag=True, help="Also compare with what the tools of its hosts say now.")
@chip_option
@json_option
def command(
    files: tuple[Path, ...], inventory: Path | None, live: bool, chip: Chip | None, as_json: bool
) -> int:
    """Tell everything that HCCL or MindSpore would refuse in each FILE, and what may be wrong.

    Exit code 2 if there is an error in any; warnings alone leave it 0.
    """
    if live and inventory is None:
        raise click.UsageError("--live needs the servers: give --inventory")
    hosts = load_inventory(inventory) if inventory else None
    problems: list[Problem] = []
    unreachable: dict[str, OrchestrateError] = {}
    data = []
    for path in files:
        try:
            reading = read_rank_table(path)
        except ConfigError as error:
            problems += error.problems
            data.append({"file": str(path), "valid": False, "unreadable": error.lines()})
            continue
        compared = _compared(reading, hosts, live)
        unreachable |= compared.errors
        found = [*check_file(reading, chip=chip or compared.chip), *compared.findings]
        problems += problems_of(reading.name, errors_of(found))
        data.append({**_as_data(reading, found), "not_asked": sorted(compared.errors)})
        if not as_json:
            _tell(reading, found)
    if as_json:
        print_json(data)
    if problems:
        problems += [Problem(host, error.what, error.remedy) for host, error in unreachable.items()]
        raise ConfigError(problems)
    HostResults({}, unreachable).raise_on_error()
    return 0


def _compared(reading: Reading, hosts: Inventory | None, live: bool) -> Compared:
    if hosts is not None and live:
        return compare_with_hosts(reading.table, hosts)
    static = compare_with_inventory(reading.table, hosts) if hosts is not None else []
    return Compared(tuple(static), {}, chip_of_hosts(hosts.hosts) if hosts is not None else None)


def _tell(reading: Reading, found: Sequence[Finding]) -> None:
    warn(problems_of(reading.name, warnings_of(found)))
    errors, table = len(errors_of(found)), reading.table
    verdict = f"{errors} error(s)" if errors else "valid"
    size = f"{len(table.server_list)} server(s), {table.device_count} device(s)"
    if bare := _without_address(table):
        # HCCL takes that within one server; where it is wrong, a finding says so.
        size += f" ({'none' if bare == table.device_count else f'{bare} of them not'} with a device_ip)"
    click.echo(f"{reading.name}: {verdict}, version {table.version}, {size}, sha256 {reading.sha256[:16]}")


def _without_address(table: RankTable) -> int:
    return sum(not device.device_ip for _, device in table.devices())


def _as_data(reading: Reading, found: Sequence[Finding]) -> dict[str, object]:
    table = reading.table
    return {
        "file": reading.name,
        "valid": not errors_of(found),
        "sha256": reading.sha256,
        "version": table.version,
        "servers": len(table.server_list),
        "devices": table.device_count,
        "without_device_ip": _without_address(table),
        "findings": [finding.to_json() for finding in found],
    }
