"""What a supervisor tells a control node without being asked: the events of a watched run.

A control node asks a host's agent to `watch` a run and names the last that it has: of which supervisor (with
its boot), and which sequence. It then hears, each as a frame with `event` (core.protocol), in this order

    snapshot   all there is, where what it has is not what the supervisor has
    change     at once: ranks that have started, ended, stalled or gone on, a new phase; sequence n + 1
    digest     at most every `every` seconds, if a rank has made a step since: the progress of the host
    beat       after `beat` seconds in which nothing else was said

Each says the sequence that holds then, so that one who misses a change sees that, and asks again; and the
host's clock. What the control node does not know is ignored. `metrics` is kept for batches of a rank's
metrics, (attempt, rank, byte), which the control node acknowledges.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Tuple, Union

from orchestrator.core.ends import StopReason
from orchestrator.core.records import HostStatus, ProcessId, RankStatus

__all__ = ["Beat", "Change", "Digest", "Mark", "Pushed", "Snapshot"]


@dataclass(frozen=True)
class Mark:
    """The last that a control node has of a host; a supervisor says nothing twice to who has its newest."""

    supervisor: ProcessId
    sequence: int


@dataclass(frozen=True)
class Snapshot:
    """The whole status. `supervisor` is None where none lives any more and the agent tells what it left."""

    EVENT = "snapshot"

    sequence: int
    clock: float
    status: HostStatus
    supervisor: Optional[ProcessId] = None


@dataclass(frozen=True)
class Change:
    """What is new: the ranks that have changed, and what holds of the whole host."""

    EVENT = "change"

    sequence: int
    clock: float
    phase: str
    ranks: Tuple[RankStatus, ...] = ()
    scheduler: Optional[RankStatus] = None
    failed_first: Optional[int] = None
    stop: Optional[StopReason] = None


@dataclass(frozen=True)
class Digest:
    """The progress of a host's ranks that run.

    `low` and `high` are their lowest and highest step, `steps` those of the ranks that are not at `high`, by
    rank as text. `seconds` is the median time of a step, None until there are two. `rank` is the host's first
    rank that reports, `numbers` the newest line of its metrics, with its first one beside it as in a status.
    """

    EVENT = "digest"

    sequence: int
    clock: float
    low: int
    high: int
    steps: Mapping[str, int] = field(default_factory=dict)
    seconds: Optional[float] = None
    rank: Optional[int] = None
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Beat:
    """The supervisor is there, and nothing is new."""

    EVENT = "beat"

    sequence: int
    clock: float


Pushed = Union[Snapshot, Change, Digest, Beat]
