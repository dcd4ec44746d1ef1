"""How a verb speaks: whole lines that are seen at once."""

from __future__ import annotations

__all__ = ["say"]


def say(text: str) -> None:
    """One line to stdout, flushed: it may go to a log that somebody follows."""
    print(text, flush=True)
