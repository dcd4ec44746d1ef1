"""The terminal's door: the one console of the command line, through which text is shown and never obeyed.

No markup is read in any text, so that `[/x]` in a host's name or a log is those four characters; control
characters are written as escapes, in whatever cell or line they stand.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import IO, Any, cast

from rich import console as rich_console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from orchestrator.core.visible_text import RawStream, visible_lines

__all__ = ["Console", "Wrapped", "headed", "wrapped"]


def headed(head: str, rest: str) -> Text:
    """A line whose beginning is bold; no text is read for markup."""
    return Text.assemble((visible_lines(head), "bold"), visible_lines(rest))


def wrapped(text: str, width: int, indent: int | None = None) -> list[str]:
    """The lines of a text, broken between words where they are longer than a screen is wide.

    What goes on begins `indent` columns in, without it two more than its line. A word stays in one piece.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        column = len(line) - len(line.lstrip()) + 2 if indent is None else indent
        broken = textwrap.wrap(
            line,
            width,
            subsequent_indent=" " * column,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        )
        lines += broken or [""]
    return lines


class Wrapped:
    """Lines of text of one style, broken as by `wrapped` where they are longer than a console is wide."""

    def __init__(self, text: str, style: str = "", indent: int | None = None) -> None:
        self._text, self._style, self._indent = visible_lines(text), style, indent

    def __rich_console__(self, console: rich_console.Console, options: ConsoleOptions) -> Iterable[Text]:
        for line in wrapped(self._text, options.max_width, self._indent):
            yield Text(line, style=self._style)


class Console(rich_console.Console):
    """A console of `rich` that takes nothing of a text for its own; raises OutputClosed."""

    def __init__(
        self,
        *,
        stderr: bool = False,
        width: int | None = None,
        height: int | None = None,
        soft_wrap: bool = False,
        file: IO[str] | None = None,
        highlight: bool = False,
    ) -> None:
        super().__init__(
            stderr=stderr,
            width=width,
            height=height,
            soft_wrap=soft_wrap,
            file=file,
            markup=False,
            emoji=False,
            highlight=highlight,
        )

    @property
    def file(self) -> IO[str]:
        return cast(IO[str], RawStream(super().file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What `rich` makes of it, with the text visible."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible_lines(segment.text), segment.style)

    def render_str(self, text: str, **options: Any) -> Any:
        """A text as it is: `rich` would drop some control characters, and reckon with the width of others."""
        return super().render_str(visible_lines(text), **options)
