"""How far a collection is: a bar on a terminal, a line every few seconds elsewhere.

A bar for the two passes of a distribution: reading what is to be sent, and sending it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from orchestrator.cli.live_view import duration
from orchestrator.cli.terminal import Console
from orchestrator.cli.units import byte_size

__all__ = [
    "CollectProgress",
    "DistributionBar",
]

_EVERY = 5.0


class CollectProgress:
    """`update` is the progress of a collection, `say` takes what is to be told between; both to stderr."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("collect", total=None, start=False)
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def update(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:
            # What an earlier collection brought was not brought at this one's speed.
            self._first, self._last = (now, done), now
            self._bar.reset(self._task, completed=done, total=total)
        elif self._console.is_terminal:
            self._bar.update(self._task, completed=done)
        elif now - self._last >= _EVERY:
            self._last = now
            self.say(_line(done, total, now - self._first[0], done - self._first[1]))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> CollectProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def _line(done: int, total: int, seconds: float, brought: int) -> str:
    """`3.2 of 10.7 GB, 310 MB/s, 24s left`"""
    rate = brought / seconds if seconds else 0.0
    left = f", {duration((total - done) / rate)} left" if rate else ""
    return f"{byte_size(done)} of {byte_size(total)}, {byte_size(int(rate))}/s{left}"


class DistributionBar:
    """Shows itself on a terminal only, and leaves nothing behind."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> DistributionBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, phase: str, done: int, total: int) -> None:
        """The `progress` of `orchestrator.transfer.distribute`."""
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        self._bar.update(self._tasks[phase], completed=done)
