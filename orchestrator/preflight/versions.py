"""Which versions of MindSpore the bundled model runs on."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["SUPPORTED", "compared"]

# The extra `worker` of setup.cfg says the same (a test). The tests run on its oldest and its newest version.
SUPPORTED = ">=2.7.1,<2.11"

_FORM = re.compile(r"(\d{1,6}(?:\.\d{1,6}){0,5})(?!\d)(.{0,40})", re.ASCII)
# What may follow the numbers, by PEP 440: pre-release, post-release, development release, local version.
_SUFFIX = re.compile(
    r"([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?"
    r"([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.ASCII | re.IGNORECASE,
)
# What stands before a release: 2.7.1rc1, 2.8.0.dev20250901. PEP 440.
_BEFORE = re.compile(r"[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)", re.IGNORECASE)


def compared(version: str) -> Literal["older", "supported", "newer", "unknown"]:
    """Where a version stands to the range; a pre-release of the upper end is newer than it."""
    found = _FORM.fullmatch(version.strip())
    if found is None or not _SUFFIX.fullmatch(found[2]):
        return "unknown"
    least, limit = (_release(end.lstrip("<>=")) for end in SUPPORTED.split(","))
    release, is_before = _release(found[1]), bool(_BEFORE.match(found[2]))
    if release < least or (release == least and is_before):
        return "older"
    return "newer" if release >= limit else "supported"


def _release(text: str) -> tuple[int, ...]:
    numbers = [int(number) for number in text.split(".")]
    return tuple(numbers + [0] * (6 - len(numbers)))
