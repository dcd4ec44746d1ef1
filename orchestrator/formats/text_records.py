"""Records to train on and prompts to answer, read as a stream: Alpaca JSON, JSON lines (BELLE), plain text.

A record is `{"instruction", "input", "output"}`, as in the data sets of Stanford Alpaca and BELLE, with the
`history` of LLaMA-Factory's form of it; or a document: `{"text"}`, or a paragraph of a plain text file. What
is none of these is refused by its name, here and on the hosts alike.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Tuple, Union

from orchestrator.core.errors import OrchestrateError
from orchestrator.core.visible_text import visible
from orchestrator.formats.foreign_files import HEAD, describe_foreign, open_regular
from orchestrator.formats.json_stream import (
    JsonError,
    bounded_lines,
    first_value,
    is_blank,
    line_values,
    list_values,
    utf8,
)

__all__ = [
    "CHECKED",
    "FORMATS",
    "Document",
    "Item",
    "Record",
    "RecordError",
    "RecordFileError",
    "Unread",
    "check_records",
    "format_of",
    "items_of",
    "open_records",
    "record_of",
    "records",
]

FORMATS = ("json", "jsonl", "text")
# So many bytes of a file are read before a job is launched; the workers read all of it.
CHECKED = 64 << 20
_JSON_NAMES = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Record:
    """One question and its answer, and the questions and answers that were before it."""

    instruction: str
    output: str
    input: str = ""
    history: Tuple[Tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Document:
    """A text without a question."""

    text: str


Item = Union[Record, Document]


class RecordError(Exception):
    """One record that is none; the file around it is fine."""


class RecordFileError(OrchestrateError):
    """A file of records or prompts that cannot be used."""

    exit_code = 2


@dataclass
class Unread:
    """The keys of records that nobody reads, and of how many records."""

    records: Dict[str, int] = field(default_factory=dict)

    def add(self, keys: Any) -> None:
        """One more record has these."""
        for key in keys:
            self.records[key] = self.records.get(key, 0) + 1

    def words(self) -> str:
        """What is said of them; nothing where there are none."""
        most = sorted(self.records.items(), key=lambda item: -item[1])
        few = [f"{visible(key[:40])!r} of {count} records" for key, count in most[:8]]
        if len(most) > len(few):
            few.append(f"{len(most) - len(few)} keys more")
        return f"not read: {', '.join(few)}" if few else ""


def open_records(path: Path) -> BinaryIO:
    """The file for reading; RecordFileError where it cannot be opened, or is neither JSON nor text."""
    try:
        file = open_regular(path)
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise RecordFileError(why, where=str(path), remedy="see data.path") from error
    try:
        words = describe_foreign(file.read(HEAD), path.name)
        if words:
            raise RecordFileError(words[0], where=str(path), remedy=words[1])
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def format_of(path: Path) -> str:
    """What kind of file this is, by its first character that is no space: `[` json, `{` jsonl, else text.

    RecordFileError: it is empty, something else altogether, or one JSON object that spans lines.
    """
    with open_records(path) as file:
        start = b""
        while not start:
            block = file.read(HEAD)
            if not block:
                raise RecordFileError("is empty", where=str(path))
            start = block.lstrip(b" \t\r\n\x0b\x0c\xef\xbb\xbf")
        kind = {b"[": "json", b"{": "jsonl"}.get(start[:1], "text")
        if kind == "text" and path.suffix.lower() in _JSON_NAMES:
            what = (
                f"is called {path.suffix} but begins with {visible(repr(start[:20])[1:])}, not with [ or {{"
            )
            raise RecordFileError(what, where=str(path), remedy="is it what was to be downloaded?")
        if kind == "jsonl":
            file.seek(0)
            _refuse_one_object(file, str(path))
        return kind


def _refuse_one_object(file: BinaryIO, where: str) -> None:
    """Told apart from lines by its first line, which is no JSON, though the whole is."""
    try:
        first = next(line_values(file))
        if not isinstance(first, JsonError):
            return
        file.seek(0)
        value = first_value(file)
    except (JsonError, StopIteration):
        return  # a bad line: who reads the records says so
    keys = ", ".join(visible(str(key)[:40]) for key in islice(value, 8)) if isinstance(value, dict) else ""
    inner = _list_of_records(value)
    what = f"is one JSON object over several lines (its keys are {keys}), not a list and not JSON lines"
    if inner:
        what = f"is one JSON object, not a list; the records seem to be under `{inner}`"
        raise RecordFileError(what, where=where, remedy=f"write that list alone: `jq .{inner} FILE`")
    raise RecordFileError(what, where=where, remedy="put [ and ] around it, or write a record a line")


def _list_of_records(value: Any) -> str:
    """The key under which a table holds a list of tables; nothing where none does."""
    if not isinstance(value, dict):
        return ""
    held = (key for key, inner in value.items() if isinstance(inner, list) and inner)
    return next((visible(key[:40]) for key in held if isinstance(value[key][0], dict)), "")


def items_of(
    file: BinaryIO, kind: str, where: str, read: Callable[[Any, Unread], Any], unread: Unread
) -> Iterator[Any]:
    """What `read` makes of each value of an open JSON file, or the RecordError that says why it is nothing.

    RecordFileError where a list breaks off, for what follows it cannot be told.
    """
    try:
        for value in list_values(file) if kind == "json" else line_values(file):
            try:
                if isinstance(value, JsonError):
                    raise RecordError(str(value))
                yield read(value, unread)
            except RecordError as error:
                yield error
    except JsonError as error:
        raise RecordFileError(str(error), where=where, remedy=error.remedy) from error


def records(file: BinaryIO, kind: str, where: str, unread: Unread) -> Iterator[Union[Item, RecordError]]:
    """The records of an open file, one at a time; what is none comes as the RecordError that says why."""
    if kind != "text":
        yield from items_of(file, kind, where, record_of, unread)
        return
    try:
        yield from _paragraphs(file)
    except JsonError as error:
        raise RecordFileError(str(error), where=where, remedy=error.remedy) from error


def _paragraphs(file: BinaryIO) -> Iterator[Union[Document, RecordError]]:
    """Documents are separated by empty lines."""
    lines: List[bytes] = []
    held = 0
    for line in bounded_lines(file):
        if line and not is_blank(line):
            lines.append(line)
            held += len(line) + 1
            if held > CHECKED:
                raise JsonError(
                    f"a paragraph has more than {CHECKED >> 20} MiB", "separate documents by empty lines"
                )
        elif lines:
            yield _paragraph(lines)
            lines, held = [], 0
    if lines:
        yield _paragraph(lines)


def _paragraph(lines: List[bytes]) -> Union[Document, RecordError]:
    data = b"\n".join(lines)
    if b"\0" in data:
        return RecordError("holds a NUL byte, which no text does")
    try:
        return Document(utf8(data).strip("\r\n"))
    except UnicodeDecodeError as error:
        return RecordError(f"is no UTF-8: {error}")


def record_of(value: Any, unread: Unread) -> Item:
    """The record that a value is, `unread` of the keys that nobody reads; RecordError says why it is none."""
    if not isinstance(value, dict):
        raise RecordError(f"must be a table, not {type(value).__name__}")
    if "text" in value and "instruction" not in value:
        document = Document(text_of(value, "text"))
        unread.add(key for key in value if key != "text")
        return document
    instruction, output = text_of(value, "instruction"), text_of(value, "output")
    record = Record(instruction, output, context_of(value), history_of(value))
    unread.add(key for key in value if key not in _READ)
    return record


_READ = frozenset(["instruction", "input", "output", "history", "system"])


def context_of(value: Dict[str, Any]) -> str:
    """The further context of a question."""
    return text_of(value, "input") if value.get("input") else _empty(value, "input")


def _empty(value: Dict[str, Any], key: str) -> str:
    if value.get(key) not in ("", None):
        raise RecordError(f"{key!r} must be a text")
    return ""


def history_of(value: Dict[str, Any]) -> Tuple[Tuple[str, str], ...]:
    """The turns before the question; RecordError also for a `system`, for which no template has a place."""
    if value.get("system") not in ("", None, []):
        raise RecordError(
            "has a 'system', for which no template here has a place: put its text into 'instruction', "
            "or remove the key"
        )
    turns = value.get("history")
    if turns in (None, "", []):
        return ()
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise RecordError("'history' must be a list of [question, answer]")
    return tuple(
        (_character_text(asked, "history"), _character_text(said, "history")) for asked, said in turns
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)


def text_of(value: Dict[str, Any], key: str) -> str:
    """The text under a key, which must not be empty."""
    text = value.get(key)
    if not isinstance(text, str) or not text:
        raise RecordError(f"{key!r} must be a text that is not empty{_instead(value, key)}")
    return _character_text(text, key)


def _character_text(text: str, key: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordError(f"{key!r} holds half a surrogate pair, which is no character") from None
    return text


# What else records are published as, by the key that tells.
_OTHERS = {
    "conversations": "ShareGPT, as of BELLE's train/",
    "messages": "messages of role and content, as of OpenAI",
    "chosen": "pairs to prefer, as of a reward model",
    "completion": "prompt and completion",
    "response": "question and response",
    "answer": "question and answer",
    "target": "inputs and targets",
    "targets": "inputs and targets",
}


def _instead(value: Dict[str, Any], key: str) -> str:
    """What the table holds in place of a key that it has not."""
    if key in value:
        return ""
    keys = ", ".join(visible(str(name)[:40]) for name in islice(value, 8)) or "none"
    known = next((f"{name}: {words}" for name, words in _OTHERS.items() if name in value), "")
    if known:
        return f"; its keys are {keys} ({known}; not read here: convert it to instruction, input and output)"
    inner = _list_of_records(value)
    if inner:
        return f"; its keys are {keys}: it is one JSON object, and the records seem to be under `{inner}`"
    return f"; its keys are {keys}"


def check_records(path: Path, limit: Optional[int] = None, most: int = CHECKED) -> Unread:
    """Read the first `limit` records of a file, at most `most` bytes of it, for a job that names it.

    What is not read comes back. Raises RecordFileError: the file cannot be used, or the first record that is
    none, as the workers would. Whether an empty list is enough is the task's business.
    """
    unread = Unread()
    kind = format_of(path)
    with open_records(path) as file:
        for index, item in enumerate(islice(records(file, kind, str(path), unread), limit)):
            if isinstance(item, RecordError):
                raise RecordFileError(str(item), where=f"{path}: record {index}")
            if os.lseek(file.fileno(), 0, os.SEEK_CUR) > most:
                break
    return unread
