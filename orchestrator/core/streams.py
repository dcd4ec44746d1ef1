"""What a terminal's encoding lacks is written as an escape, in place of a traceback."""

from __future__ import annotations

import io
import sys

__all__ = ["escape_what_streams_lack"]


def escape_what_streams_lack() -> None:
    """Let stdout and stderr take any text: `×` is written as `\\xd7` where the encoding (ASCII) has none.

    To be called once, before anything is printed. Streams that a program has put in their place stay.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
