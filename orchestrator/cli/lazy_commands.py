"""Groups of commands that import a command only when it is run, or its own help is asked for."""

from __future__ import annotations

import contextlib
import difflib
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown verb is told with those that it may have been meant for."""
        name = args[0] if args else ""
        if not name or name.startswith("-") or name in self._verbs:
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, self._verbs, n=3, cutoff=0.5)
        near += [verb for verb in self._verbs if name in verb.split("-") and verb not in near]
        meant = f" Did you mean {' or '.join(f'`{verb}`' for verb in near)}?" if near else ""
        ctx.fail(f"No such command `{name}`.{meant} All of them: `{ctx.command_path} --help`.")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in self._verbs.items()])
