"""Rank tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.measure import Measurement
from rich.table import Table

from orchestrator.cli.terminal import Console
from orchestrator.config.host_ranges import fold
from orchestrator.config.yaml_messages import plain
from orchestrator.rank_table.rules_super_pods import pod_of_server
from orchestrator.rank_table.table import RankTable, RankTableDevice

__all__ = ["devices_view", "folded", "print_whole", "servers_view"]


def folded(numbers: Sequence[str]) -> str:
    """`0-7` of numbers, `10.20.0.[1-8]` of addresses; what is not in order stays as it is."""
    text = fold(numbers)
    inner = text.removeprefix("[").removesuffix("]")
    return inner if f"[{inner}]" == text and "[" not in inner else text


def _addresses(devices: Sequence[RankTableDevice]) -> str:
    found = [device.device_ip for device in devices if device.device_ip]
    return folded(found) if found else "none"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def print_whole(view: Table) -> None:
    """Print a table of which no cell is cut, however narrow the terminal: a cut address is another one."""
    narrow = Console(highlight=False)
    needed = Measurement.get(narrow, narrow.options.update(width=10_000), view).maximum
    Console(width=max(narrow.width, needed), highlight=False, soft_wrap=True).print(view)


def servers_view(table: RankTable) -> Table:
    """A row per server; ranges instead of lists."""
    pods = pod_of_server(table)
    view = _table("SERVER", *(["SUPER POD"] if pods else []), "RANKS", "DEVICES", "DEVICE IPS")
    for server in table.server_list:
        view.add_row(
            plain(server.server_id),
            *([plain(pods.get(server.server_id, ""))] if pods else []),
            plain(folded([device.rank_id for device in server.device])),
            plain(folded([device.device_id for device in server.device])),
            plain(_addresses(server.device)),
        )
    return view


def devices_view(table: RankTable) -> Table:
    """A row per device, in the order of the file; a column for each field that any device has."""
    keys = [key for key in RankTableDevice.model_fields if key != "rank_id"]
    used = [key for key in keys if any(getattr(device, key) for _, device in table.devices())]
    view = _table("RANK", "SERVER", *(key.replace("_", " ").upper() for key in used))
    for server, device in table.devices():
        row = [device.rank_id, server.server_id, *(getattr(device, key) for key in used)]
        view.add_row(*(plain(cell) for cell in row))
    return view
