"""The frames of a session with a host's agent, apart from input and output: bytes in, frames out, and back.

A frame is a line of JSON, its header, and behind it as many raw bytes as the header's `bytes` says, its body:

    control node -> agent   {"id": 7, "verb": "read_log", "args": {…}, "bytes": n}
    agent -> control node   {"id": 7, "ok": true, "result": …, "bytes": n, "more": false}
                            {"id": 7, "ok": false, "error": {"what": …, "remedy": …, "kind": …}}
                            {"event": "…", "data": …}

    control node -> agent   {"beat": true}

An answer carries the `id` of its request. A request may have many answers; all but the last say `more`. A
frame with `event` answers no request: an agent may send it at any time between two others. A `beat` asks
nothing: it tells an agent that its control node is there. One that hears nothing for `SILENCE_SECONDS` ends.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

__all__ = ["BEAT", "BEAT_SECONDS", "SILENCE_SECONDS", "ProtocolError", "Receiver", "frame"]

_LONGEST_HEADER = 1 << 26
BEAT_SECONDS = 60
SILENCE_SECONDS = 15 * 60
BEAT = b'{"beat": true}\n'


class ProtocolError(ValueError):
    """Bytes that are no frame: where the next one begins cannot be known any more."""


def frame(header: Dict[str, Any]) -> bytes:
    """The bytes of a frame up to its body."""
    return json.dumps(header).encode() + b"\n"


class Receiver:
    """Takes bytes as they come and gives headers and bodies, in turn. `left` is what is missing of a body.

    `longest` bounds a header's line; `parse` makes a value of it, and may raise ValueError.
    """

    def __init__(self, longest: int = _LONGEST_HEADER, parse: Callable[[bytes], Any] = json.loads) -> None:
        self.longest = longest
        self.left = 0
        self._parse = parse
        self._data = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> None:
        self._data += data

    @property
    def is_between_frames(self) -> bool:
        """Whether the peer could stop here without breaking off."""
        return not self._data and not self.left

    def header(self) -> Optional[Dict[str, Any]]:
        """The next header, None until its line is whole. Raises ProtocolError."""
        if self.left:
            raise ProtocolError(f"{self.left} bytes of a body were not taken")
        end = self._data.find(b"\n", self._searched)
        if max(end, len(self._data) if end < 0 else 0) > self.longest:
            raise ProtocolError(f"a line over {self.longest} bytes")
        if end < 0:
            self._searched = len(self._data)
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        try:
            found = self._parse(line)
            size = found.get("bytes", 0)
        except (ValueError, AttributeError, RecursionError) as error:
            raise ProtocolError(f"{line[:80]!r}") from error
        if type(size) is not int or size < 0:
            raise ProtocolError(f"{line[:80]!r}")
        self.left = size
        return dict(found)

    def take(self, most: int) -> bytes:
        """Up to `most` bytes of the body, as far as they have come."""
        data = bytes(self._data[: min(most, self.left)])
        del self._data[: len(data)]
        self.left -= len(data)
        return data

    def took(self, count: int) -> None:
        """So many bytes of the body went past this, straight to where they belong."""
        self.left -= count
