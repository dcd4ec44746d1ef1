"""How fast a collection may be."""

from __future__ import annotations

import threading
import time

__all__ = ["Limit"]


class Limit:
    """So many bytes a second, for all streams together; None is no limit."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, nbytes: int, stop: threading.Event) -> None:
        """Return when so many bytes more are in order, or at once when `stop` is set."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + nbytes / self._rate
            pause = self._free_at - now
        stop.wait(pause)
