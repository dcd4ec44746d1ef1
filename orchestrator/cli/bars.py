"""The bars of a terminal: of a collection, and of the two passes of a distribution, reading and sending."""

from __future__ import annotations

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

from orchestrator.cli.terminal import Console

__all__ = [
    "CollectProgress",
    "DistributionBar",
]


class CollectProgress:
    """`update` is the progress of a collection, `say` takes what is to be told between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("collect", total=None, start=False)
        self._is_begun = False

    def update(self, done: int, total: int) -> None:
        if self._is_begun:
            self._bar.update(self._task, completed=done)
            return
        # What an earlier collection brought was not brought at this one's speed.
        self._is_begun = True
        self._bar.reset(self._task, completed=done, total=total)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> CollectProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


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
