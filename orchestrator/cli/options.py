"""Arguments and options that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["complete_run", "inventory_option", "json_option", "print_json", "run_argument"]

F = TypeVar("F", bound=Callable[..., Any])


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For a shell: the names of runs that begin so."""
    # Late: only a shell that completes needs it, and it brings in pydantic.
    from orchestrator.control.runs import known_runs

    return [run.run_id for run in reversed(known_runs()) if run.run_id.startswith(incomplete)]


def run_argument(function: F) -> F:
    """The RUN argument; None means the newest."""
    return click.argument("run", required=False, shell_complete=complete_run)(function)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")(function)


def inventory_option(function: F) -> F:
    return click.option(
        "-i",
        "--inventory",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The servers. Default: $ORCHESTRATE_INVENTORY, ./inventory.yaml, ./inventory/default.yaml.",
    )(function)


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))
