"""The logins under way: as many at once as the servers take, and another try for those that were dropped.

sshd drops connections before they are logged in where there are too many of them (MaxStartups), and tells
nobody how many it takes. So each server has a pace, which is learnt: all hosts that are reached directly
share one, as they may be one machine under many addresses, and those behind a jump host or the same
ProxyCommand another, as all of these go through one server.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

from orchestrator.hosts.pace import Gate, Pace
from orchestrator.hosts.scheduling import SYSTEM, Scheduling
from orchestrator.hosts.ssh.host_route import Way
from orchestrator.hosts.ssh.ssh_errors import Dropped

__all__ = ["LOGINS", "Logins", "Patience", "await_login_step", "group_of", "retried"]

T = TypeVar("T")

# At first; sshd's own MaxStartups is 10:30:100, and hosts that are reached directly are mostly many machines.
_DIRECT = 32
_SHARED = 10
_MOST = 64
# The least and the most seconds before another try of what was dropped; the last row for all later ones.
_PAUSES = ((0.3, 1.5), (0.5, 3.0), (1.0, 6.0))
_MOST_TRIES = 6
# A turn of waiting, in seconds. One that took longer than twice that was spent waiting for our own CPU.
_TURN = 0.5
# A server may keep us waiting for so many times its patience in all, if it does something now and then.
_IN_ALL = 4.0


class Logins:
    """A gate for each group of hosts whose logins go to one server, or may."""

    def __init__(self, scheduling: Scheduling = SYSTEM) -> None:
        self._scheduling = scheduling
        self._lock = threading.Lock()
        self._gates: dict[Hashable, Gate] = {}

    def gate(self, group: Hashable) -> Gate:
        with self._lock:
            if group not in self._gates:
                start = _DIRECT if group is None else _SHARED
                self._gates[group] = Gate(Pace(start, _MOST), self._scheduling)
            return self._gates[group]


LOGINS = Logins()


def group_of(way: Way) -> Hashable:
    """What the logins of this way share with others: a jump host, a ProxyCommand, or neither (None)."""
    if way.before is not None:
        return "jump", way.before.key
    if way.settings.proxy_command:
        return "proxy", way.settings.proxy_command
    return None


def retried(
    connect: Callable[[bool], T],
    budget: float,
    pause: Callable[[float], None] = time.sleep,
    between: Callable[[float, float], float] = random.uniform,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """`connect`, and again a few times where the host has dropped the connection before it was logged in.

    sshd does that at random while many log in. All those that it drops must not come back at once. `connect`
    is told whether it was dropped before; no try begins after `budget` seconds.
    """
    end, again = clock() + budget, False
    for least, most in _pauses():
        try:
            return connect(again)
        except Dropped:
            seconds = between(least, most)
            if clock() + seconds >= end:
                raise
            pause(seconds)
            again = True
    return connect(again)


def _pauses() -> Iterator[tuple[float, float]]:
    for number in range(_MOST_TRIES - 1):
        yield _PAUSES[min(number, len(_PAUSES) - 1)]


class Patience:
    """The time for which a peer may be silent: `seconds` from its last sign of life, and a multiple in all.

    Only what was waited is counted: a turn that took long because this machine was busy is not the peer's.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._silent = self._waited = 0.0
        self._heard: float | None = None

    def waited(self, seconds: float, meant: float, heard: float) -> bool:
        """Whether it is over, after a turn of `seconds` meant to be `meant`; `heard`: when it spoke last."""
        counted = min(seconds, 2 * meant)
        self._waited += counted
        self._silent = 0.0 if self._heard is not None and heard != self._heard else self._silent + counted
        self._heard = heard
        return self._silent >= self._seconds or self._waited >= _IN_ALL * self._seconds


def await_login_step(
    event: threading.Event,
    seconds: float,
    heard: Callable[[], float],
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait for a step of a login; False where the peer has been silent for `seconds` before it was done."""
    patience = Patience(seconds)
    turn = min(_TURN, seconds / 4)
    while True:
        began = clock()
        if event.wait(turn):
            return True
        if patience.waited(clock() - began, turn, heard()):
            return event.is_set()
