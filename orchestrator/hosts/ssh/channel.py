"""One remote process on a channel of an SSH connection."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable

import paramiko
from paramiko.buffered_pipe import BufferedPipe

from orchestrator.core.errors import TransportError
from orchestrator.hosts.ssh.caretaker import CARETAKER
from orchestrator.hosts.ssh.packets import NO_STATUS, Wire, give_room, send_signal
from orchestrator.hosts.ssh.ssh_errors import broken, translate
from orchestrator.hosts.transport import Channel, Deadline, StderrTail, command_line, is_calm

__all__ = ["SshChannel"]

_HANG_UP_GRACE = 1.0
_PACKET = 32 * 1024
_MOST_UNREAD = 2 * paramiko.common.DEFAULT_WINDOW_SIZE


class SshChannel(Channel):
    """Reads and writes go straight to paramiko's buffers; stderr is drained as it arrives."""

    def __init__(self, host: str, argv: tuple[str, ...], wire: Wire, channel: paramiko.Channel) -> None:
        super().__init__(host, argv)
        self._wire = wire
        self._channel = channel
        self._closed = False
        self._close_lock = threading.Lock()
        self._tail = StderrTail()
        channel.exit_status = NO_STATUS
        self._unsaid = 0
        channel.in_buffer = self._stdout = _StdoutBuffer()
        channel.in_stderr_buffer = _StderrBuffer(channel, self._tail)
        channel.exec_command(command_line(argv))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data).cast("B")
        timeout = self.timeout
        deadline = Deadline(timeout or 0.0)
        while left:
            self._channel.settimeout(None if timeout is None else max(0.0, deadline.left()))
            try:
                sent = self._channel.send(bytes(left[:_PACKET]))
            except TimeoutError:
                raise self._timed_out(timeout) from None
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise self._gone(error) from error
            if not sent:  # paramiko's way to say closed; its own sendall() would spin on it
                raise self._gone(None)
            left = left[sent:]

    def close_stdin(self) -> None:
        if self._closed:
            return
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._gone(error) from error

    def read(self, size: int) -> bytes:
        if self._closed:
            raise self._closed_error()
        self._channel.settimeout(self.timeout)
        try:
            data = self._channel.recv(size)
        except TimeoutError:
            raise self._timed_out(self.timeout) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._gone(error) from error
        if not data and (self._closed or not self._ended_properly()):
            raise self._gone(None)
        return data

    def on_readable(self, tell: Callable[[], None]) -> None:
        self._stdout.tell = tell
        tell()

    def on_calm(self, begins: tuple[bytes, ...], tell: Callable[[], None]) -> None:
        self._stdout.calm = (begins, tell)

    def read_ready(self, size: int) -> bytes | None:
        if self._closed:
            raise self._closed_error()
        if not self._stdout.is_ready:
            return None
        # Not through the channel, which gives room back at once: while keys are renewed that would wait.
        data: bytes = self._stdout.read(size)
        self._unsaid += self._channel._check_add_window(len(data))  # type: ignore[attr-defined]
        if self._unsaid and self._wire.clear_to_send.is_set():
            unsaid, self._unsaid = self._unsaid, 0
            self._quietly(lambda: give_room(self._channel, unsaid))
        if not data and (self._closed or not self._ended_properly()):
            raise self._gone(None)
        return data

    def wait(self, timeout: float | None = None) -> int:
        if not self._channel.status_event.wait(timeout):
            raise self._timed_out(timeout)
        status: int = self._channel.exit_status
        if status == NO_STATUS:
            raise self._gone(None)
        return status

    def stderr_bytes(self) -> bytes:
        return bytes(self._tail)

    def close(self) -> None:
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._wake_everybody()
        if self._is_running() and not self._channel.status_event.is_set():
            # Not waited for: a hundred hosts that are hung up one after the other would be a hundred waits.
            CARETAKER.when(self._may_be_let_go, _HANG_UP_GRACE, self._let_go)
        else:
            self._quietly(self._channel.close)

    def _may_be_let_go(self) -> bool:
        return self._channel.status_event.is_set() and self._wire.clear_to_send.is_set()

    def _let_go(self, is_over: bool) -> None:
        if not self._wire.clear_to_send.is_set():  # keys are renewed: who waits for that waits by itself
            threading.Thread(
                target=self._end, args=(is_over,), name=f"end of {self.host}", daemon=True
            ).start()
        else:
            self._end(is_over)

    def _end(self, is_over: bool) -> None:
        self._quietly(self._channel.shutdown_write)  # nothing the second time
        if not is_over:
            self._quietly(lambda: send_signal(self._channel, signal.SIGTERM))
        self._quietly(self._channel.close)

    def _wake_everybody(self) -> None:
        if self._wire.clear_to_send.is_set():  # else it would wait until the keys are renewed
            self._quietly(self._channel.shutdown_write)
        self._channel.in_buffer.close()
        with self._channel.lock:
            self._channel.out_buffer_cv.notify_all()

    def _quietly(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the connection is gone
            call()

    def _is_running(self) -> bool:
        return not self._channel.closed and self._wire.is_active()

    def _ended_properly(self) -> bool:
        return bool(self._channel.eof_received) or self._channel.exit_status != NO_STATUS

    def _gone(self, error: BaseException | None) -> TransportError:
        if self._closed:
            return self._closed_error()
        if not self._wire.is_active():
            return broken(self.host, self._wire.saved_exception)
        if error is not None and not isinstance(error, (socket.error, EOFError)):
            translated = translate(error, self.host, connected=True)
            if isinstance(translated, TransportError):
                return translated
        return TransportError(f"`{self.argv[0]}` is gone", where=self.host)


class _StdoutBuffer(BufferedPipe):  # type: ignore[type-arg]
    """What has come and nobody has read yet: not more than the host was given room for, about.

    `tell` is called when there is more of it, or its end; `calm` are what a line begins with that is not
    urgent, and what is called for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tell: Callable[[], None] | None = None
        self.calm: tuple[tuple[bytes, ...], Callable[[], None]] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether reading waits for nothing."""
        return bool(self._buffer or self._closed)  # type: ignore[attr-defined]

    def feed(self, data: bytes | str) -> None:
        if len(self) > _MOST_UNREAD:
            raise paramiko.SSHException("the host sends more than it was given room for")
        super().feed(data)
        if self.calm is not None and isinstance(data, bytes) and is_calm(data, self.calm[0]):
            self.calm[1]()
        else:
            self._say()

    def close(self) -> None:
        super().close()
        self._say()

    def _say(self) -> None:
        if self.tell is not None:
            self.tell()


class _StderrBuffer(BufferedPipe):  # type: ignore[type-arg]
    """Passes stderr on at once, so that it never fills the window that it shares with stdout."""

    def __init__(self, channel: paramiko.Channel, tail: StderrTail) -> None:
        super().__init__()
        self._channel = channel
        self._stderr_tail = tail

    def feed(self, data: bytes | str) -> None:
        super().feed(data)
        # Reading through the channel is what gives the window back to the host.
        while self.read_ready():
            self._stderr_tail.feed(self._channel.recv_stderr(1 << 20))
