"""`orchestrate check`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator import api
from orchestrator.cli.options import inventory_option, json_option, print_json
from orchestrator.cli.render_report import print_report, report_data

__all__ = ["command"]


@click.command("check")
@inventory_option
@click.option(
    "--job",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check the hosts of this job, for what it needs; default: all hosts.",
)
@click.option("--full-mesh", is_flag=True, help="Ping between all hosts' devices even above 16 hosts.")
@click.option(
    "--accept-new-host-keys", is_flag=True, help="Add unknown host keys; changed ones stay refused."
)
@json_option
def command(
    inventory: Path | None, job: Path | None, full_mesh: bool, accept_new_host_keys: bool, as_json: bool
) -> int:
    """Check whether the servers are fit: access, software, devices and their network.

    Nothing is changed on them. Exit codes: 0 fit (with or without warnings), 3 some do not answer, 4 not fit.
    """
    report = api.check(inventory, job, full_mesh=full_mesh, accept_new_host_keys=accept_new_host_keys)
    if as_json:
        print_json(report_data(report))
    else:
        print_report(report)
    return report.exit_code
