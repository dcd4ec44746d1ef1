"""The language of the command line, and the encoding of its output; without `rich`, which is slow to load."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["language", "output_encoding"]

_CHINESE = "\u4e2d"


def output_encoding() -> str | None:
    """That of standard output, also while `rich` has put a stream of its own, which has none, before it."""
    return getattr(getattr(sys.stdout, "rich_proxied_file", sys.stdout), "encoding", None)


def language(environ: Mapping[str, str] = os.environ, encoding: str | None = None) -> str:
    """`zh` where the locale is a Chinese one (POSIX: LC_ALL, else LC_MESSAGES, else LANG), else `en`.

    Also `en` where the output's encoding has no Chinese characters.
    """
    names = (environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    locale = next((name for name in names if name), "")
    try:
        _CHINESE.encode(encoding or output_encoding() or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return "en"
    return "zh" if locale.lower().startswith("zh") else "en"
