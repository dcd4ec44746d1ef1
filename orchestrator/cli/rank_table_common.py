"""What the verbs of `rank-table` share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.cli.options import print_json
from orchestrator.config.inventory import Chip, chip_named
from orchestrator.core.errors import ConfigError, Problem, UsageError
from orchestrator.core.paths import atomic_write
from orchestrator.rank_table.read_table import STDIN
from orchestrator.rank_table.table import RankTable

__all__ = ["chip_option", "output_option", "table_argument", "warn", "write_table"]

F = TypeVar("F", bound=Callable[..., Any])


class _ChipType(click.ParamType[Chip]):
    name = "chip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Chip:
        kind = chip_named(str(value))
        if kind is None:
            self.fail(f"{value!r} is none of 910A, 910B, A3, 310P and 950", param, ctx)
        return kind


def chip_option(function: F) -> F:
    text = "910A, 910B, A3, 310P or 950: which rules hold. Not known: those of a 910A only warn."
    return click.option("--chip", type=_ChipType(), metavar="CHIP", help=text)(function)


def table_argument(name: str, *, many: bool = False) -> Callable[[F], F]:
    """A rank table's file, or several; `-` is standard input."""
    kind = click.Path(path_type=Path)
    return click.argument(
        name, type=kind, nargs=-1 if many else 1, required=True, metavar=_metavar(name, many)
    )


def _metavar(name: str, many: bool) -> str:
    shown = "FILE" if name in ("file", "files") else name.upper()
    return f"{shown}..." if many else shown


def output_option(default: str) -> Callable[[F], F]:
    text = f"Default: {default}; `-`: standard output."
    return click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help=text)


def warn(lines: Iterable[object]) -> None:
    for line in lines:
        click.echo(f"orchestrate: warning: {line}", err=True)


def write_table(
    table: RankTable, output: Path, told: Iterable[object] = (), *, as_json: bool = False
) -> None:
    """Replace the file with the table, or leave it as it is, and print what was made.

    `told`: what was said of it on stderr, which `as_json` repeats. Raises ConfigError where it cannot be
    written, UsageError for a table on standard output with the data on it, too.
    """
    if output == STDIN and as_json:
        raise UsageError(
            "-o - prints the table, which is JSON itself", remedy="leave out --json, or name a file"
        )
    if output == STDIN:
        click.echo(table.to_json())
        return
    if output.suffix != ".json":
        problem = Problem(f"-o {output}", "does not end in .json, and HCCL opens no other file", "rename it")
        raise ConfigError([problem])
    try:
        # Read by every user of the servers: it holds no secrets.
        atomic_write(output, table.to_json(), mode=0o644)
    except OSError as error:
        problem = Problem(str(output), f"cannot be written: {error.strerror}", "choose another -o")
        raise ConfigError([problem]) from None
    servers, devices = len(table.server_list), table.device_count
    if as_json:
        sha256 = hashlib.sha256(table.to_json().encode()).hexdigest()
        data = {"path": str(output), "servers": servers, "devices": devices, "sha256": sha256}
        print_json({**data, "warnings": [str(line) for line in told]})
        return
    click.echo(f"{output}: {servers} server(s), {devices} device(s)")
