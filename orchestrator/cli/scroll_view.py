"""The scrolling view: something that is drawn anew again and again, and may be longer than the screen."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.live import Live
from rich.segment import Segment, Segments
from rich.text import Text

from orchestrator.cli.terminal import Console

__all__ = ["ScrollView", "keys_of_terminal"]

# What a terminal sends -> lines to go; `page` and `all` are multiplied by what they mean.
_KEYS = {
    b"\x1b[A": (-1, "line"),
    b"\x1bOA": (-1, "line"),
    b"k": (-1, "line"),
    b"\x1b[B": (1, "line"),
    b"\x1bOB": (1, "line"),
    b"j": (1, "line"),
    b"\r": (1, "line"),
    b"\n": (1, "line"),
    b"\x1b[5~": (-1, "page"),
    b"b": (-1, "page"),
    b"\x1b[6~": (1, "page"),
    b" ": (1, "page"),
    b"\x1b[H": (-1, "all"),
    b"\x1b[1~": (-1, "all"),
    b"g": (-1, "all"),
    b"\x1b[F": (1, "all"),
    b"\x1b[4~": (1, "all"),
    b"G": (1, "all"),
}
_HELP = "arrows, PgUp, PgDn scroll; q leaves"


class ScrollView:
    """Draws what it is given on a screen of its own, from the line to which one has scrolled."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._top = 0
        self._lines: list[list[Segment]] = []

    @property
    def room(self) -> int:
        """Lines of the screen above the one that says where one is."""
        return max(1, self._console.height - 1)

    def set(self, view: RenderableType) -> None:
        """Show this from now on."""
        self._lines = self._console.render_lines(view, self._console.options.update(height=None), pad=False)
        self._go(0)

    def press(self, key: bytes) -> bool:
        """Scroll as the key says; False for the one that leaves."""
        count, unit = _KEYS.get(key, (0, "line"))
        self._go(count * {"line": 1, "page": self.room, "all": len(self._lines)}[unit])
        return key not in (b"q", b"Q")

    def screen(self) -> RenderableType:
        """What is to be seen now."""
        shown = self._lines[self._top : self._top + self.room]
        where = f"lines {self._top + 1}-{self._top + len(shown)} of {len(self._lines)}; "
        is_whole = len(shown) == len(self._lines)
        lines = [segment for line in shown for segment in (*line, Segment.line())]
        return Group(
            Segments(lines), Text(("" if is_whole else where) + _HELP, style="dim", no_wrap=True, end="")
        )

    def _go(self, lines: int) -> None:
        self._top = max(0, min(self._top + lines, len(self._lines) - self.room))

    def run(
        self,
        views: Iterator[RenderableType],
        read_key: Callable[[float], bytes],
        *,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show view after view, one an interval, until there are no more or somebody leaves."""
        with Live(console=self._console, screen=True, auto_refresh=False, transient=True) as live:
            for view in views:
                self.set(view)
                due = clock() + interval
                while True:
                    live.update(self.screen(), refresh=True)
                    left = due - clock()
                    if left <= 0:
                        break
                    if not self.press(read_key(left)):
                        return


@contextlib.contextmanager
def keys_of_terminal() -> Iterator[Callable[[float], bytes]]:
    """A function that waits so many seconds for a key of standard input's terminal; b"" where none came."""
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def read_key(seconds: float) -> bytes:
        ready, _, _ = select.select([handle], [], [], max(0.0, seconds))
        return os.read(handle, 16) if ready else b""

    tty.setcbreak(handle)
    try:
        yield read_key
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
