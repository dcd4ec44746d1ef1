"""The readiness of sockets: one thread that tells who can be read, for all channels of this process."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable

__all__ = ["READINESS", "Readiness"]


class Readiness:
    """Tells once for each `arm` that there is something to read, or the end.

    What is told must not wait for anything: it is told in the thread that serves all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._selector: selectors.BaseSelector

    def arm(self, end: socket.socket, tell: Callable[[], None]) -> None:
        """Have `tell` called when `end` can be read. Nothing, where that has been asked for already."""
        with self._lock:
            if self._process != os.getpid():  # a fork leaves threads behind
                self._process = os.getpid()
                self._selector = selectors.DefaultSelector()
                thread = threading.Thread(
                    target=self._run, args=(self._selector,), name="readiness", daemon=True
                )
                thread.start()
            with contextlib.suppress(KeyError):
                self._selector.register(end, selectors.EVENT_READ, tell)

    def forget(self, end: socket.socket) -> None:
        """Before `end` is closed: its number may be another's then."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            if self._process == os.getpid():
                self._selector.unregister(end)

    def _run(self, selector: selectors.BaseSelector) -> None:
        while True:
            for key, _ in selector.select():
                with self._lock:
                    # Meanwhile it may have been forgotten, and its number given to another.
                    if selector.get_map().get(key.fd) is not key:
                        continue
                    selector.unregister(key.fd)
                key.data()


READINESS = Readiness()
