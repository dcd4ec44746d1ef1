"""What two copiers say to each other over a connection: short lines of JSON, and the bytes of files.

    owner   {"step": 120, "epoch": 1, "files": [{"name": "rank_0/m_rank_0-1_120.ckpt", "size": 81920,
             "crc32": 3735928559}], "strategies": [{"name": "demo_rank_0.ckpt", "size": 900}]}
                                            or {"bye": true}: it has nothing more to send
    keeper  {"ok": true}                       or {"error": "no room"}
    owner   the bytes of a file, then its SHA-256 as a line; so for each strategy, then for each shard
    keeper  {"ok": true}                       after each

A line has a length that it may have, and a time in which it must be there; a stream must not drip.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Dict, Iterator, Mapping

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    import socket

__all__ = ["CHUNK", "Broken", "Stream"]

CHUNK = 1 << 20
_LONGEST_LINE = 1 << 16
_LINE_TIMEOUT = 120.0
_SILENCE = 120.0
# Of bytes a second, once it has had so many seconds: below that nobody is served by the copy any more.
_SLOWEST, _HEAD_START = 16 << 10, 300.0


class Broken(Exception):
    """What the other side says makes no sense, or comes too slowly; the text says what."""


class Stream:
    """One connection, from either side."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        clock: Callable[[], float] = time.monotonic,
        line_timeout: float = _LINE_TIMEOUT,
        silence: float = _SILENCE,
        head_start: float = _HEAD_START,
        slowest: float = _SLOWEST,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._line_timeout = line_timeout
        self._silence = silence
        self._head_start = head_start
        self._slowest = slowest
        self._ahead = b""

    def say(self, message: Mapping[str, Any]) -> None:
        """Send one line. OSError."""
        self._connection.settimeout(self._silence)
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, patience: float = 0.0) -> Dict[str, Any]:
        """The next line, which may take `patience` seconds longer. Broken, OSError."""
        try:
            found = json.loads(self.line(_LONGEST_LINE, patience))
        except (ValueError, RecursionError):
            raise Broken("a line that is no JSON") from None
        if not isinstance(found, dict):
            raise Broken("a line that is no message")
        return found

    def line(self, longest: int, patience: float = 0.0) -> bytes:
        """A line without its end. Broken where it is too long, or not whole in time."""
        deadline = self._clock() + self._line_timeout + patience
        while b"\n" not in self._ahead:
            if len(self._ahead) > longest:
                raise Broken("a line that does not end")
            self._ahead += self._receive(deadline, longest)
        line, _, self._ahead = self._ahead.partition(b"\n")
        if len(line) > longest:
            raise Broken("a line that is too long")
        return line

    def _receive(self, deadline: float, most: int) -> bytes:
        left = deadline - self._clock()
        if left <= 0:
            raise Broken("a line that does not come")
        self._connection.settimeout(left)
        data = self._connection.recv(min(most, CHUNK))
        if not data:
            raise Broken("the connection ended")
        return data

    def receive(self, size: int) -> Iterator[bytes]:
        """Exactly so many bytes, in pieces. Broken where they do not come, or drip; OSError."""
        begun, left = self._clock(), size
        while left:
            if self._ahead:
                data, self._ahead = self._ahead[:left], self._ahead[left:]
            else:
                self._connection.settimeout(self._silence)
                data = self._connection.recv(min(left, CHUNK))
            if not data:
                raise Broken("the connection ended in the middle of a file")
            left -= len(data)
            self._require_pace(begun, size - left)
            yield data

    def _require_pace(self, begun: float, done: int) -> None:
        if self._clock() - begun > self._head_start + done / self._slowest:
            raise Broken("a file that drips")

    def send(self, pieces: Iterator[bytes]) -> None:
        """Send bytes. OSError."""
        self._connection.settimeout(self._silence)
        for piece in pieces:
            self._connection.sendall(piece)
