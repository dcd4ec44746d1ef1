"""Processes on this machine, behind the same contract as a remote host."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from orchestrator.core.errors import TransportError
from orchestrator.hosts.readiness import READINESS
from orchestrator.hosts.socket_timeouts import timeval
from orchestrator.hosts.transport import Channel, StderrTail, Transport

__all__ = ["LocalTransport"]

_HANG_UP_GRACE = 1.0
_TERM_GRACE = 2.0


class LocalTransport(Transport):
    """Starts processes directly; each has its own session, as sshd gives it."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self._lock = threading.Lock()
        self._channels: set[_LocalChannel] | None = None

    def connect(self) -> None:
        with self._lock:
            if self._channels is None:
                self._channels = set()

    def close(self) -> None:
        with self._lock:
            channels, self._channels = self._channels, None
        for channel in channels or ():
            channel.close()

    def _open(self, argv: tuple[str, ...]) -> Channel:
        with self._lock:
            if self._channels is None:
                raise self._not_connected()
            self._channels = {channel for channel in self._channels if not channel.closed}
            try:
                channel = _LocalChannel(self.host, argv)
            except OSError as error:
                raise TransportError(f"cannot start a process: {error}", where=self.host) from error
            self._channels.add(channel)
        return channel


class _LocalChannel(Channel):
    """A child process on three socket pairs: unlike pipes they have timeouts and can wake a reader."""

    def __init__(self, host: str, argv: tuple[str, ...]) -> None:
        super().__init__(host, argv)
        self.closed = False
        self._close_lock = threading.Lock()
        self._tail = StderrTail()
        self._tell: Callable[[], None] | None = None
        pairs = [socket.socketpair() for _ in range(3)]
        ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self._stdin, self._stdout, self._stderr = ours
        try:
            self._process = _start(argv, [end.fileno() for end in theirs])
        except OSError:
            for end in ours:
                end.close()
            raise
        finally:
            for end in theirs:
                end.close()
        self._drain = threading.Thread(target=self._drain_stderr, name=f"stderr of {host}", daemon=True)
        self._drain.start()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._stdin.settimeout(self.timeout)
            self._stdin.sendall(data)
        except (TimeoutError, BlockingIOError):
            raise self._timed_out(self.timeout) from None
        except OSError as error:
            raise self._gone() from error

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError):  # closed already, or the process is gone
            self._stdin.shutdown(socket.SHUT_WR)

    def read(self, size: int) -> bytes:
        try:
            self._stdout.settimeout(self.timeout)
            data = self._stdout.recv(size)
        except (TimeoutError, BlockingIOError):
            raise self._timed_out(self.timeout) from None
        except OSError as error:
            raise self._gone() from error
        if not data and self.closed:
            raise self._closed_error()
        return data

    def on_readable(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._watch_stdout()

    def read_ready(self, size: int) -> bytes | None:
        try:
            self._stdout.settimeout(0.0)
            data = self._stdout.recv(size)
        except BlockingIOError:
            self._watch_stdout()
            return None
        except OSError as error:
            raise self._gone() from error
        if not data and self.closed:
            raise self._closed_error()
        return data

    def _watch_stdout(self) -> None:
        with self._close_lock:
            if self.closed:
                raise self._closed_error()
            if self._tell is not None:
                READINESS.arm(self._stdout, self._tell)

    def read_into(self, buffer: memoryview) -> int:
        try:
            # The kernel waits for all of it, and keeps the time: a wake-up for each packet of ssh's would
            # cost more than the bytes. After the time, what has come is returned, then BlockingIOError.
            self._stdout.settimeout(None)
            self._stdout.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(self.timeout))
            count = self._stdout.recv_into(buffer, 0, socket.MSG_WAITALL)
        except (TimeoutError, BlockingIOError):
            raise self._timed_out(self.timeout) from None
        except OSError as error:
            raise self._gone() from error
        if not count and self.closed:
            raise self._closed_error()
        return count

    def wait(self, timeout: float | None = None) -> int:
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._timed_out(timeout) from None
        # A grandchild may hold stderr open: what is there is enough then.
        self._drain.join(0.5)
        return code

    def stderr_bytes(self) -> bytes:
        return bytes(self._tail)

    def close(self) -> None:
        with self._close_lock:
            if self.closed:
                return
            self.closed = True
            for end in (self._stdin, self._stdout):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._end_process()
            with contextlib.suppress(OSError):
                self._stderr.shutdown(socket.SHUT_RDWR)
            self._drain.join()
            READINESS.forget(self._stdout)
            for end in (self._stdin, self._stdout, self._stderr):
                end.close()

    def _end_process(self) -> None:
        # Only while the leader lives is its number ours: afterwards the group may be a background child's.
        for number, grace in ((0, _HANG_UP_GRACE), (signal.SIGTERM, _TERM_GRACE), (signal.SIGKILL, None)):
            if number:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
                return
        self._process.wait()

    def _drain_stderr(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._stderr.recv(64 * 1024):
                self._tail.feed(data)

    def _gone(self) -> TransportError:
        if self.closed:
            return self._closed_error()
        return TransportError(f"`{self.argv[0]}` no longer reads its input", where=self.host)


def _start(argv: tuple[str, ...], streams: list[int]) -> subprocess.Popen[bytes]:
    home = Path.home()
    cwd = home if home.is_dir() else Path("/")
    try:
        return _popen(argv, streams, cwd)
    except (FileNotFoundError, PermissionError):
        # Let a shell say it: exit codes 126 and 127 and the text are then those of a remote host.
        return _popen(("/bin/sh", "-c", 'exec "$0" "$@"', *argv), streams, cwd)


def _popen(argv: tuple[str, ...], streams: list[int], cwd: Path) -> subprocess.Popen[bytes]:
    stdin, stdout, stderr = streams
    return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, start_new_session=True)
