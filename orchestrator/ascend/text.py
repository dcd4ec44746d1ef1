"""Reading the text of Ascend's tools: lines, `key: value` pairs, and the errors that show the line.

The tools have no machine-readable output, and their words differ between driver versions. Parsers look for
the fragment that all known versions share; whatever has no such fragment is an error, never a guess.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NoReturn

from orchestrator.errors import ToolOutputError

__all__ = ["address", "find", "pairs", "refuse_known", "unreadable"]

_LONGEST_SHOWN = 80

# What the tools say instead of an answer: hccn_tool v1 and v2, npu-smi; fragment, what it means, remedy.
_KNOWN = (
    ("hccn_tool is busy", "hccn_tool is busy", "wait for whoever uses it, then try again"),
    ("device is not exist", "there is no such device", "correct `devices:` of the host"),
    ("device does not exist", "there is no such device", "correct `devices:` of the host"),
    ("permission denied", "permission denied", "use an account that may run it (root, or group HwHiAiUser)"),
    ("operation not permitted", "permission denied", "use an account that may run it (root)"),
    ("must be root", "it must be run by root", "use an account that may run it (root)"),
    ("dcmi module initialize failed", "no driver, or no NPU", "install the driver, or correct `devices:`"),
    ("does not support querying", "this device cannot tell", ""),
    ("specify a valid cmd", "the command is unknown to this version", "install the same driver on all hosts"),
    ("command execute failed", "the command failed", "see /var/log/hccn_tool on the host"),
)


def refuse_known(source: str, text: str) -> None:
    """Raise where the text is one of the tools' own error messages; `source` says whose text it is."""
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
    match = re.search(pattern, text, re.MULTILINE | re.IGNORECASE)
    if match is None:
        unreadable(source, text, expected)
    return match


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
