"""Groups of commands that import a command only when it is run, or its own help is asked for."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """What is imported stays: to look for garbage in it takes a sixth of the time that it needs."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class LazyGroup(click.Group):
    """`verbs` says of each verb the module whose `command` it is, and the first line of its help.

    So that `--help` imports none of them: each brings in pydantic and more, and help is what people wait
    for most often.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        with _without_gc():
            module = importlib.import_module(f"orchestrator.cli.{self._verbs[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in self._verbs.items()])
