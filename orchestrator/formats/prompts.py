"""Files of prompts to answer: a text a line, JSON lines, or a JSON list, by the readers of the records.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Tuple

from orchestrator.formats.json_stream import JsonError, bounded_lines, line_value, utf8
from orchestrator.formats.text_records import (
    RecordError,
    RecordFileError,
    Unread,
    context_of,
    format_of,
    history_of,
    items_of,
    open_records,
    text_of,
)

__all__ = ["Prompt", "check_prompts", "prompts_of"]

_JSON = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
_REMEDY = 'write {"prompt": "..."}, or instruction and input'
_READ = frozenset(["prompt", "instruction", "input", "history", "system"])


@dataclass(frozen=True)
class Prompt:
    """A question, the context that belongs to it, and the questions and answers that were before it."""

    text: str
    input: str = ""
    history: Tuple[Tuple[str, str], ...] = ()


def prompts_of(path: Path, unread: Unread) -> Iterator[Prompt]:
    """The prompts of a file, one at a time: of a `.json` or `.jsonl` its values, else its lines.

    A value is a text, or has `prompt`, or `instruction` and `input` as Alpaca's records do, and `history`.
    Only a line feed ends a line. RecordFileError: it cannot be read, is something else, or one is no prompt.
    """
    kind = _JSON.get(path.suffix.lower(), "")
    if kind:
        kind = format_of(path)
    with open_records(path) as file:
        if kind:
            yield from _values(file, kind, str(path), unread)
        else:
            yield from _lines(file, str(path))


def _values(file: BinaryIO, kind: str, where: str, unread: Unread) -> Iterator[Prompt]:
    for number, item in enumerate(items_of(file, kind, where, _prompt, unread), 1):
        if isinstance(item, RecordError):
            raise RecordFileError(str(item), where=f"{where}: prompt {number}", remedy=_REMEDY)
        yield item


def _prompt(value: Any, unread: Unread) -> Prompt:
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise RecordError(f"is no prompt, but a {type(value).__name__}")
    key = "prompt" if "prompt" in value else "instruction"
    try:
        text = text_of(value, key)
    except RecordError as error:
        raise RecordError(f"is no prompt: {error}") from None
    if not text.strip():
        raise RecordError(f"is no prompt: {key!r} is blank")
    unread.add(
        name for name in value if name not in _READ or (name in ("prompt", "instruction") and name != key)
    )
    return Prompt(text, context_of(value), history_of(value))


def _lines(file: BinaryIO, where: str) -> Iterator[Prompt]:
    try:
        for number, line in enumerate(bounded_lines(file), 1):
            try:
                text = utf8(line).rstrip("\r")
            except UnicodeDecodeError as error:
                why = f"is no UTF-8: {error}"
                raise RecordFileError(why, where=f"{where}:{number}", remedy="save it as UTF-8") from None
            if number == 1 and text.startswith("{"):
                _refuse_json(line, where)
            if text.strip():
                yield Prompt(text)
    except JsonError as error:
        raise RecordFileError(str(error), where=where) from None


def _refuse_json(line: bytes, where: str) -> None:
    """Objects would be asked as they stand, braces and all."""
    try:
        value = line_value(line)
    except JsonError:
        return
    if isinstance(value, dict) and ("prompt" in value or "instruction" in value):
        what = "holds JSON lines, but is not called so, and would be asked line by line as it stands"
        raise RecordFileError(what, where=where, remedy="call it .jsonl")


def check_prompts(path: Path) -> Unread:
    """Read a whole file for a job that names it; what is not read comes back. Raises RecordFileError."""
    unread, count = Unread(), 0
    for _ in prompts_of(path, unread):
        count += 1
    if not count:
        raise RecordFileError("holds no prompt", where=str(path))
    return unread
