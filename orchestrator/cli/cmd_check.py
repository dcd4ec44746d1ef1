"""`orchestrate check`"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import click
from rich.markup import escape
from rich.status import Status

from orchestrator import api
from orchestrator.cli.options import inventory_option, json_option, print_json, set_option
from orchestrator.cli.render_report import print_report, report_data
from orchestrator.cli.terminal import Console
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import UsageError

__all__ = ["command"]


@click.command("check")
@inventory_option
@click.option(
    "--job",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check the hosts of this job, for what it needs; default: all hosts.",
)
@set_option("With --job: a value of the job, as for launch (train.steps=10).")
@click.option("--all", "every", is_flag=True, help="A row for each check, also for those that found nothing.")
@click.option("--full-mesh", is_flag=True, help="Ping between all hosts' devices even above 16 hosts.")
@click.option(
    "--accept-new-host-keys", is_flag=True, help="Add unknown host keys; changed ones stay refused."
)
@json_option
def command(
    inventory: Path | None,
    job: Path | None,
    overrides: tuple[str, ...],
    every: bool,
    full_mesh: bool,
    accept_new_host_keys: bool,
    as_json: bool,
) -> int:
    """Check whether the servers are fit: access, software, devices and their network.

    Nothing is changed on them, but that the agent that looks is placed in their workdir.
    Exit codes: 0 fit (with or without warnings), 3 some do not answer, 4 not fit.
    """
    if overrides and job is None:
        raise UsageError("--set changes a value of a job", remedy="name the job with --job")
    with _Progress(shown=not as_json) as progress:
        report = api.check(
            inventory,
            job,
            overrides,
            full_mesh=full_mesh,
            accept_new_host_keys=accept_new_host_keys,
            begun=progress.begun,
            seen=progress.seen,
        )
    if as_json:
        print_json(report_data(report))
    else:
        print_report(report, every=every)
    return report.exit_code


class _Progress:
    """What is said on stderr while the hosts are looked at: one line, in a terminal kept up to date."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._status: Status | None = None
        self._count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> _Progress:
        return self

    def begun(self, hosts: int) -> None:
        """The files have been read, and so many hosts are asked now."""
        text = f"looking at {hosts} host{'s' * (hosts > 1)} ..."
        if self._shown and sys.stderr.isatty():
            self._status = Console(stderr=True, highlight=False).status(text)
            self._status.start()
        elif self._shown:
            click.echo(f"orchestrate: {text}", err=True)

    def seen(self, host: str) -> None:
        """A host has answered. Called from the threads that ask."""
        with self._lock:
            self._count += 1
            if self._status is not None:
                self._status.update(
                    f"looking at the hosts: {self._count} have answered, {escape(plain(host))} last"
                )

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
