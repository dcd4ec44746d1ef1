"""The progress of a copy off a terminal: a line every few seconds, without what draws on terminals.

A copy of a gigabyte takes a second, of which importing that would be a tenth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO

import click

from orchestrator.cli.units import byte_size

__all__ = ["CopyProgress", "PlainProgress", "copy_progress"]

_EVERY = 5.0


class CopyProgress(Protocol):
    """`update` is the progress of a copy, `say` takes what is to be told between."""

    def update(self, done: int, total: int) -> None: ...

    def say(self, text: str) -> None: ...

    def __enter__(self) -> CopyProgress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def copy_progress(stream: TextIO) -> CopyProgress:
    """A bar where `stream` is a terminal, else lines."""
    if not stream.isatty():
        return PlainProgress(stream)
    # Late: it takes longer to import than all that lines need.
    from orchestrator.cli.bars import CollectProgress
    from orchestrator.cli.terminal import Console

    return CollectProgress(Console(file=stream))


class PlainProgress:
    """A line every few seconds."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def update(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:
            # What an earlier collection brought was not brought at this one's speed.
            self._first, self._last = (now, done), now
        elif now - self._last >= _EVERY:
            self._last = now
            self.say(_line(done, total, now - self._first[0], done - self._first[1]))

    def say(self, text: str) -> None:
        click.echo(text, file=self._stream)

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _line(done: int, total: int, seconds: float, brought: int) -> str:
    """`3.2 of 10.7 GB, 310 MB/s, 24s left`"""
    from orchestrator.cli.live_view import duration

    rate = brought / seconds if seconds else 0.0
    left = f", {duration((total - done) / rate)} left" if rate else ""
    return f"{byte_size(done)} of {byte_size(total)}, {byte_size(int(rate))}/s{left}"
