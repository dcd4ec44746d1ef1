"""The reader of one log: by steps of a bounded size, from its beginning or N lines before its end, to lines.

What it holds is one block and at most one more of a line that has not ended. A longer line is given in
pieces, so that neither its length nor the number of steps it takes costs more than its bytes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.host_answers import LogPart

__all__ = ["LineSplitter", "LogReader", "Part", "TailSearch"]

# Gives up to `limit` bytes from `offset`; a negative one counts from the end.
_Read = Callable[[int, int], tuple[LogPart, bytes]]
_LINE_END = re.compile(rb"\r\n|\r|\n")


class LineSplitter:
    """Turns bytes as they come into text in which `\\n` ends each line, whatever ended it before.

    A progress bar rewrites its line with carriage returns: each of them ends a line here. `longest` is how
    many characters of a line are held back while its end has not come.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest: list[str] = []
        self._held = 0
        self._ended_by_return = False

    def feed(self, data: bytes, *, is_last: bool = False) -> str:
        """The whole lines that there are now; also what has no end yet, where it is too long or the last."""
        text = self._decoder.decode(data, is_last)
        if text and self._ended_by_return:
            # The second half of a \r\n whose first half came before.
            text = text.removeprefix("\n")
            self._ended_by_return = False
        if text:
            self._ended_by_return = text.endswith("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        end = text.rfind("\n") + 1
        whole = "".join([*self._take(), text[:end]]) if end else ""
        self._rest.append(text[end:])
        self._held += len(text) - end
        if is_last or self._held >= self._longest:
            whole += "".join(self._take())
        return whole

    def _take(self) -> list[str]:
        rest, self._rest, self._held = self._rest, [], 0
        return rest


class TailSearch:
    """Finds where the last `lines` lines of a log begin, from its end backwards, a block at a time."""

    def __init__(self, lines: int) -> None:
        self._wanted = lines
        self._searched: int | None = None  # from here on
        self._feeds_next = False

    def next(self, block: int) -> tuple[int, int]:
        """Offset and limit of what is to be read next."""
        if self._searched is None:
            return -block, block
        begin = max(0, self._searched - block)
        return begin, self._searched - begin

    def take(self, offset: int, data: bytes) -> int | None:
        """Where the lines begin, as an offset in the log; None until that is known."""
        if self._searched is None and data.endswith((b"\n", b"\r")):
            self._wanted += 1  # the end of the last line is not the beginning of one
        if not self._wanted:
            return offset + len(data)
        ends = [found.end() for found in _LINE_END.finditer(data)]
        if self._feeds_next and data.endswith(b"\r"):
            ends.pop()  # its line feed, which is in the block behind it, has been counted
        if len(ends) >= self._wanted:
            return offset + ends[-self._wanted]
        if offset == 0 or not data:
            return offset
        self._wanted -= len(ends)
        self._searched, self._feeds_next = offset, data.startswith(b"\n")
        return None


@dataclass(frozen=True, slots=True)
class Part:
    """What one step has brought. `begins` is whether the text begins a line, `size` the bytes it cost.

    `was_there` is whether it had been written before the log was read to its end for the first time;
    `modified` is when the log was last written, by the clock of its host, where that says so.
    """

    text: str
    size: int
    begins: bool
    was_there: bool
    modified: float | None


class LogReader:
    """Where one log has been read to. `step` reads on; `is_behind` says that there was more just then.

    After `close` the log is read to where it ends at the next step, and then `is_done`.
    """

    def __init__(self, label: str, *, block: int, tail: int | None = None) -> None:
        self.label = label
        self.is_behind = False
        self.is_done = False
        self._block = block
        self._search = None if tail is None else TailSearch(tail)
        self._splitter = LineSplitter(block)
        self._offset = 0
        self._end: int | None = None
        self._is_closing = False
        self._begins = True
        self._is_first = True

    def close(self) -> None:
        """Nothing more will be written: read to the end, and no further."""
        self._is_closing = True

    def step(self, read: _Read) -> Part:
        """Read one block, and give the lines that it completes."""
        if self._search is None:
            part, data = read(self._offset, self._block)
            if part.size < self._offset and not self._is_closing:
                # Somebody has made it shorter, and writes it anew.
                self._offset, self.is_behind = 0, True
                return self._part("", 0, part)
        else:
            offset, limit = self._search.next(self._block)
            part, data = read(offset, limit)
            self._note_end(part)
            start = self._search.take(part.offset, data)
            if start is None or offset >= 0:
                self._search = None if start is not None else self._search
                self._offset, self.is_behind = start or 0, True
                return self._part("", len(data), part)
            self._search = None
            data = data[start - part.offset :]
            return self._take(start, data, part)
        return self._take(part.offset, data, part)

    def _take(self, begin: int, data: bytes, part: LogPart) -> Part:
        self._note_end(part)
        end = part.size if self._end is None else self._end
        data = data[: max(0, end - begin)] if self._end is not None else data
        self._offset = begin + len(data)
        self.is_behind = bool(data) and self._offset < end
        self.is_done = self._is_closing and not self.is_behind
        text = self._splitter.feed(data, is_last=self.is_done)
        if self.is_done and not (text.endswith("\n") if text else self._begins):
            text += "\n"  # the last line of a log may have no end
        return self._part(text, len(data), part)

    def _note_end(self, part: LogPart) -> None:
        if self._is_closing and self._end is None:
            self._end = part.size

    def _part(self, text: str, size: int, part: LogPart) -> Part:
        found = Part(text, size, self._begins, self._is_first, part.modified)
        self._begins = text.endswith("\n") if text else self._begins
        self._is_first = self._is_first and self.is_behind
        return found
