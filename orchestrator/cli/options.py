"""Arguments and options that several verbs share."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.core.errors import RunNotFound
from orchestrator.core.visible_text import visible

if TYPE_CHECKING:
    from orchestrator.api import Run

__all__ = [
    "DIFFERENT",
    "complete_run",
    "inventory_option",
    "json_option",
    "json_text",
    "meant_run",
    "print_json",
    "run_argument",
    "say_notes",
    "set_option",
]

_HIDDEN = re.compile("[^ -~\n]")

F = TypeVar("F", bound=Callable[..., Any])

# Exit code of the verbs `diff` where they found a difference: 1 means that a run failed, and 2 that there was
# nothing to compare.
DIFFERENT = 6


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For a shell: the names of runs that begin so."""
    # Late: only a shell that completes needs it, and it brings in pydantic.
    from orchestrator.control.runs import known_runs

    return [run.run_id for run in reversed(known_runs()) if run.run_id.startswith(incomplete)]


def meant_run(run: str | None, *, started: bool = False) -> Run:
    """The run that a verb is to look at; without a name the active one, else the newest, which is said.

    A job's name means the same among the runs of that job. With `started` the newest that has had workers,
    for verbs that read what those have written.
    """
    # Late: verbs that look at no run have these options, too, and it brings in most of the project.
    from orchestrator import api

    which = "the newest that started" if started else "the newest"
    if run is not None:
        try:
            return api.find(run, started=started)
        except RunNotFound:
            found = api.find(run, started=started, newest=True)  # a job's name, or it is raised again
        click.echo(f"orchestrate: no run of {run} is active; this is {which}: {found.run_id}", err=True)
        return found
    found = api.find(None, started=started)
    if not api.is_active(found):
        which = which if started and found.root != api.find(None).root else "the newest"
        click.echo(f"orchestrate: no run is active; this is {which}: {found.run_id}", err=True)
    return found


def run_argument(function: F) -> F:
    """The RUN argument; None means the active one."""
    return click.argument("run", required=False, shell_complete=complete_run)(function)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")(function)


def set_option(text: str) -> Callable[[F], F]:
    """`--set KEY=VALUE`, several times, as `overrides`."""
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=text)


def inventory_option(function: F) -> F:
    return click.option(
        "-i",
        "--inventory",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The servers. Default: $ORCHESTRATE_INVENTORY, ./inventory.yaml, ./inventory/default.yaml.",
    )(function)


def json_text(data: Any, *, indent: int | None = None, ascii_only: bool = True) -> str:
    """JSON of which nothing has to be made visible: what a terminal could obey is an escape of JSON's own."""
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    if text.replace("\n", "").isprintable():
        return text
    return _HIDDEN.sub(lambda found: found[0] if _is_shown(found[0]) else _escape(found[0]), text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # such as the space of Chinese texts


def _escape(char: str) -> str:
    escape = json.dumps(char)[1:-1]
    return escape if escape != char else f"\\u{ord(char):04x}"  # json leaves DEL as it is


def say_notes(notes: Iterable[str]) -> None:
    """Lines on what was assumed, left out or taken, beside what a verb prints."""
    for note in notes:
        click.echo(f"orchestrate: note: {visible(note)}", err=True)


def print_json(data: Any) -> None:
    click.echo(json_text(data, indent=2))
