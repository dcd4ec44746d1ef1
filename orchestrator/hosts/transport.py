"""What every way to reach a host can do: start a process there and exchange bytes with it.

There is no put, get or env here. Files and environments travel over the stdin of a process, so that nothing
of them is seen in a command line, and so that one code path serves every transport.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from orchestrator.core.errors import CommandTimeout, TransportError
from orchestrator.core.visible_text import visible

__all__ = [
    "Channel",
    "CommandResult",
    "Deadline",
    "StderrTail",
    "Transport",
    "command_line",
    "is_calm",
    "words_of",
]


def is_calm(data: bytes, begins: tuple[bytes, ...]) -> bool:
    """Whether this is one whole line that begins so (see `Channel.on_calm`); a part of a longer one may look
    like it, which is then read a moment later."""
    return data.startswith(begins) and data.find(b"\n") == len(data) - 1


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


# What a line that is slow for all of us still carries; a host that sends less is playing for time.
_LEAST_BYTES_PER_SECOND = 32 * 1024


class Deadline:
    """The time in which an answer has to be whole, however it drips: `seconds`, and what its length takes.

    The latter is a second for each 32 KiB that have come, so that a long answer may take longer; together
    with the bound on its length there is an end.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def received(self, count: int) -> None:
        self._end += count / _LEAST_BYTES_PER_SECOND

    def pause(self, seconds: float) -> None:
        """So many seconds were not the sender's."""
        self._end += seconds

    def left(self) -> float:
        return self._end - self._clock()


_LAST_WORDS = 400


def words_of(data: bytes, lines: int = 3) -> str:
    """The last lines of what somebody wrote, as part of a message: short, nothing that a terminal obeys."""
    found = data[-_LAST_WORDS:].decode("utf-8", "replace").splitlines()
    said = [visible(line.strip()) for line in found if line.strip()]
    return " / ".join(said[-lines:])


# A command's stdin up to this size fits every pipe and window, so that run() needs no second thread for it.
_SMALL_STDIN = 16 * 1024
_READ_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A finished command; `exit_code` is negative for a signal, `stderr` holds its last 64 KiB."""

    host: str
    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes


class Channel(ABC):
    """One process on a host and its byte streams.

    `timeout` is how many seconds one read may stand still, and one write take, before it raises
    CommandTimeout; None waits for ever. One thread may read while another writes and a third closes. After
    close() every call but close(), wait() and last_words() raises TransportError. A connection that breaks
    raises TransportError too: `b""` always means that the process itself closed its stdout.
    """

    def __init__(self, host: str, argv: tuple[str, ...]) -> None:
        self.host = host
        self.argv = argv
        self.timeout: float | None = None

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; blocks while the process does not read. TransportError when it is gone."""

    @abstractmethod
    def close_stdin(self) -> None:
        """Let the process see the end of its stdin; does nothing the second time."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; CommandTimeout after `timeout` seconds.

        Read stdout to its end first: a process that is blocked on it never ends.
        """

    @abstractmethod
    def stderr_bytes(self) -> bytes:
        """The last 64 KiB that the process has written to stderr so far."""

    @abstractmethod
    def close(self) -> None:
        """Hang up: stdin ends, and a process that does not end within a second of that gets SIGTERM.

        Idempotent; wakes threads that are blocked in read() or write(). Wait first for an orderly end. Over
        SSH the second is not waited for here, and OpenSSH delivers no signals to sessions of root: what must
        not outlive its channel has to heed the end of its stdin.
        """

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Between 1 and `size` bytes of stdout as soon as there are any; b"" at its end."""

    @abstractmethod
    def on_readable(self, tell: Callable[[], None]) -> None:
        """From now on have `tell` called, from any thread, once there is something to read or the end.

        Then again only after `read_ready` has given None; it may be called without need. No thread waits for
        that here. `tell` must return at once, and must not use the channel.
        """

    def on_calm(self, begins: tuple[bytes, ...], tell: Callable[[], None]) -> None:
        """From now on have `tell` called in place of that of `on_readable` for what is not urgent: one whole
        line that begins so, and comes alone. A channel that does not see that calls the other one.
        """
        return  # an optimization

    @abstractmethod
    def read_ready(self, size: int) -> bytes | None:
        """As `read`, but what is there: None where nothing is yet. Never waits."""

    def read_into(self, buffer: memoryview) -> int:
        """Read to the beginning of `buffer`, as much as there is or all of it; how much, 0 at the end."""
        piece = self.read(min(len(buffer), _READ_SIZE))
        buffer[: len(piece)] = piece
        return len(piece)

    def last_words(self) -> str:
        """The last line of stderr, for messages: short, and nothing that a terminal obeys."""
        return words_of(self.stderr_bytes(), lines=1)

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _timed_out(self, seconds: float | None) -> CommandTimeout:
        # Only its name and what can be read: an argument may be a whole program, or a stranger's text.
        words = shlex.join([word for word in self.argv if word.isprintable()])
        shown = words if len(words) <= 80 else words[:77] + "..."
        return CommandTimeout(f"no answer within {seconds or 0:g} s from `{shown}`", where=self.host)

    def _closed_error(self) -> TransportError:
        return TransportError(f"the channel of `{self.argv[0]}` is closed", where=self.host)


class Transport(ABC):
    """A way to one host, with as many channels at once and from as many threads as one likes.

    `with transport:` connects and closes. connect() does nothing while the connection lives and makes a new
    one after it broke or was closed.
    """

    def __init__(self, host: str) -> None:
        self.host = host

    @abstractmethod
    def connect(self) -> None:
        """Reach the host; ConnectError, AuthenticationError or HostKeyError when that fails."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection and all its channels; idempotent."""

    @abstractmethod
    def _open(self, argv: tuple[str, ...]) -> Channel: ...

    def open(self, argv: Sequence[str]) -> Channel:
        """Start `argv` in the user's home directory; TransportError when not connected.

        A program that does not exist is no error here: its exit code is 127, as a shell has it.
        """
        if not argv or not all(argv[:1]) or any("\0" in word for word in argv):
            raise TransportError(f"not a command: {list(argv)!r}", where=self.host)
        return self._open(tuple(argv))

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float | None = None) -> CommandResult:
        """Run to the end; CommandTimeout when all of it takes more than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.open(argv) as channel:
            writer = _start_writing(channel, stdin)
            try:
                stdout = _read_all(channel, deadline)
                exit_code = channel.wait(_left(deadline))
            except CommandTimeout:
                raise channel._timed_out(timeout) from None
            finally:
                channel.close()
                if writer:
                    writer.join()
            return CommandResult(self.host, channel.argv, exit_code, stdout, channel.stderr_bytes())

    def __enter__(self) -> Transport:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _not_connected(self) -> TransportError:
        return TransportError("not connected", where=self.host)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _read_all(channel: Channel, deadline: float | None) -> bytes:
    pieces: list[bytes] = []
    while True:
        channel.timeout = _left(deadline)
        piece = channel.read(_READ_SIZE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def _start_writing(channel: Channel, stdin: bytes) -> threading.Thread | None:
    """Feed stdin; big input gets a thread, because the process may answer before it has read all."""
    if len(stdin) <= _SMALL_STDIN:
        _feed(channel, stdin)
        return None
    writer = threading.Thread(
        target=_feed, args=(channel, stdin), name=f"stdin of {channel.host}", daemon=True
    )
    writer.start()
    return writer


def _feed(channel: Channel, stdin: bytes) -> None:
    try:
        if stdin:
            channel.write(stdin)
        channel.close_stdin()
    except TransportError:
        # A process may end without reading its stdin. If it was the connection, reading says so.
        pass
