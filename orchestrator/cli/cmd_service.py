"""`orchestrate service VERB`"""

from __future__ import annotations

import click

from orchestrator.cli.options import json_option, print_json, say_notes
from orchestrator.control.service import ServiceStatus, install, remove, service_status, start_monitors
from orchestrator.core.errors import PreflightError

__all__ = ["command"]


@click.group("service")
def command() -> None:
    """Start the monitors of runs again when this machine has been restarted.

    Runs go on without, but none of them goes on by itself after a failure (`restart`) until somebody looks at
    it. A systemd unit of this account does it, which runs without a login, or else a line of its crontab.
    """


@command.command("install")
def install_command() -> int:
    """Install it, for this Python and this state directory; what was installed before is replaced."""
    status, notes = install()
    click.echo(f"installed: {status.where}")
    say_notes(notes)
    _require(status)
    return 0


@command.command("status")
@json_option
def status_command(as_json: bool) -> int:
    """Say what is installed, and whether it would work; exit code 4 where it would not."""
    status = service_status()
    if as_json:
        print_json(
            {
                "installed": status.where or None,
                "way": status.way or None,
                "works": status.works,
                "problems": list(status.problems),
            }
        )
        return 0 if status.works else PreflightError.exit_code
    if not status.way:
        raise PreflightError(
            "not installed: after a boot of this machine nobody starts the monitors of runs",
            remedy="`orchestrate service install`",
        )
    click.echo(f"installed: {status.where}")
    _require(status)
    click.echo("monitors are started after a boot")
    return 0


def _require(status: ServiceStatus) -> None:
    if status.problems:
        raise PreflightError("; ".join(status.problems), where=status.where)


@command.command("remove")
def remove_command() -> int:
    """Take away what was installed, and nothing else. Monitors that live go on."""
    for line in remove() or ["nothing is installed"]:
        click.echo(line)
    return 0


@command.command("start-monitors")
def start_command() -> int:
    """Start the monitors now, of each run that has none and needs one: what the service does after a boot."""
    started, errors = start_monitors(say=lambda line: click.echo(f"orchestrate: {line}", err=True))
    for run_id in started:
        click.echo(f"{run_id}: watched again")
    for error in errors:
        click.echo(f"orchestrate: {error}", err=True)
    return max((error.exit_code for error in errors), default=0)
