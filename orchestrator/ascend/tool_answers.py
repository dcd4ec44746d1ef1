"""Questions to a host's Ascend tools, and their answers as text: lines, `key: value` pairs, known errors.

The tools have no machine-readable output, and their words differ between driver versions. Parsers look for
the fragment that all known versions share; whatever has no such fragment is an error, never a guess.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, NoReturn, TypeVar

from orchestrator.core.errors import ToolOutputError
from orchestrator.core.host_answers import ToolText, ToolTexts

__all__ = [
    "Call",
    "ToolAnswer",
    "ToolAnswers",
    "address",
    "find",
    "hccn",
    "pairs",
    "refuse_known",
    "search",
    "smi",
    "unreadable",
]

_LONGEST_SHOWN = 80
# The table of 64 chips, each with its processes, is a tenth of this.
_LONGEST_TEXT = 256 << 10

_DRIVER = "install the driver, load it, or give the container /dev/davinci* and /dev/davinci_manager"
_OTHER_CONTAINER = "end the container that holds them, or give this one others (/dev/davinciN)"

# What the tools say instead of an answer: hccn_tool v1 and v2, npu-smi; fragment, what it means, remedy.
_KNOWN = (
    ("hccn_tool is busy", "hccn_tool is busy", "wait for whoever uses it, then try again"),
    ("device is not exist", "there is no such device", "correct `devices:` of the host"),
    ("device does not exist", "there is no such device", "correct `devices:` of the host"),
    ("permission denied", "permission denied", "use an account that may run it (root, or group HwHiAiUser)"),
    ("operation not permitted", "permission denied", "use an account that may run it (root)"),
    ("must be root", "it must be run by root", "use an account that may run it (root)"),
    # "dcmi module initialize failed", of newer drivers "dcmi model initialized failed, because ...".
    ("the device is used. ret is -8020", "other containers have all NPUs", _OTHER_CONTAINER),
    ("dcmi module initialize", "no driver, or no NPU", _DRIVER),
    ("dcmi model initialize", "no driver, or no NPU", _DRIVER),
    ("no npu card on this server", "no NPU", "correct `devices:`, or look for the device (lspci)"),
    ("does not support querying", "this device cannot tell", ""),
    ("specify a valid cmd", "the command is unknown to this version", "install the same driver on all hosts"),
    ("command execute failed", "the command failed", "see /var/log/hccn_tool on the host"),
)


def refuse_known(source: str, text: str) -> None:
    """Raise where the text is one of the tools' own error messages; `source` says whose text it is."""
    if len(text) > _LONGEST_TEXT:
        raise ToolOutputError(f"{source}: says more than {_LONGEST_TEXT >> 10} KiB", remedy="run it by hand")
    folded = text.lower()
    for fragment, what, remedy in _KNOWN:
        if fragment in folded:
            raise ToolOutputError(f"{source}: {what}", remedy=remedy)


def unreadable(source: str, text: str, expected: str) -> NoReturn:
    """Raise with the first line that is not empty, cut to a readable length."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ToolOutputError(f"{source}: said nothing, expected {expected}")
    number, line = lines[0]
    raise ToolOutputError(f"{source}: expected {expected}, line {number} is {_show(line)}")


def _show(line: str) -> str:
    return repr(line if len(line) <= _LONGEST_SHOWN else line[:_LONGEST_SHOWN] + "...")


def find(source: str, text: str, pattern: str, expected: str) -> re.Match[str]:
    """The first match of a pattern that all versions of an answer share. Raises ToolOutputError."""
    refuse_known(source, text)
    match = search(pattern, text)
    if match is None:
        unreadable(source, text, expected)
    return match


# No line of a tool is longer; a pattern may take the square of a line's length.
_LONGEST_LINE = 1000


def search(pattern: str, text: str) -> re.Match[str] | None:
    """The first line that has the pattern."""
    compiled = re.compile(pattern, re.IGNORECASE)
    lines = (line for line in text.splitlines() if len(line) <= _LONGEST_LINE)
    return next((match for line in lines if (match := compiled.search(line))), None)


def address(source: str, line: str, value: str) -> str:
    """An IPv4 or IPv6 address in its normal spelling. Raises ToolOutputError, showing the line."""
    try:
        return str(ip_address(value.strip()))
    except ValueError:
        raise ToolOutputError(f"{source}: {_show(line.strip())} holds no IP address") from None


def pairs(text: str, separator: str = ":") -> dict[str, str]:
    """The `key : value` lines of a text; of a key that comes twice the first, other lines are left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, sign, value = line.partition(separator)
        if sign and key.strip():
            found.setdefault(key.strip(), value.strip())
    return found


