"""Text for terminals: what one would obey, or its encoding lacks, is written as an escape.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Any, Iterator, TextIO

__all__ = [
    "OutputClosed",
    "RawStream",
    "VisibleStream",
    "escape_what_streams_lack",
    "only_visible_text",
    "visible",
    "visible_lines",
]


# No control characters, and Chinese texts are full of the second.
_SPACES = "\u00a0\u3000"
_NOT_ASCII_PRINTABLE = re.compile("[^ -~]")


def visible(text: str, keep: str = "") -> str:
    """The text with every control character as its escape, except those in `keep`.

    Also what turns the direction of writing, and halves of surrogate pairs, which no encoding has.
    """
    if text.isprintable():
        return text
    keep += _SPACES

    def shown(found: re.Match[str]) -> str:
        char = found[0]
        return char if char.isprintable() or char in keep else ascii(char)[1:-1]

    return _NOT_ASCII_PRINTABLE.sub(shown, text)


def visible_lines(text: str) -> str:
    """The same of text in which line feeds end lines and tabs are tabs."""
    if "\n" not in text:
        return visible(text, "\t")
    return "\n".join([line if line.isprintable() else visible(line, "\t") for line in text.split("\n")])


class OutputClosed(Exception):
    """Who reads our output (head, less) has had enough.

    No OSError: the pipe to another process is none of ours to keep silent about, and libraries of command
    lines have their own idea of what an OSError of this kind means.
    """


class VisibleStream(io.TextIOBase):
    """A stream of which a terminal obeys nothing but line feeds and tabs: what is written is made visible.

    What has to send colours uses a RawStream, and sees to its text itself. Raises OutputClosed.
    """

    def __init__(self, stream: TextIO) -> None:
        # The name by which `rich` asks for the stream behind one of its own kind.
        self.rich_proxied_file = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.rich_proxied_file.encoding

    @property
    def errors(self) -> Any:  # type: ignore[override]
        return self.rich_proxied_file.errors

    def write(self, text: str) -> int:
        return self._write(visible_lines(text))

    def _write(self, text: str) -> int:
        try:
            return self.rich_proxied_file.write(text)
        except BrokenPipeError:
            raise OutputClosed from None

    def flush(self) -> None:
        try:
            self.rich_proxied_file.flush()
        except BrokenPipeError:
            raise OutputClosed from None

    def isatty(self) -> bool:
        return self.rich_proxied_file.isatty()

    def fileno(self) -> int:
        return self.rich_proxied_file.fileno()

    def writable(self) -> bool:
        return True


class RawStream(VisibleStream):
    """The stream behind this module's and `rich`'s own, for those who send colours. Raises OutputClosed."""

    def __init__(self, stream: Any) -> None:
        while hasattr(stream, "rich_proxied_file"):
            stream = stream.rich_proxied_file
        super().__init__(stream)

    def write(self, text: str) -> int:
        return self._write(text)


def escape_what_streams_lack() -> None:
    """Let stdout and stderr take any text: `×` is written as `\\xd7` where the encoding (ASCII) has none.

    To be called once, before anything is printed. Streams that a program has put in their place stay.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def only_visible_text() -> Iterator[None]:
    """Let stdout and stderr take any text and show it, without a terminal that obeys it.

    A stream that is closed from the beginning takes what is written and drops it.
    """
    escape_what_streams_lack()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (VisibleStream(stream or io.StringIO()) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
