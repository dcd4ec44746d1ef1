"""Log signatures: which lines of MindSpore, HCCL, CANN and Python say that a process failed by itself, and
which only that it has noticed the end of another.

Codes and texts are those of HCOMM's `docs/en/error_codes`, CANN's `rt_error_codes.h` and MindSpore 2.10
(`libmindspore_cluster`, `train/callback`). A host keeps the lines, the control node judges them.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import enum
import functools
import itertools
import re
from typing import Iterable, List, Optional, Pattern, Tuple

__all__ = ["Meaning", "accused_by", "meaning_of", "telling_lines", "waited_for_by"]

_LINES = 200
_MOST = 8
_WIDTH = 400
_MOST_JUDGED = 64


class Meaning(enum.Enum):
    """What a line says of the process that wrote it."""

    CULPRIT = "it failed by itself"
    VICTIM = "it has noticed that another rank is gone, or has waited for one in vain"


# Runtime errors, as in `ret[507015]`, `error code is 507015`, `runtime result = 107020`.
_RESULT = r"(?:ret\[|error[ _]code(?: is|=)|result ?=) ?"
_CULPRITS = (
    # Wrong settings, no resources, no memory, a port that is down or taken.
    r"\b(?:EI00(?:01|03|04|05|07|08|10|11|14|16|17|19|20)|EJ000[12]|EL0004|E3000[38])[:)]",
    r"\bEI0009[:)].*network port is down",
    _RESULT + r"(?:20700[14]|207018|507010|50701[35678]|507033|507035|50705[34]|507899|507901)\b",
    r"\bMemory not enough\b|\b[Oo]ut of memory\b|\bNo space left on device\b",
)
_VICTIMS = (
    r"\bEI(?:0002|0006|0009|0015)[:)]",
    _RESULT + r"(?:107020|107022|50704[67]|507057)\b",
    r"\bWaiting peer rank: ?\d+|\bfrom remote rank \[\d+\]",
    r"\b(?:SuspectRemoteError|ForceStopError) error occurs\b|\bEnter mindio ttp exit process\b",
    r"\bKill this process with SIGTERM\b",
    r"\b[Nn]ode:? ?\w+ is (?:the first one )?timed out\b|\bHeartbeat [Ll]ost Occurred\b",
    r"(?i)\bconnection (?:reset|closed|aborted) by (?:the )?(?:remote )?peer\b|\bbroken pipe\b",
    r"(?i)\bpeer(?: rank)?(?:[: ]+\d+)?(?: \w+){0,2} (?:lost|gone|dead|disconnected)\b|\bpeer lost\b",
    r"(?i)\blost (?:the |its )?(?:connection (?:to|with) )?(?:the |its )?(?:peer|rank \d+)\b",
    r"(?i)\bconnection (?:to|with) (?:the )?(?:peer|rank)(?: \d+)? (?:is |was )?(?:lost|closed|reset)\b",
)
# What is wrong in a program or its data, whatever was logged before it.
_PROGRAM_ERROR = re.compile(
    r"(?:\w+\.)*(?:Value|Type|Key|Index|Import|ModuleNotFound|FileNotFound|Assertion|Attribute|Name|Memory|Syntax|"
    r"ZeroDivision|NotImplemented|UnicodeDecode|UnicodeEncode|Permission|Recursion)Error\b"
)
_LAST_WORD = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b(?::|$)")
_CULPRIT = re.compile("|".join(f"(?:{text})" for text in _CULPRITS))
_VICTIM = [re.compile(text) for text in _VICTIMS]
_WAITED_FOR = re.compile(
    r"\bWaiting peer rank: ?(\d{1,7})\b|\bfrom remote rank \[(\d{1,7})\]|"
    r"\b(?:connection (?:to|with)|lost) rank (\d{1,7})\b"
)
_ACCUSED = re.compile(r"\b[Nn]ode:? ?(\d{1,7}) is (?:the first one )?timed out\b")


def telling_lines(text: str) -> Tuple[str, ...]:
    """Of the last lines of a log those that say who failed, the first few, and its last exception."""
    found: List[str] = []
    last_word = ""
    for line in text.splitlines()[-_LINES:]:
        line = line[:_WIDTH]
        if _LAST_WORD.match(line):
            last_word = line
        if len(found) < _MOST and _meaning(line) is not None:
            found.append(line)
    return (*found, *([last_word] if last_word and last_word not in found else []))


def meaning_of(lines: Iterable[str]) -> Optional[Meaning]:
    """What the lines of one process say of it; None where they do not tell.

    Its first error counts: what follows from it is logged later. A last exception that speaks of the program
    itself counts before all.
    """
    return _meaning_of(_bounded(lines))


@functools.lru_cache(maxsize=4096)  # a run of many ranks is judged every second
def _meaning_of(lines: Tuple[str, ...]) -> Optional[Meaning]:
    first, last_word = None, ""
    for line in lines:
        if _LAST_WORD.match(line):
            last_word = line
        first = first or _meaning(line)
    return Meaning.CULPRIT if _PROGRAM_ERROR.match(last_word) else first


def waited_for_by(lines: Iterable[str]) -> Tuple[int, ...]:
    """The ranks for which the process that wrote these lines has waited in vain."""
    return _ranks(_WAITED_FOR, _bounded(lines))


def accused_by(lines: Iterable[str]) -> Tuple[int, ...]:
    """The ranks that no longer answer, by these lines: MindSpore's scheduler hears each one's heartbeat."""
    return _ranks(_ACCUSED, _bounded(lines))


def _meaning(line: str) -> Optional[Meaning]:
    if _CULPRIT.search(line):
        return Meaning.CULPRIT
    return Meaning.VICTIM if any(each.search(line) for each in _VICTIM) else None


def _bounded(lines: Iterable[str]) -> Tuple[str, ...]:
    """No more than a host of ours keeps: lines are judged that another may have made up."""
    return tuple(line[:_WIDTH] for line in itertools.islice(lines, _MOST_JUDGED))


@functools.lru_cache(maxsize=4096)
def _ranks(pattern: Pattern[str], lines: Tuple[str, ...]) -> Tuple[int, ...]:
    found = [group for line in lines for match in pattern.finditer(line) for group in match.groups() if group]
    return tuple(dict.fromkeys(map(int, found)))
