"""What a supervisor tells a control node without being asked: the events of a watched run.

A control node asks a host's agent to `watch` a run and names the last that it has: of which supervisor (with
its boot), and which sequence. It then hears, each as a frame with `event` (core.protocol), in this order

    snapshot   all there is, where what it has is not what the supervisor has
    change     at once: ranks that have started, ended, stalled or gone on, a new phase; sequence n + 1
    digest     at most every `every` seconds, if a rank has made a step since: the progress of the host
    beat       after `beat` seconds in which nothing else was said

Each says the sequence that holds then, so that one who misses a change sees that, and asks again; and the
host's clock. Who comes back with the newest sequence hears no change twice, but at once a digest, if there
is progress: what was made meanwhile has no sequence. Who was too slow for changes hears a snapshot in their
place. What the control node does not know is ignored. `metrics` is kept for batches of a rank's metrics,
(attempt, rank, byte), which the control node acknowledges.

Where the supervisor is of an earlier version, does not answer or is gone, the agent looks at the run's files,
and tells snapshots and beats. Their sequences are `OF_FILES` and more, so that none is ever a supervisor's.
A supervisor never tells that its run is over: its guardian still holds the devices then. The agent does,
once the guardian is gone too.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Tuple, Union

from orchestrator.core.ends import StopReason
from orchestrator.core.record_class import dataclass, field
from orchestrator.core.records import CopyStatus, HostStatus, ProcessId, RankStatus

__all__ = ["OF_FILES", "Beat", "Change", "Digest", "Gone", "Mark", "Pushed", "Snapshot"]

OF_FILES = 1 << 40


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
    grace: Optional[float] = None
    copies: Optional[CopyStatus] = None


@dataclass(frozen=True)
class Digest:
    """The progress of a host's ranks that run.

    `low` and `high` are their lowest and highest step, `steps` those of the ranks that are not at `high`, by
    rank as text; 0 is the step of one that has made none yet. `seconds` is the median time of a step, None
    until there are two. `rank` is the host's first rank that reports, `numbers` the newest line of its
    metrics, with its first one beside it as in a status. `compute` has, by rank as text, the seconds of a
    step that a rank itself computes, without its waiting for others: the median of its last ten, where it
    says so.
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
    compute: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Beat:
    """The supervisor is there, and nothing is new."""

    EVENT = "beat"

    sequence: int
    clock: float


@dataclass(frozen=True)
class Gone:
    """The host has no such run any more, or its status cannot be read: `what` and `kind` of that refusal.

    The last that is said; `watch` and `status` are refused in the same way from now on.
    """

    EVENT = "gone"

    clock: float
    what: str
    kind: str = ""


Pushed = Union[Snapshot, Change, Digest, Beat]
