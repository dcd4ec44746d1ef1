"""The stream of JSON values: those of a list, or of lines, one at a time, of files of any size.

What is held at once is bounded by LONGEST, whatever the file is.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, BinaryIO, Iterator, Union

__all__ = [
    "LONGEST",
    "JsonError",
    "bounded_lines",
    "first_value",
    "is_blank",
    "line_value",
    "line_values",
    "list_values",
    "utf8",
]

# Characters of one value, bytes of one line.
LONGEST = 64 << 20
_BLOCK = 1 << 18
# What may be missing of a value at the end of a block shows within so many characters: `-Infinity`, `\\u12`.
_CUT = 16
_DIGITS = 4000
_SPACE = re.compile(r"[ \t\n\r]*")
_UTF8 = "save it as UTF-8, for example with `iconv -f GB18030 -t UTF-8`"


class JsonError(ValueError):
    """What is wrong with a file or a line, as a predicate: `is no JSON: …`; `remedy` may say what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


def _whole(digits: str) -> int:
    # Longer ones take a time that grows with the square of their length, or are refused by Python itself.
    if len(digits) > _DIGITS:
        raise JsonError(f"is no JSON: it holds a number of {len(digits)} digits")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_whole)


class _Window:
    """The part of a text file that is being read, decoded; a BOM at its beginning is left out."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._read = 0
        self.text, self.at = "", 0
        self.is_whole = False  # there is nothing more to come

    def more(self) -> None:
        """Twice as much as is held unread, at least a block; JsonError for what is no UTF-8."""
        unread = self.text[self.at :]
        if len(unread) > LONGEST:
            raise JsonError(f"holds a value of more than {LONGEST >> 20} MiB")
        block = self._file.read(max(_BLOCK, len(unread)))
        self.is_whole = not block
        try:
            new = self._decoder.decode(block, self.is_whole)
        except UnicodeDecodeError as error:
            raise JsonError(f"is no UTF-8 near byte {self._read + error.start}", _UTF8) from None
        self._read += len(block)
        self.text, self.at = unread + new, 0

    def next_character(self) -> str:
        """The next one that is no space, which stays; nothing at the end."""
        while True:
            if self.at < len(self.text) and self.text[self.at] > " ":  # most often, and a third of the time
                return self.text[self.at]
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if self.is_whole:
                return ""
            self.more()

    def value(self, name: str = "") -> Any:
        """The value that begins here; JsonError where there is none, which says so of `name`."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos + _CUT > len(self.text)
                if self.is_whole or not is_cut:
                    raise JsonError(f"is no JSON: {name}{error.msg[:1].lower()}{error.msg[1:]}") from None
            except RecursionError:
                raise JsonError(f"is no JSON: {name}it is nested too deeply") from None
            else:
                # Of a number there may be more.
                if self.is_whole or isinstance(value, (str, dict, list)) or end + _CUT < len(self.text):
                    self.at = end
                    return value
            self.more()


def list_values(file: BinaryIO) -> Iterator[Any]:
    """The values of the one list that an open file is. JsonError where it breaks off or something follows."""
    window = _Window(file)
    if window.next_character() != "[":
        raise JsonError("is no JSON list: it does not begin with [")
    window.at += 1
    mark, count = window.next_character(), 0
    while mark != "]":
        if not mark:
            raise JsonError(f"is no JSON: it breaks off after {count} values")
        yield window.value(f"value {count}: ")
        count += 1
        mark = window.next_character()
        if mark == ",":
            window.at += 1
            mark = "" if window.next_character() == "" else ","
        elif mark and mark != "]":
            raise JsonError(f"is no JSON: after value {count - 1} stands {mark!r}, not , or ]")
    window.at += 1
    if window.next_character():
        raise JsonError("is no JSON: it goes on after the end of its list")


def first_value(file: BinaryIO) -> Any:
    """The first value of an open file, which may span lines; JsonError where there is none."""
    window = _Window(file)
    window.next_character()
    return window.value()


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of an open file, without the line feeds that end them; JsonError for one over LONGEST."""
    rest = b""
    while True:
        block = file.read(max(_BLOCK, len(rest)))
        if not block:
            break
        lines = block.split(b"\n")
        lines[0] = rest + lines[0]
        rest = lines.pop()
        if len(rest) > LONGEST:
            raise JsonError(f"holds a line of more than {LONGEST >> 20} MiB")
        yield from lines
    if rest:
        yield rest


def utf8(data: bytes) -> str:
    """The text without a BOM before it. Raises UnicodeDecodeError; the codec of this name costs far more."""
    return (data[3:] if data[:3] == b"\xef\xbb\xbf" else data).decode()


def is_blank(line: bytes) -> bool:
    """Whether there is nothing in a line but spaces and BOMs."""
    return not line.strip(b" \t\r\n\xef\xbb\xbf")


def line_value(line: bytes) -> Any:
    """The value of one line; JsonError where it is none. A BOM before it is left out."""
    try:
        return _DECODER.decode(utf8(line))
    except UnicodeDecodeError as error:
        raise JsonError(f"is no UTF-8 at byte {error.start} of the line", _UTF8) from None
    except RecursionError:
        raise JsonError("is no JSON: it is nested too deeply") from None
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"is no JSON: {error}") from None


def line_values(file: BinaryIO) -> Iterator[Union[Any, JsonError]]:
    """The value of each line that is not blank; of one that is no JSON the error, for the others are fine."""
    for line in bounded_lines(file):
        if line and not is_blank(line):
            try:
                yield line_value(line)
            except JsonError as error:
                yield error
