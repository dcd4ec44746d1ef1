"""An output that is made in one go: whole, or nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.checkpoint.journal import Journal
from orchestrator.checkpoint.target import OutputLayout
from orchestrator.checkpoint.write import FreeSpace, OutputFiles, discard, free_space

__all__ = ["new_output"]


@contextmanager
def new_output(path: Path, layout: OutputLayout, *, free: FreeSpace = free_space) -> Iterator[OutputFiles]:
    """An output to fill, put in place if the block ends well.

    CheckpointError: no room, a tensor that is not complete, or somebody else is writing it.
    """
    journal = Journal(path)
    try:
        with OutputFiles(path, layout, free=free) as output:
            yield output
            output.finish()
    finally:
        discard(path)
        journal.remove()
        journal.close()
