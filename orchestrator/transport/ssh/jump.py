"""One connection per jump host, shared by all hosts behind it.

A hundred hosts behind one door would else knock a hundred times at once, and sshd's MaxStartups turns
most of them away. Channels that only pass bytes on do not count against MaxSessions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import fabric

__all__ = ["JumpHosts", "Lease", "hang_up"]


class _Jump:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: fabric.Connection | None = None
        self.before: Lease | None = None
        self.users = 0
        self.attempts = 0
        self.error: Exception | None = None

    def connect(self, wanted: fabric.Connection, open_: Callable[[fabric.Connection], Lease | None]) -> None:
        self.hang_up()
        try:
            self.error = None
            self.before = open_(wanted)
            self.connection = wanted
        except Exception as error:
            self.error = error
            raise
        finally:
            self.attempts += 1

    def hang_up(self) -> None:
        connection, self.connection = self.connection, None
        before, self.before = self.before, None
        if connection is not None:
            hang_up(connection)
        if before is not None:
            before.release()


class Lease:
    """A right to use a jump host's connection until release()."""

    def __init__(self, jumps: JumpHosts, key: Hashable, connection: fabric.Connection) -> None:
        self.connection = connection
        self._jumps = jumps
        self._key = key

    def release(self) -> None:
        """Once only; the last one closes the connection."""
        self._jumps.release(self._key)


class JumpHosts:
    """The open connections to jump hosts; `scope` keeps users with different ssh options apart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jumps: dict[Hashable, _Jump] = {}

    def acquire(
        self,
        wanted: fabric.Connection,
        scope: Hashable,
        open_: Callable[[fabric.Connection], Lease | None],
    ) -> Lease:
        """A living connection to where `wanted` leads, made by `open_` if there is none yet.

        Whoever waits for somebody else's attempt gets its error, and does not try the same again.
        """
        key = (scope, _route(wanted))
        with self._lock:
            jump = self._jumps.setdefault(key, _Jump())
            jump.users += 1
            attempts = jump.attempts
        try:
            with jump.lock:
                if jump.connection is None or not jump.connection.is_connected:
                    if jump.attempts > attempts and jump.error is not None:
                        raise jump.error
                    jump.connect(wanted, open_)
                return Lease(self, key, jump.connection)
        except BaseException:
            self.release(key)
            raise

    def release(self, key: Hashable) -> None:
        with self._lock:
            jump = self._jumps[key]
            jump.users -= 1
            if jump.users:
                return
            del self._jumps[key]
        jump.hang_up()


def hang_up(connection: fabric.Connection) -> None:
    """Close a connection, at once and also when it is only half made."""
    wire = connection.client.get_transport()
    if wire is not None:
        wire.hang_up()
    connection.client.close()


def _route(connection: fabric.Connection) -> Hashable:
    gateway = connection.gateway
    before = _route(gateway) if isinstance(gateway, fabric.Connection) else gateway
    return connection.user, connection.host, connection.port, before
