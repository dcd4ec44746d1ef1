"""A bar of bytes on stderr, where somebody looks at it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["bytes_bar"]


def _silent(done: int, total: int) -> None:
    pass


@contextlib.contextmanager
def bytes_bar() -> Iterator[Callable[[int, int], None]]:
    """Gives `progress(done, total)` in bytes; nothing is drawn where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _silent
        return
    # Late: a worker's Python may have no rich, and a worker has no terminal.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("convert", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
