"""Text for terminals: what one would obey, or its encoding lacks, is written as an escape.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import io
import sys

__all__ = ["escape_what_streams_lack", "visible"]


# No control characters, and Chinese texts are full of the second.
_SPACES = "\u00a0\u3000"


def visible(text: str, keep: str = "") -> str:
    """The text with every control character as its escape, except those in `keep`.

    Also what turns the direction of writing, and halves of surrogate pairs, which no encoding has.
    """
    if text.isprintable():
        return text
    keep += _SPACES
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def escape_what_streams_lack() -> None:
    """Let stdout and stderr take any text: `×` is written as `\\xd7` where the encoding (ASCII) has none.

    To be called once, before anything is printed. Streams that a program has put in their place stay.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
