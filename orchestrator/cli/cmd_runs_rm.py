"""`orchestrate runs rm`"""

from __future__ import annotations

import re
import time
from typing import Any

import click

from orchestrator import api
from orchestrator.cli.options import complete_run, json_option, print_json
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.control.remove_runs import Removal, old_runs
from orchestrator.core.errors import OrchestrateError, UsageError
from orchestrator.hosts.fleet import HostResults

__all__ = ["command"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Age(click.ParamType[float]):
    """`7d`, `12h`, `30m`, `2w` or a number of seconds with an `s`."""

    name = "age"
    _form = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])", re.ASCII)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = self._form.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no age; write 7d, 12h, 30m or 2w", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


@click.command("rm")
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=complete_run)
@click.option("--older-than", type=_Age(), metavar="AGE", help="Those that ended so long ago: 7d, 12h, 2w.")
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="All but the newest N.")
@click.option("--here-only", is_flag=True, help="Ask no host: for hosts that are no more.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and what that would free.")
@json_option
def command(
    runs: tuple[str, ...],
    older_than: float | None,
    keep: int | None,
    here_only: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove runs that have ended: here, on their hosts, and what the hosts' content stores have for them.

    A run that goes on, or that one which goes on reads from, is refused. Give runs by name, or --older-than
    and --keep; both together mean those that both allow. What a host that cannot be reached has stays, and
    the run with it.
    """
    chosen = _chosen(runs, older_than, keep)
    removals = []
    try:
        for removal in api.remove(chosen, dry_run=dry_run, here_only=here_only):
            removals.append(removal)
            if not as_json:
                _tell(removal, dry_run)
    finally:  # also what was removed before an error
        if as_json:
            print_json([_data(removal, dry_run) for removal in removals])
    if not removals and not as_json:
        click.echo("no run to remove")
    errors: dict[str, OrchestrateError] = {}
    for removal in removals:
        errors.update(removal.errors)
    HostResults({}, errors).raise_on_error()
    return 0


def _chosen(names: tuple[str, ...], older_than: float | None, keep: int | None) -> list[api.Run]:
    if names and (older_than is not None or keep is not None):
        raise UsageError("runs by name and by age are two questions", remedy="ask one of them at a time")
    if names:
        return list({run.run_id: run for run in map(api.find, names)}.values())
    if older_than is None and keep is None:
        raise UsageError("nothing says which runs", remedy="give RUN…, --older-than 7d or --keep 10")
    return old_runs(api.runs(), older_than=older_than, keep=keep, now=time.time())


def _tell(removal: Removal, dry_run: bool) -> None:
    did = "would free" if dry_run else "freed"
    if removal.is_removed:
        total = sum(removal.hosts.values())
        parts = [
            *[f"{byte_size(total)} on {fold(removal.hosts)}"] * bool(total),
            f"{byte_size(removal.here)} here",
        ]
        click.echo(f"{removal.run_id}: {did} {', '.join(parts)}")
    else:
        click.echo(f"{removal.run_id}: stays known here, {fold(removal.errors)} may still have it")
    if stored := sum(removal.stores.values()):
        click.echo(f"content stores: {did} {byte_size(stored)} on {fold(removal.stores)}")


def _data(removal: Removal, dry_run: bool) -> dict[str, Any]:
    return {
        "run_id": removal.run_id,
        "removed": removal.is_removed and not dry_run,
        "bytes_here": removal.here,
        "bytes_on_hosts": dict(removal.hosts),
        "bytes_in_stores": dict(removal.stores),
        "errors": {host: str(error) for host, error in removal.errors.items()},
    }
