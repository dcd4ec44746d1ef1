"""A pipe between two threads, and the binary files a program sees at its ends."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import IO, Any, cast

__all__ = ["Pipe", "reading_end", "writing_end"]


class Pipe:
    """A bounded byte queue between two threads, with a pipe's two ways to end."""

    def __init__(self, capacity: int = 64 * 1024) -> None:
        self._capacity = capacity
        self._data = bytearray()
        self._ended = self._dropped = False
        self._changed = threading.Condition()

    def write(self, data: memoryview, timeout: float | None = None) -> None:
        """All of `data`; BrokenPipeError when an end is closed, TimeoutError when nobody reads."""
        while data:
            with self._changed:
                room = self._changed.wait_for(
                    lambda: self._ended or self._dropped or len(self._data) < self._capacity, timeout
                )
                if self._ended or self._dropped:
                    raise BrokenPipeError
                if not room:
                    raise TimeoutError
                size = self._capacity - len(self._data)
                self._data += data[:size]
                data = data[size:]
                self._changed.notify_all()

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """1..size bytes, b"" at the end."""
        with self._changed:
            ready = self._changed.wait_for(lambda: self._data or self._ended or self._dropped, timeout)
            if not ready:
                raise TimeoutError
            data = bytes(self._data[:size])
            del self._data[:size]
            self._changed.notify_all()
            return data

    def end(self) -> None:
        """The writer is done; what is in the pipe can still be read."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drop(self) -> None:
        """The reader is gone; what is in the pipe is lost."""
        with self._changed:
            self._dropped = True
            self._data.clear()
            self._changed.notify_all()


def reading_end(pipe: Pipe) -> IO[bytes]:
    """A buffered binary file; blocks like a pipe, ends when the writer ends."""
    return io.BufferedReader(_Reader(pipe))


def writing_end(send: Callable[[memoryview], None]) -> IO[bytes]:
    """An unbuffered binary file whose write() passes everything to `send`."""
    return cast(IO[bytes], _Writer(send))


class _Reader(io.RawIOBase):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._pipe.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Writer(io.RawIOBase):
    def __init__(self, send: Callable[[memoryview], None]) -> None:
        self._send = send

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._send(view)
        return len(view)
