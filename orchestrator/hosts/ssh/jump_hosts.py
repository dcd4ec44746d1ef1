"""One connection per jump host, shared by all hosts behind it.

A hundred hosts behind one door would else knock a hundred times at once, and sshd's MaxStartups turns
most of them away. Channels that only pass bytes on do not count against MaxSessions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Protocol

from orchestrator.hosts.ssh.packets import Wire

__all__ = ["JumpHosts", "Lease", "Link"]


class Link(Protocol):
    """A connection that others go through."""

    @property
    def wire(self) -> Wire | None: ...

    def hang_up(self) -> None: ...


class _Jump:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.link: Link | None = None
        self.users = 0
        self.attempts = 0
        self.error: Exception | None = None

    def is_alive(self) -> bool:
        wire = None if self.link is None else self.link.wire
        return wire is not None and wire.is_active()

    def connect(self, open_: Callable[[], Link]) -> None:
        self.hang_up()
        try:
            self.error = None
            self.link = open_()
        except Exception as error:
            self.error = error
            raise
        finally:
            self.attempts += 1

    def hang_up(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.hang_up()


class Lease:
    """A right to use a jump host's connection until release()."""

    def __init__(self, jumps: JumpHosts, key: Hashable, link: Link) -> None:
        self.link = link
        self._jumps = jumps
        self._key = key

    def release(self) -> None:
        """Once only; the last one closes the connection."""
        self._jumps.release(self._key)


class JumpHosts:
    """The open connections to jump hosts, each under a key: its way, and the options that count for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jumps: dict[Hashable, _Jump] = {}

    def acquire(self, key: Hashable, open_: Callable[[], Link]) -> Lease:
        """A living connection, made by `open_` if there is none yet.

        Whoever waits for somebody else's attempt gets its error, and does not try the same again.
        """
        with self._lock:
            jump = self._jumps.setdefault(key, _Jump())
            jump.users += 1
            attempts = jump.attempts
        try:
            with jump.lock:
                if not jump.is_alive():
                    if jump.attempts > attempts and jump.error is not None:
                        raise jump.error
                    jump.connect(open_)
                assert jump.link is not None
                return Lease(self, key, jump.link)
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
