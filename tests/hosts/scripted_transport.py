"""A scripted transport: its host is a thread of this process that says what a test has it say.

For peers whose bytes or timing no agent has; whole hosts are simulated (orchestrator/simulation).
"""

from __future__ import annotations

import io
import signal
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any, TypeAlias, cast

from orchestrator.core.errors import ConnectError, TransportError
from orchestrator.hosts.transport import Channel, Deadline, StderrTail, Transport

__all__ = [
    "Pipe",
    "Program",
    "ScriptedTransport",
    "reading_end",
    "writing_end",
]


class Pipe:
    """A bounded byte queue between two threads, with a pipe's two ways to end."""

    def __init__(self, capacity: int = 64 * 1024) -> None:
        self._capacity = capacity
        self._data = bytearray()
        self._ended = self._dropped = False
        self._changed = threading.Condition()
        self.tell: Callable[[], None] | None = None

    def write(self, data: memoryview, timeout: float | None = None) -> None:
        """All of `data`; BrokenPipeError when an end is closed, TimeoutError when nobody reads it in time."""
        deadline = Deadline(timeout or 0.0)
        while data:
            with self._changed:
                room = self._changed.wait_for(
                    lambda: self._ended or self._dropped or len(self._data) < self._capacity,
                    None if timeout is None else max(0.0, deadline.left()),
                )
                if self._ended or self._dropped:
                    raise BrokenPipeError
                if not room:
                    raise TimeoutError
                size = self._capacity - len(self._data)
                self._data += data[:size]
                data = data[size:]
                self._changed.notify_all()
            self._say()

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

    def read_ready(self, size: int) -> bytes | None:
        """As `read`, None where nothing is there."""
        with self._changed:
            is_ready = self._data or self._ended or self._dropped
        return self.read(size) if is_ready else None

    def end(self) -> None:
        """The writer is done; what is in the pipe can still be read."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._say()

    def drop(self) -> None:
        """The reader is gone; what is in the pipe is lost."""
        with self._changed:
            self._dropped = True
            self._data.clear()
            self._changed.notify_all()
        self._say()

    def _say(self) -> None:
        tell = self.tell
        if tell is not None:
            tell()


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


Program: TypeAlias = Callable[[list[str], IO[bytes], IO[bytes], IO[bytes]], int]
"""`program(argv, stdin, stdout, stderr) -> exit code`, negative for death by a signal."""


class ScriptedTransport(Transport):
    """A host on which every command is a call of `program` in a thread of its own.

    `down` makes connect() fail; break_connection() cuts what is open until connect() is called again. The
    program's streams are binary, unbuffered on the way out, and block as pipes do: reading sees the end when
    stdin is closed, writing raises BrokenPipeError once nobody reads.
    """

    def __init__(self, host: str, program: Program, *, down: bool = False) -> None:
        super().__init__(host)
        self.program = program
        self.down = down
        self.connects = 0
        self._lock = threading.Lock()
        self._connected = False
        self._broken = False
        self._channels: list[_ScriptedChannel] = []

    def connect(self) -> None:
        with self._lock:
            if self._connected and not self._broken:
                return
            if self.down:
                raise ConnectError("connection refused", where=self.host, remedy="is the host up?")
            self._connected, self._broken = True, False
            self.connects += 1

    def close(self) -> None:
        with self._lock:
            self._connected = False
            channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()

    def break_connection(self) -> None:
        """Cut every channel as a pulled cable does; programs see their pipes break."""
        with self._lock:
            self._broken = True
            channels, self._channels = self._channels, []
        for channel in channels:
            channel.cut()

    def _open(self, argv: tuple[str, ...]) -> Channel:
        with self._lock:
            if not self._connected:
                raise self._not_connected()
            if self._broken:
                raise _broken_error(self.host)
            channel = _ScriptedChannel(self.host, argv, self.program)
            self._channels = [known for known in self._channels if not known.closed] + [channel]
        return channel


class _ScriptedChannel(Channel):
    def __init__(self, host: str, argv: tuple[str, ...], program: Program) -> None:
        super().__init__(host, argv)
        self.closed = False
        self._cut = False
        self._exit_code: int | None = None
        self._over = threading.Event()
        self._stdin, self._stdout = Pipe(), Pipe()
        self._tail = StderrTail()
        name = f"{argv[0]} on {host}"
        threading.Thread(target=self._run, args=(program,), name=name, daemon=True).start()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._stdin.write(memoryview(data).cast("B"), self.timeout)
        except BrokenPipeError:
            raise self._why() from None
        except TimeoutError:
            raise self._timed_out(self.timeout) from None

    def close_stdin(self) -> None:
        self._stdin.end()

    def read(self, size: int) -> bytes:
        try:
            data = self._stdout.read(size, self.timeout)
        except TimeoutError:
            raise self._timed_out(self.timeout) from None
        if not data and (self.closed or self._cut):
            raise self._why()
        return data

    def on_readable(self, tell: Callable[[], None]) -> None:
        self._stdout.tell = tell
        tell()

    def read_ready(self, size: int) -> bytes | None:
        data = self._stdout.read_ready(size)
        if (data is None or not data) and (self.closed or self._cut):
            raise self._why()
        return data

    def wait(self, timeout: float | None = None) -> int:
        if not self._over.wait(timeout):
            raise self._timed_out(timeout)
        if self._cut or self._exit_code is None:
            raise self._why()
        return self._exit_code

    def stderr_bytes(self) -> bytes:
        return bytes(self._tail)

    def close(self) -> None:
        self.closed = True
        self._hang_up()

    def cut(self) -> None:
        self._cut = True
        self._hang_up()

    def _hang_up(self) -> None:
        self._stdin.end()
        self._stdout.drop()
        self._over.set()

    def _run(self, program: Program) -> None:
        stdin, stdout = reading_end(self._stdin), writing_end(self._stdout.write)
        try:
            code = program(list(self.argv), stdin, stdout, writing_end(self._feed))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BrokenPipeError:
            code = -signal.SIGPIPE
        except BaseException:  # as an interpreter does with whatever a program lets out
            self._tail.feed(traceback.format_exc().encode())
            code = 1
        self._exit_code = code
        self._stdin.drop()
        self._stdout.end()
        self._over.set()

    def _feed(self, data: memoryview) -> None:
        self._tail.feed(bytes(data))

    def _why(self) -> TransportError:
        if self.closed:
            return self._closed_error()
        if self._cut:
            return _broken_error(self.host)
        return TransportError(f"`{self.argv[0]}` no longer reads its input", where=self.host)


def _broken_error(host: str) -> TransportError:
    return TransportError("the connection broke", where=host)
