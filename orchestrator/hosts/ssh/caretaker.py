"""The caretaker of all SSH connections: one thread for what would else take one of each.

It reads what ProxyCommands write to stderr, waits for the end of what was hung up, and ends what does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

__all__ = ["CARETAKER", "Caretaker"]

log = logging.getLogger(__name__)
# It looks so often, in seconds, whether what was hung up has ended; only while something was.
_LOOK = 0.05
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class _Awaited:
    due: float
    is_over: Callable[[], bool]
    then: Callable[[bool], None]


class Caretaker:
    """Its thread starts with its first task and ends with nobody; callbacks run in it, and are short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._awaited: list[_Awaited] = []
        self._ears: list[tuple[IO[bytes], Callable[[bytes], None], threading.Event]] = []
        self._thread: threading.Thread | None = None
        self._wake_end = -1

    def drain(self, stream: IO[bytes], feed: Callable[[bytes], None]) -> threading.Event:
        """Read `stream` to its end, hand what comes to `feed`, close it, and set the event then."""
        ended = threading.Event()
        os.set_blocking(stream.fileno(), False)
        with self._lock:
            self._ears.append((stream, feed, ended))
            self._wake()
        return ended

    def when(self, is_over: Callable[[], bool], seconds: float, then: Callable[[bool], None]) -> None:
        """`then` with True once `is_over` says so, with False after so many seconds."""
        with self._lock:
            self._awaited.append(_Awaited(time.monotonic() + seconds, is_over, then))
            self._wake()

    def _wake(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # a fork leaves threads behind
            self._selector = selectors.DefaultSelector()
            ear, self._wake_end = os.pipe()
            os.set_blocking(ear, False)
            os.set_blocking(self._wake_end, False)
            self._selector.register(ear, selectors.EVENT_READ)
            self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)
            self._thread.start()
        with contextlib.suppress(BlockingIOError):  # it has been woken already
            os.write(self._wake_end, b"x")

    def _run(self) -> None:
        while True:
            with self._lock:
                pause = _LOOK if self._awaited else None
            for key, _ in self._selector.select(pause):
                if key.data is None:
                    os.read(key.fd, _BLOCK)
                else:
                    self._hear(*key.data)
            with self._lock:
                ears, self._ears = self._ears, []
                awaited, self._awaited = self._awaited, []
            for ear in ears:
                self._selector.register(ear[0], selectors.EVENT_READ, ear)
            left = [each for each in awaited if not self._has_ended(each)]
            with self._lock:
                self._awaited += left

    def _hear(self, stream: IO[bytes], feed: Callable[[bytes], None], ended: threading.Event) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(stream.fileno(), _BLOCK)
        if data:
            feed(data)
            return
        self._selector.unregister(stream)
        stream.close()
        ended.set()

    def _has_ended(self, awaited: _Awaited) -> bool:
        is_over = awaited.is_over()
        if not is_over and time.monotonic() < awaited.due:
            return False
        try:
            awaited.then(is_over)
        except Exception:  # one connection's fault must not leave the others without care
            log.exception("what was hung up could not be ended")
        return True


CARETAKER = Caretaker()
