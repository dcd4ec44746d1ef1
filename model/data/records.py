"""Files of records, read as a stream: Alpaca JSON, JSON lines (BELLE), plain text.

A record is `{"instruction", "input", "output"}`, as in the data sets of Stanford Alpaca and BELLE, or a
document: `{"text"}`, or a paragraph of a plain text file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import ModelError

__all__ = [
    "FORMATS",
    "Document",
    "Item",
    "Record",
    "RecordError",
    "format_of",
    "load_records",
    "parse",
    "stream",
]

FORMATS = ("json", "jsonl", "text")


@dataclass(frozen=True, slots=True)
class Record:
    """One question and its answer."""

    instruction: str
    output: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A text without a question."""

    text: str


Item = Record | Document


class RecordError(Exception):
    """One record that is none; the file around it is fine."""


def format_of(path: Path) -> str:
    """What kind of file this is, by its first character that is no space: `[` json, `{` jsonl, else text."""
    with opened(path) as file:
        while block := file.read(4096):
            if start := block.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]:
                return {b"[": "json", b"{": "jsonl"}.get(start, "text")
    raise ModelError("is empty", where=str(path))


def stream(file: BinaryIO, kind: str, where: str) -> Iterator[Any]:
    """The values of an open file, one at a time: of a list, of lines, or paragraphs as `{"text"}`.

    A line that is no JSON comes as the RecordError that says so. ModelError where a list breaks off.
    """
    return {"json": _of_list, "jsonl": _of_lines, "text": _of_paragraphs}[kind](file, where)


def _of_list(file: BinaryIO, where: str) -> Iterator[Any]:
    import ijson  # late: hosts that only train do without it

    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise ModelError(f"is no JSON: {error}", where=where) from error


def _of_lines(file: BinaryIO, where: str) -> Iterator[Any]:
    for line in file:
        if line.strip():
            try:
                yield json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError) as error:
                yield RecordError(f"is no JSON: {error}")


def _of_paragraphs(file: BinaryIO, where: str) -> Iterator[Any]:
    """Documents are separated by empty lines."""
    lines: list[bytes] = []
    for line in file:
        if line.strip():
            lines.append(line)
        elif lines:
            yield _paragraph(lines)
            lines = []
    if lines:
        yield _paragraph(lines)


def _paragraph(lines: list[bytes]) -> Any:
    try:
        return {"text": b"".join(lines).decode("utf-8-sig").strip("\r\n")}
    except UnicodeDecodeError as error:
        return RecordError(f"is no UTF-8: {error}")


def parse(value: Any) -> Item:
    """The record that a value is; RecordError says why it is none."""
    if isinstance(value, RecordError):
        raise value
    if not isinstance(value, dict):
        raise RecordError(f"must be a table, not {type(value).__name__}")
    if "text" in value and "instruction" not in value:
        return Document(_text(value, "text"))
    instruction, output = _text(value, "instruction"), _text(value, "output")
    if not isinstance(value.get("input") or "", str):
        raise RecordError("'input' must be a text")
    return Record(instruction, output, value.get("input") or "")


def _text(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text:
        raise RecordError(f"{key!r} must be a text that is not empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordError(f"{key!r} holds half a surrogate pair, which is no character") from None
    return text


def load_records(path: Path, limit: int | None = None) -> list[Item]:
    """The first `limit` records of a file; ModelError names the first that is none."""
    items: list[Item] = []
    kind = format_of(path)
    with opened(path) as file:
        values = _whole_list(file, str(path)) if kind == "json" else stream(file, kind, str(path))
        for index, value in enumerate(values):
            if index == limit:
                break
            try:
                items.append(parse(value))
            except RecordError as error:
                raise ModelError(str(error), where=f"{path}: record {index}") from error
    if not items:
        raise ModelError("holds no record", where=str(path), remedy="see data.path")
    return items


def _whole_list(file: BinaryIO, where: str) -> list[Any]:
    try:
        values = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"is no JSON: {error}", where=where) from error
    return list(values)


def opened(path: Path) -> BinaryIO:
    """The file for reading; ModelError where it cannot be opened."""
    try:
        return path.open("rb")
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="see data.path"
        ) from error
