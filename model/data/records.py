"""The door to files of records and prompts: the readers that the control node has, too, with our errors."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from model.errors import ModelError
from orchestrator.formats import text_records as files
from orchestrator.formats.prompts import Prompt, prompts_of
from orchestrator.formats.text_records import Document, Item, Record, RecordError, RecordFileError, Unread

__all__ = [
    "Document",
    "Item",
    "Prompt",
    "Record",
    "RecordError",
    "Unread",
    "load_prompts",
    "load_records",
    "stream_records",
    "tell",
]


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except RecordFileError as error:
        raise ModelError(error.what, where=error.where, remedy=error.remedy) from error


def format_of(path: Path) -> str:
    """What kind of file this is, of `files.FORMATS`. Raises ModelError."""
    with _mapped():
        return files.format_of(path)


@contextlib.contextmanager
def stream_records(
    path: Path, kind: str, unread: Unread
) -> Iterator[tuple[Iterator[Item | RecordError], int]]:
    """The records of a file as a stream, what is none as its error, and the file's descriptor.

    Raises ModelError, also while they are read, where the file itself cannot be used.
    """
    with _mapped(), files.open_records(path) as file:
        yield files.records(file, kind, str(path), unread), file.fileno()


def load_records(path: Path, limit: int | None = None) -> list[Item]:
    """The first `limit` records of a file; ModelError names the first that is none. Says what is not read."""
    items: list[Item] = []
    unread = Unread()
    with stream_records(path, format_of(path), unread) as (values, _):
        for index, item in enumerate(islice(values, limit)):
            if isinstance(item, RecordError):
                raise ModelError(str(item), where=f"{path}: record {index}")
            items.append(item)
    if not items:
        raise ModelError("holds no record", where=str(path), remedy="see data.path")
    tell(path, unread)
    return items


def load_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file; ModelError where it is none, or one of them is none. Says what is not read."""
    unread = Unread()
    with _mapped():
        found = list(prompts_of(path, unread))
    tell(path, unread)
    return found


def tell(path: Path, unread: Unread) -> None:
    """A line on stderr on the keys of records that nobody reads."""
    if words := unread.words():
        sys.stderr.write(f"note: {path}: {words}\n")
        sys.stderr.flush()
