"""The loss of a host: what has to be known before one that does not answer counts as gone.

Not seeing is not knowing. A control node that cannot log in, that slept, or whose network is away has learnt
nothing about the run. So a host is lost when attempts to reach it have failed for `timeouts.unreachable` of
the monitor's own time awake, and a second sign says so: no rank makes steps any more, the run is being ended
for another reason, or the host itself refuses connections. Without a second sign it takes `timeouts.lost`.
Where a rank has failed elsewhere, a host that refuses connections is gone: that is not waited out.
A host that answers is lost, too, when all others are over and a process that was killed there stays.
No process and no clock is here: times are seconds of any steady clock, given by who asks.
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.control.run_record import Waits
from orchestrator.core.errors import (
    AgentError,
    AuthenticationError,
    ConnectError,
    HostKeyError,
    OrchestrateError,
)
from orchestrator.core.records import HostStatus, RankStatus

if TYPE_CHECKING:
    from orchestrator.config.run_terms import Timeouts

__all__ = [
    "AwakeClock",
    "Silence",
    "StepPace",
    "Steps",
    "StuckHosts",
    "Surroundings",
    "Verdict",
    "is_stuck",
    "step_of",
    "verdict",
]

# Two turns of a monitor are a second or two apart; clocks of different kinds drift by far less than this.
_SLEEP = 10.0
# What keeps us from reaching anybody: no descriptors, no memory, no network of our own.
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENETDOWN, errno.ENETUNREACH, errno.EADDRNOTAVAIL}
)
# A process that was killed, and is blocked in the kernel, may end yet; longer nobody waits for it alone.
_STUCK = 10.0
# An sshd that is started anew refuses connections, too, for a moment.
_PROVEN = 5.0
_LEAST_STALL = 60.0
_STALL = 5.0


class AwakeClock:
    """Tells that the monitor slept: a laptop's lid, a virtual machine's snapshot, a stopped process.

    Some systems' steady clocks stand still meanwhile, others' jump, so the wall clock is looked at, too.
    """

    def __init__(self, steady: Callable[[], float], wall: Callable[[], float]) -> None:
        self._steady, self._wall = steady, wall
        self._last = (steady(), wall())

    def has_slept(self) -> bool:
        """Whether more time has passed since the last call than turns are apart."""
        before, self._last = self._last, (self._steady(), self._wall())
        return any(now - then > _SLEEP for then, now in zip(before, self._last, strict=True))


@dataclass(frozen=True, slots=True)
class Silence:
    """Attempts to reach a host that have failed, the first begun at `since`, the last failed at `until`."""

    since: float
    until: float
    waits: Waits = Waits.NO_SIGN  # LOGIN or FAULT: not the host's silence but our way to it
    refused: bool = False
    answered: bool = False  # its agent is there, and cannot tell of the run

    @classmethod
    def of(cls, error: OrchestrateError, since: float, until: float, *, ours: bool = False) -> Silence:
        """What a failed attempt says; `ours`: the error is one of this program."""
        waits = Waits.FAULT if ours or _is_ours(error.__cause__) else Waits.NO_SIGN
        if isinstance(error, (AuthenticationError, HostKeyError)):
            waits = Waits.LOGIN
        refused = isinstance(error, ConnectError) and error.refused
        return cls(since, until, waits, refused, isinstance(error, AgentError))

    @property
    def seconds(self) -> float:
        return self.until - self.since


def _is_ours(cause: BaseException | None) -> bool:
    return isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _OURS)


class Steps(enum.Enum):
    """Whether the ranks that can be seen make steps."""

    GO_ON = "go on"
    STAND_STILL = "stand still"
    UNKNOWN = "unknown"  # nobody that can be seen reports steps


class StepPace:
    """Sees when the ranks of a run have last made a new step."""

    def __init__(self, now: float) -> None:
        self._seen: dict[int, int] = {}
        self._last = now
        self._longest = 0.0

    def start_anew(self, now: float) -> None:
        """What was seen before says nothing of the time since."""
        self._last = now

    def note(self, ranks: Iterable[RankStatus], now: float) -> None:
        """What a host says now of its ranks."""
        seen: dict[int, int] = {}
        is_new = False
        for rank in ranks:
            if (step := step_of(rank)) is not None:
                seen[rank.rank] = step
                is_new = is_new or step > self._seen.get(rank.rank, -1)
        if is_new:
            self._longest = max(self._longest, now - self._last) if self._seen else 0.0
            self._last = now
            self._seen.update(seen)

    def steps(self, now: float, least: float, *, anybody: bool) -> Steps:
        """Still is who made none for `least` seconds, and for far longer than it ever took (a save, say).

        `anybody`: some rank that can be seen and has not ended reports steps.
        """
        if not anybody:
            return Steps.UNKNOWN
        limit = max(_LEAST_STALL, least, _STALL * self._longest)
        return Steps.STAND_STILL if now - self._last > limit else Steps.GO_ON


def step_of(rank: RankStatus) -> int | None:
    """The last step that a rank has told of."""
    step = rank.progress.get("step")
    return step if isinstance(step, int) else None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of the rest of the run.

    `answering` of its `hosts` answer. `in_step`: its ranks can make steps only together. `ending`: it is
    being ended for a reason of its own. `failed`: that is the failure of a rank or host.
    """

    hosts: int
    answering: int
    steps: Steps
    in_step: bool = False
    ending: bool = False
    failed: bool = False


def is_stuck(status: HostStatus | None) -> bool:
    """Whether something of the run outlives SIGKILL there, and keeps a device."""
    return status is not None and not status.is_over and any(rank.stuck for rank in status.everyone())


class StuckHosts:
    """Hosts that answer, and where something of the run does not end: lost when they alone are left."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._alone_since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._names)

    def note(self, name: str, status: HostStatus | None) -> None:
        """What a host has said last."""
        if is_stuck(status):
            self._names[name] = None
        else:
            self._names.pop(name, None)

    def start_anew(self) -> None:
        """The monitor slept."""
        self._alone_since = None

    def lost(self, unfinished: Iterable[str], now: float) -> list[str]:
        """Which of them are lost by now, where these hosts are neither over nor lost."""
        left = set(unfinished)
        if not left or not left <= self._names.keys():
            self._alone_since = None
            return []
        self._alone_since = now if self._alone_since is None else self._alone_since
        return [name for name in self._names if name in left] if now - self._alone_since >= _STUCK else []


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the host is lost; if not, what is waited for, and until how many seconds of silence.

    `limit` is None where no time makes it a loss.
    """

    lost: bool
    waits: Waits = Waits.NOTHING
    limit: float | None = None


def verdict(silence: Silence, around: Surroundings, timeouts: Timeouts) -> Verdict:
    """What a host's silence means."""
    short, long = timeouts.unreachable, timeouts.lost
    if around.ending:
        # Nobody's run is ended by this any more; what may be left there is tried to be stopped all the same.
        short = min(short, _PROVEN) if silence.refused and around.failed else short
        return Verdict(silence.answered or silence.seconds > short, limit=short)
    if silence.waits is not Waits.NO_SIGN:
        return Verdict(False, silence.waits)
    if silence.seconds <= short:
        return Verdict(False, limit=short)
    if not around.answering and around.hosts > 1:
        return Verdict(False, Waits.NO_HOST)
    goes_on = around.steps is Steps.GO_ON
    if goes_on and around.in_step:
        return Verdict(False, Waits.STEPS)
    if around.steps is Steps.STAND_STILL or (silence.refused and not goes_on):
        return Verdict(True)
    return Verdict(silence.seconds > long, Waits.STEPS if goes_on else Waits.NO_SIGN, long)
