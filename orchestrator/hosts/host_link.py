"""The link to one host of a watched run: what is known of its session, and what comes of it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from orchestrator.core.ends import StopReason
from orchestrator.core.host_answers import StacksAnswer
from orchestrator.core.push import Mark, Pushed
from orchestrator.core.records import HostStatus
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.push_client import PushClient

__all__ = [
    "Ask",
    "Failed",
    "Link",
    "Opened",
    "Present",
    "Said",
    "Stacks",
    "beat_seconds",
    "digest_seconds",
]


def beat_seconds(unreachable: float) -> float:
    """How long a host may have nothing to say before it says so."""
    return min(30.0, unreachable / 4)


def digest_seconds(hosts: int, viewers: int = 0) -> float:
    """How often a host tells of its steps: seldom where there are many, often while somebody looks.

    Steps that nobody looks at are worth 25 digests a second: no more are written to disk. But up to a
    thousand hosts none waits longer than a third of a minute, as a hang is only found some digests later.
    """
    if viewers:
        return max(0.5, hosts / 200)
    return max(2.0, min(hosts / 25, 20.0), hosts / 50)


@dataclass(frozen=True, slots=True)
class Present:
    """The host is there: it has answered a question, with its `status` where that was the question.

    `is_newest`: nothing is newer, since it does not push.
    """

    status: HostStatus | None = None
    is_newest: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be reached, or what it says is none: an attempt that began at `begun` (monotonic)."""

    error: Exception
    begun: float


@dataclass(frozen=True, slots=True)
class Stacks:
    """Where the host's ranks are in their programs, or in `error` why that could not be had."""

    answer: StacksAnswer | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What one host has said, with the offset of its clock where that was measured with it."""

    host: str
    what: Pushed | Present | Failed | Stacks
    clock: ClockOffset | None = None


class Ask(enum.StrEnum):
    """What is asked on an open link, the most urgent first."""

    STOP = "stop"
    WATCH = "watch"
    STATUS = "status"
    KEEP = "keep"
    CLOCK = "clock"
    RENEW = "renew"


@dataclass(eq=False, slots=True)
class Link:
    """One host. Changed by who takes, but for `is_told`; jobs of the pools only tell their results."""

    name: str
    client: PushClient | None = None
    is_opening: bool = False
    is_writing: bool = False
    is_told: bool = False  # it waits among those that can be read
    is_broken: bool = False  # its agent is to be given up before another one is opened
    is_doubted: bool = False  # the last that it said was none of its words
    is_done: bool = False
    polls: bool = False
    mark: Mark | None = None
    wants: dict[Ask, StopReason | tuple[int, int] | None] = field(default_factory=dict)
    asked: Ask | None = None
    asked_at: float = 0.0  # monotonic
    before: float = 0.0  # our time just before a question whose answer tells the host's
    last: dict[Ask, float] = field(default_factory=dict)
    opened: float = -math.inf
    heard: float = 0.0
    is_fresh: bool = False  # nothing has been said in this session
    measure_at: float = math.inf
    backoff: float = 0.0
    due: float = 0.0
    entry: float = math.inf

    def next_question(self, quiet: float, hosts: int) -> float:
        """When it is asked something if it has said nothing by then (monotonic)."""
        if self.is_done:
            return math.inf
        if self.polls:
            return self.heard + max(0.5, hosts / 50)
        return min(self.heard + quiet, self.measure_at)

    @property
    def is_busy(self) -> bool:
        """Whether a question is under way, or the session is being opened."""
        return self.asked is not None or self.is_writing or self.is_opening


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that tells of the run as often as `every`, or `polls`."""

    client: PushClient
    before: float
    every: float
    polls: bool
    status: HostStatus | None
