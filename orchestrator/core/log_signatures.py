"""Log signatures at work: which lines of MindSpore, HCCL, CANN and Python say that a process failed by
itself, and which only that it has noticed the end of another.

The table itself is in `core/signature_table`. A host keeps the lines, the control node judges them.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Iterable, List, Optional, Pattern, Tuple

from orchestrator.core.signature_table import SIGNATURES, STEMS, Meaning, Signature

__all__ = [
    "Meaning",
    "accused_by",
    "bare",
    "is_formal",
    "last_exception",
    "last_word",
    "meaning_of",
    "signature_of",
    "telling_lines",
    "telling_signature",
    "tells_of_exceptions",
    "waited_for_by",
]

_LINES = 200
_MOST = 8
_MOST_OF_A_ROW = 2
_WIDTH = 400
_MOST_JUDGED = 64

_COLOURS = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")
# What others put before a line of a process: `[rank1]:`, `(Worker pid=7)`, `ERROR 09-24 20:59:57 [x.py:790]`.
_PREFIX = re.compile(
    r"(?:(?:\[rank\d{1,7}\]:|\([\w. -]{1,60} pid=\d{1,9}[^()\n]{0,60}\)) ?){0,2}"
    r"(?:(?:ERROR|WARNING|INFO) [\d-]{5,10} [\d:.,]{8,15} \[[^\]]{1,80}\] )?"
)
# What may stand before a code where a program writes an error: headers of plogs, of MindSpore, torch, vLLM,
# the name of an exception or of an error, and nothing that reads like a sentence.
_HEADER = re.compile(
    r"\s+|\[[^\]]{0,160}\]|[A-Z_]{1,16}\([^()]{0,80}\)|\([^()]{0,160}\)|[\w.]{0,60}(?:Error|Exception|ErrMsg)\b:?|"
    r"(?:ERROR|WARNING|WARN|INFO|CRITICAL|FATAL|Error)\b|[\d:.,+/T|-]+|"
    r"[A-Z][\w/]{0,60}(?: [A-Z]\w{0,20}){0,6}\("
)
# A line of CANN's own logs, which no program writes into.
_CANN_LINE = re.compile(r"\[(?:ERROR|CRITICAL|EVENT|INFO)\] ?(?!ME\()[A-Z_]{2,16}\(\d{1,9},")
_OPEN_QUOTE = re.compile(r"(?:^|[\s:=(\[{,])(['\"])(?:(?!\1).)*$")
_IGNORED = "Exception ignored "
_CHAINED = (
    "During handling of the above exception, another exception occurred",
    "The above exception was the direct cause of the following exception",
)
_LAST_WORD = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b(?::|$)|(?:\w+\.)+\w*error: ")
# What is wrong in a program or its data, whatever was logged before it.
_PROGRAM_ERROR = re.compile(
    r"(?:\w+\.)*(?:Value|Type|Key|Index|Import|ModuleNotFound|FileNotFound|Assertion|Attribute|Name|Memory|Syntax|"
    r"Indentation|FloatingPoint|Overflow|JSONDecode|ZeroDivision|NotImplemented|UnicodeDecode|UnicodeEncode|Permission|IsADirectory|NotADirectory|"
    r"Recursion|UnboundLocal)Error\b"
)
_WAITED_FOR = re.compile(
    r"\bWaiting peer rank: ?(\d{1,7})\b|\bfrom remote rank:? ?\[(\d{1,7})\]|"
    r"\b(?:connection (?:to|with)|lost|peer) rank:? ?(\d{1,7})\b|\bdst_rank\[(\d{1,7})\]"
)
_ACCUSED = re.compile(
    r"\b(?:[Nn]ode:?|worker) ?(\d{1,7}) is (?:the first one )?timed out\b|"
    r"\bTime out nodes are \['?(\d{1,7})\b"
)


def telling_lines(text: str) -> Tuple[str, ...]:
    """Of the last lines of a log those that say who failed, the first few, and its last exception.

    Of lines that say the same the first two are kept.
    """
    found: List[str] = []
    rows: List[Signature] = []
    last = _LastWord()
    for line in text.splitlines()[-_LINES:]:
        line = line[:_WIDTH]
        last.see(line)
        if len(found) < _MOST:
            row = signature_of(line)
            if row is not None and rows.count(row) < _MOST_OF_A_ROW:
                rows.append(row)
                found.append(line)
    return (*found, *([last.line] if last.line and last.line not in found else []))


def meaning_of(lines: Iterable[str]) -> Optional[Meaning]:
    """What the lines of one process say of it; None where they do not tell.

    Its first error counts: what follows from it is logged later, but for one that may itself follow from
    another. A last exception that speaks of the program itself counts before all.
    """
    row, _ = telling_signature(lines)
    return None if row is None else row.meaning


def telling_signature(lines: Iterable[str]) -> Tuple[Optional[Signature], str]:
    """The row of the table that decides what the lines of one process mean, and where it was found."""
    return _telling(_bounded(lines))


@functools.lru_cache(maxsize=4096)  # a run of many ranks is judged every second
def _telling(lines: Tuple[str, ...]) -> Tuple[Optional[Signature], str]:
    first, said, last = None, "", _LastWord()
    for line in lines:
        last.see(line)
        row = None if first is not None and not first.is_soft else signature_of(line)
        if row is not None and (first is None or (row.meaning is Meaning.CULPRIT and not row.is_soft)):
            first, said = row, line
    if _is_program_error(last.line):
        return _program_error_of(last.line), last.line
    return first, said


def signature_of(line: str) -> Optional[Signature]:
    """The row of the table that fits a line, None where none does: what it quotes is not what it says."""
    line = bare(line)
    lower = line.lower()
    if line.isascii() and not any(stem in lower for stem in STEMS):
        return None  # almost every line of a log
    for row in SIGNATURES:
        if not any(word in lower for word in row.words):
            continue
        found = re.search(row.pattern, line)  # compiled when it is first needed, and kept by `re`
        if found is not None and _is_said(row, line, found.start()):
            return row
    return None


def _is_said(row: Signature, line: str, start: int) -> bool:
    return (not row.is_code or is_formal(line, start)) and _OPEN_QUOTE.search(line, 0, start) is None


def last_word(line: str) -> str:
    """The line as far as it is the last one of a Python traceback: `ValueError: …`; else empty."""
    line = bare(line)
    prefix = _PREFIX.match(line)
    line = line[prefix.end() :] if prefix is not None else line
    return line if _LAST_WORD.match(line) else ""


class _LastWord:
    """The last exception of a log, as its lines are seen one after the other.

    What Python only ignores is none. What was raised while another's loss was handled follows from that loss,
    which remains the last word.
    """

    def __init__(self) -> None:
        self.line = ""
        self._is_ignored = self._follows = False

    def see(self, line: str) -> None:
        if _IGNORED in line:
            self._is_ignored = True
        elif line.startswith(_CHAINED):
            row = signature_of(self.line) if self.line else None
            self._follows = row is not None and row.meaning is not Meaning.CULPRIT
        elif last_word(line):
            self.line = self.line if self._is_ignored or self._follows else line
            self._is_ignored = self._follows = False


def tells_of_exceptions(line: str) -> bool:
    """Whether a line must be kept for what the last exception of a log is."""
    return _IGNORED in line or line.startswith(_CHAINED) or bool(last_word(line))


def last_exception(lines: Iterable[str]) -> str:
    """The last exception that a process tells of, whatever it is of; empty where there is none."""
    last = _LastWord()
    for line in lines:
        last.see(line)
    return last.line


def bare(line: str, width: int = _WIDTH) -> str:
    """A line without its colours, cut to what a host keeps, or to another width."""
    line = line[:width]
    return _COLOURS.sub("", line) if "\x1b" in line else line


def is_formal(line: str, start: int) -> bool:
    """Whether what starts there stands where a program writes an error: behind headers and nothing else."""
    if _CANN_LINE.match(line):
        return True
    position = 0
    while position < start:
        found = _HEADER.match(line, position)
        if found is None or found.end() == position:
            return False
        position = found.end()
    return True


def waited_for_by(lines: Iterable[str]) -> Tuple[int, ...]:
    """The ranks for which the process that wrote these lines has waited in vain."""
    return _ranks(_WAITED_FOR, _bounded(lines))


def accused_by(lines: Iterable[str]) -> Tuple[int, ...]:
    """The ranks that no longer answer, by these lines: MindSpore's scheduler hears each one's heartbeat."""
    return _ranks(_ACCUSED, _bounded(lines))


_PROGRAM = Signature("program_error", Meaning.CULPRIT, (), _PROGRAM_ERROR.pattern, "CPython 3")
_MEMORY = _PROGRAM._replace(kind="host_memory_error")


def _is_program_error(line: str) -> bool:
    return _PROGRAM_ERROR.match(last_word(line)) is not None


def _program_error_of(line: str) -> Signature:
    return _MEMORY if "MemoryError" in line.partition(":")[0] else _PROGRAM


def _bounded(lines: Iterable[str]) -> Tuple[str, ...]:
    """No more than a host of ours keeps: lines are judged that another may have made up."""
    return tuple(line[:_WIDTH] for line in itertools.islice(lines, _MOST_JUDGED))


@functools.lru_cache(maxsize=4096)
def _ranks(pattern: Pattern[str], lines: Tuple[str, ...]) -> Tuple[int, ...]:
    found = [
        group for line in lines for match in pattern.finditer(bare(line)) for group in match.groups() if group
    ]
    return tuple(dict.fromkeys(map(int, found)))
