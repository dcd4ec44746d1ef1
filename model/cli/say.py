"""How a verb speaks: lines, or pieces of one, that are seen at once."""

from __future__ import annotations

__all__ = ["piece", "say"]


def say(text: str) -> None:
    """One line to stdout, flushed: it may go to a log that somebody follows."""
    print(text, flush=True)


def piece(text: str) -> None:
    """A part of a line that is not over."""
    print(text, end="", flush=True)