T = TypeVar("T")
# The argv of a question.
Call = tuple[str, ...]

_FAILURES = {
    "missing": ("is not on this host", "install the Ascend driver, or put the tool on PATH"),
    "denied": ("may not be run by this account", "log in as root, or join group HwHiAiUser"),
    "timeout": ("gave no answer in time", "look for a hung driver (dmesg), or reset the device"),
    "skipped": ("was not asked again, having hung", "look for a hung driver (dmesg), or reset the device"),
    "flood": ("does not stop talking", "run it by hand"),
}


def hccn(device: int, *command: str) -> Call:
    """`hccn_tool -i DEVICE COMMAND -g`; a ping's address comes behind the -g."""
    head, rest = (command[:1], command[1:]) if command[0].endswith("ping") else (command, ())
    return ("hccn_tool", "-i", str(device), *head, "-g", *rest)


def smi(*words: str | int) -> Call:
    """`npu-smi info WORDS`."""
    return ("npu-smi", "info", *map(str, words))


# Of a thousand healthy hosts nearly all say the same, word for word. What parsers make of it is frozen.
_LONGEST_KEPT = 4096


@functools.lru_cache(maxsize=1024)
def _parsed(parser: Callable[[str], T], text: str) -> T:
    return parser(text)


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What one call printed, or in `failure` why there is no answer (see agent/ascend_tools.py)."""

    call: Call
    text: str = ""
    exit_code: int | None = None
    failure: str = ""
    # What parsers have made of it: a dozen checks read the same answer of each of many hosts.
    _read: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, call: Call, said: ToolText) -> ToolAnswer:
        return cls(call, said.text, said.exit_code, said.failure)

    def read(self, parser: Callable[[str], T]) -> T:
        """The answer's value. Raises ToolOutputError: no answer, or one that the parser refuses."""
        if self.failure:
            what, remedy = _FAILURES.get(self.failure, (f"cannot be used: {self.failure}", ""))
            shown = self.call[0] if self.failure in ("missing", "denied") else " ".join(self.call)
            raise ToolOutputError(f"{shown} {what}", remedy=remedy)
        if self.exit_code is not None and self.exit_code < 0:
            what = f"{' '.join(self.call)} was ended by signal {-self.exit_code}"
            raise ToolOutputError(what, remedy=self._by_hand)
        try:
            if parser not in self._read:
                is_short = len(self.text) <= _LONGEST_KEPT
                self._read[parser] = _parsed(parser, self.text) if is_short else parser(self.text)
            found: T = self._read[parser]
            return found
        except ToolOutputError as error:
            raise ToolOutputError(error.what, remedy=error.remedy or self._by_hand) from None

    @property
    def _by_hand(self) -> str:
        """What is left to do about an answer that makes no sense."""
        return f"see what `{' '.join(self.call)}` says on the host; its driver may have to be installed again"


class ToolAnswers:
    """All answers of one host, and the text of its hccn.conf."""

    def __init__(self, answers: Mapping[Call, ToolAnswer], conf: ToolAnswer) -> None:
        self._answers = dict(answers)
        self.conf = conf

    @classmethod
    def of(cls, calls: Sequence[Call], path: str, texts: ToolTexts) -> ToolAnswers:
        """From what a host's tools said to these calls, and its file at `path`, if that was asked for."""
        answers = {call: ToolAnswer.of(call, text) for call, text in zip(calls, texts.answers, strict=True)}
        file = texts.files[0] if texts.files else ToolText(failure="missing")
        return cls(answers, ToolAnswer.of((path,), file))

    def __getitem__(self, call: Call) -> ToolAnswer:
        return self._answers.get(call) or ToolAnswer(call, failure="skipped")

    def __contains__(self, call: object) -> bool:
        return call in self._answers

    def __or__(self, other: ToolAnswers) -> ToolAnswers:
        """The answers of both; the file of the first."""
        return ToolAnswers({**self._answers, **other._answers}, self.conf)

    def has_tool(self, name: str) -> bool:
        """Whether the host has this tool, as far as it was asked."""
        asked = [answer for call, answer in self._answers.items() if call[0] == name]
        return any(answer.failure != "missing" for answer in asked)
