"""Arguments and options that several verbs share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.core.errors import UsageError

__all__ = ["inventory_option", "json_option", "print_json", "resolve_inventory", "run_argument"]

F = TypeVar("F", bound=Callable[..., Any])
_DEFAULTS = (Path("inventory.yaml"), Path("inventory/default.yaml"))


def _complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    # Late: only a shell that completes needs it, and it brings in pydantic.
    from orchestrator.control.runs import known_runs

    return [run.run_id for run in reversed(known_runs()) if run.run_id.startswith(incomplete)]


def run_argument(function: F) -> F:
    """The RUN argument; None means the newest."""
    return click.argument("run", required=False, shell_complete=_complete_run)(function)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")(function)


def inventory_option(function: F) -> F:
    return click.option(
        "-i",
        "--inventory",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The servers. Default: $ORCHESTRATE_INVENTORY, ./inventory.yaml, ./inventory/default.yaml.",
    )(function)


def resolve_inventory(given: Path | None) -> Path:
    """The inventory file to use; raises UsageError where none is named and no default exists."""
    if given is not None:
        return given
    if named := os.environ.get("ORCHESTRATE_INVENTORY"):
        return Path(named)
    for candidate in _DEFAULTS:
        if candidate.exists():
            return candidate
    raise UsageError(
        "no inventory given", remedy="use `-i inventory/local.yaml`, or set ORCHESTRATE_INVENTORY"
    )


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))
