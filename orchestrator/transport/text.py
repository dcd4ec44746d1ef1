"""The two texts of a remote process: its command line, and the end of what it wrote to stderr."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Sequence

__all__ = ["StderrTail", "command_line"]


def command_line(argv: Sequence[str]) -> bytes:
    """The one place where an argv becomes a string, because SSH has room for nothing else.

    `exec` makes the program take the login shell's place, so that a signal that kills it is reported as such.
    """
    return os.fsencode("exec " + shlex.join(argv))


class StderrTail:
    """The newest `limit` bytes of a stream; safe to feed and to read from different threads."""

    def __init__(self, limit: int = 64 * 1024) -> None:
        self._limit = limit
        self._data = bytearray()
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        with self._lock:
            self._data += data
            if len(self._data) > 2 * self._limit:  # trimmed seldom, so that feeding stays linear
                del self._data[: -self._limit]

    def __bytes__(self) -> bytes:
        with self._lock:
            return bytes(self._data[-self._limit :])
