"""Parts of a file mapped for writing, of which the last few are kept: faulting pages in is what costs."""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["WINDOW", "Windows"]

WINDOW = 8 << 20
_KEPT = 6


class Windows:
    """Windows of `WINDOW` bytes, aligned to that, of one file of `size` bytes; from any number of threads."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._lock = threading.Lock()
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._users: dict[int, int] = {}

    @contextmanager
    def window(self, number: int) -> Iterator[mmap.mmap]:
        """The mapping of window `number`; nothing may look at it after the block."""
        with self._lock:
            if number not in self._maps:
                self._maps[number] = self._map(number)
            self._maps.move_to_end(number)
            self._users[number] = self._users.get(number, 0) + 1
            mapped = self._maps[number]
        try:
            yield mapped
        finally:
            with self._lock:
                self._users[number] -= 1
                self._forget()

    def _map(self, number: int) -> mmap.mmap:
        start = number * WINDOW
        return mmap.mmap(self._descriptor, min(WINDOW, self._size - start), offset=start)

    def _forget(self) -> None:
        for number in list(self._maps):
            if len(self._maps) <= _KEPT:
                return
            if not self._users[number]:
                self._maps.pop(number).close()
                del self._users[number]

    def close(self) -> None:
        while self._maps:
            self._maps.popitem()[1].close()
