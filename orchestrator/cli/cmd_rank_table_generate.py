"""`orchestrate rank-table generate`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.rank_table_common import output_option, warn, write_table
from orchestrator.config.inventory_file import load_inventory
from orchestrator.rank_table.live_table import Made, make_for_hosts, make_for_this_server, own_address
from orchestrator.rank_table.merge import device_range, merged_name, visible

__all__ = ["command"]


@click.command("generate")
@click.option(
    "--devices",
    "--device_num",
    "devices",
    metavar="RANGE",
    help='"[0,8)" as for hccl_tools.py, 0-7, or 0,2. Default: all there are.',
)
@click.option(
    "--visible-devices",
    metavar="IDS",
    help="Physical ids, such as 4,5,6,7, within which --devices counts from 0.",
)
@click.option(
    "--server-ip",
    "--server_ip",
    "server_ip",
    metavar="ADDRESS",
    help="Where the other servers reach this one.",
)
@click.option(
    "--hccn-conf",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Device IPs from this file alone. Default: hccn_tool, then /etc/hccn.conf.",
)
@click.option("--without-ips", is_flag=True, help="No device IPs: for jobs on this server alone.")
@click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    help="All of its hosts, over SSH, instead of this server.",
)
@click.option("--hosts", metavar="HOSTS", help="With --inventory: only these, such as npu[1-4].")
@output_option("as hccl_tools.py or merge_hccl.py would call it")
@json_option
def command(
    devices: str | None,
    visible_devices: str | None,
    server_ip: str | None,
    hccn_conf: Path | None,
    without_ips: bool,
    inventory: Path | None,
    hosts: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Make the rank table of this server, or the merged one of all servers of an inventory."""
    if inventory is not None:
        if devices or visible_devices or server_ip or hccn_conf or without_ips:
            raise click.UsageError("with --inventory, the inventory says which devices and addresses")
        loaded = load_inventory(inventory)
        made = make_for_hosts(loaded, loaded.select(hosts or "all"))
        return _done(made, output or Path(merged_name(made.table)), as_json)
    if hosts:
        raise click.UsageError("--hosts needs --inventory")
    chosen = device_range(devices) if devices is not None else None
    ids = chosen or ()
    if visible_devices is not None:
        ids = visible(chosen, device_range(visible_devices, "--visible-devices"))
    address = server_ip or own_address()
    made = make_for_this_server(ids, address, hccn_conf, without_ips=without_ips)
    return _done(made, output or Path(_name(made, chosen or (), address)), as_json)


def _done(made: Made, output: Path, as_json: bool) -> int:
    warn(made.warnings)
    write_table(made.table, output, made.warnings, as_json=as_json)
    return 0


def _name(made: Made, counted: tuple[int, ...], address: str) -> str:
    """The name that hccl_tools.py gives: `hccl_8p_01234567_10.1.2.3.json`, devices as they were counted."""
    ids = counted or [device.device_id for _, device in made.table.devices()]
    return f"hccl_{made.table.device_count}p_{''.join(map(str, ids))}_{address}.json"
