"""What the monitor knows about its run, as the control node's other commands read it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.codec import DecodeError, Stored, dumps, load
from orchestrator.core.ends import End, EndKind, rank_of_label
from orchestrator.core.paths import ControlDir, atomic_write
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState, RunState
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.plan.launch_plan import LaunchPlan, unreadable

__all__ = [
    "AttemptRecord",
    "Cause",
    "HostView",
    "RunRecord",
    "failed_launch",
    "new_record",
    "read_record",
    "write_record",
]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run failed: the end of the first worker that failed, or of a host that was lost.

    `rank` is None where of a lost host no rank is known; `time` is of our clock.
    """

    host: str
    rank: int | None
    end: End
    time: float

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Format 1 had a label and a sentence."""
        if "what" not in data:
            return data
        end = {"kind": EndKind.DESCRIBED, "message": data["what"], "tail": data.get("tail", ())}
        return {**data, "rank": rank_of_label(str(data.get("label"))), "end": end}


@dataclass(frozen=True, slots=True)
class HostView:
    """One host as last heard of; `error` is set while it cannot be reached."""

    status: HostStatus | None = None
    last_contact: float = 0.0
    error: str = ""
    lost: bool = False
    clock: ClockOffset | None = None

    def ranks(self) -> tuple[RankStatus, ...]:
        """The host's ranks, with what is not known marked as such."""
        if self.status is None:
            return ()
        if not self.error:
            return self.status.ranks
        unknown = RankState.LOST if self.lost else RankState.UNREACHABLE
        return tuple(
            rank if rank.state.is_terminal else dataclasses.replace(rank, state=unknown)
            for rank in self.status.ranks
        )


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One start of all workers; its plan, with its ports and its rank table, is in `attempts/<number>/`."""

    number: int = 1
    token: str = ""
    state: RunState = RunState.PREPARING
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True)
class RunRecord(Stored):
    """One run: its state, its hosts, and how it ended. Times are seconds since the epoch.

    `victims` are the ranks that ended because of the cause; `warnings` are what the checks before the start
    found to be doubtful, a line each. The last of `attempts` is in force: it is as far as the run.
    """

    # 2: who does not know of attempts would write the record back without them.
    FORMAT = 2
    LARGEST = 256 << 20  # the last lines of failed ranks, at worst of all

    run_id: str
    job: str
    task: str
    world_size: int
    created: float
    state: RunState = RunState.PREPARING
    phase: str = "connecting"
    updated: float = 0.0
    ended: float | None = None
    hosts: Mapping[str, HostView] = field(default_factory=dict)
    cause: Cause | None = None
    victims: tuple[int, ...] = ()
    errors: tuple[str, ...] = ()
    exit_code: int | None = None
    warnings: tuple[str, ...] = ()
    attempts: tuple[AttemptRecord, ...] = (AttemptRecord(),)

    def __post_init__(self) -> None:
        *before, last = self.attempts or (AttemptRecord(),)
        started = self.created if last.started is None else last.started
        last = dataclasses.replace(last, state=self.state, started=started, ended=self.ended)
        object.__setattr__(self, "attempts", (*before, last))

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Format 1 had labels of victims."""
        ranks = [rank_of_label(one) if isinstance(one, str) else one for one in data.get("victims", ())]
        return {**data, "victims": [rank for rank in ranks if rank is not None]}

    def ranks(self) -> list[RankStatus]:
        """All ranks of all hosts in rank order."""
        found = [rank for view in self.hosts.values() for rank in view.ranks()]
        return sorted(found, key=lambda rank: rank.rank)


def new_record(plan: LaunchPlan) -> RunRecord:
    """The record of a run that nobody has started yet."""
    return RunRecord(
        run_id=plan.run_id,
        job=plan.job_name,
        task=plan.task,
        world_size=plan.world_size,
        created=plan.created,
        updated=plan.created,
        hosts={host.name: HostView() for host in plan.hosts},
        attempts=(AttemptRecord(plan.attempt.number, plan.attempt.token),),
    )


def failed_launch(record: RunRecord, lines: Sequence[str], exit_code: int) -> RunRecord:
    """The record of a launch that came to nothing, with what is to be told of it."""
    now = time.time()
    return dataclasses.replace(
        record,
        state=RunState.FAILED,
        phase="failed",
        updated=now,
        ended=now,
        errors=tuple(lines),
        exit_code=exit_code,
    )


def write_record(control: ControlDir, record: RunRecord) -> None:
    """Replace the record on disk."""
    atomic_write(control.record, dumps(record))


def read_record(control: ControlDir) -> RunRecord:
    """The record on disk. Raises RunNotFound where it cannot be read, say by a newer version."""
    try:
        return load(RunRecord, control.record, control.runs)
    except (OSError, DecodeError) as error:
        raise unreadable(control.record, error) from error
