"""What the monitor knows about its run, as the control node's other commands read it."""

from __future__ import annotations

import dataclasses
import enum
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.control.decisions import Decision, Outcome
from orchestrator.control.health_findings import Finding
from orchestrator.control.held_hosts import Held
from orchestrator.control.record_changes import Change, Journal, apply_changes
from orchestrator.control.spare_view import SpareView
from orchestrator.control.step_times import Spent
from orchestrator.core.claims import NO_CLAIM
from orchestrator.core.codec import DecodeError, Stored, dumps, from_json, unpacked
from orchestrator.core.ends import End, EndKind, rank_of_label
from orchestrator.core.errors import AssumedWarning
from orchestrator.core.paths import ControlDir, atomic_write
from orchestrator.core.records import Claim, HostStatus, RankStatus
from orchestrator.core.safe_open import read_safely
from orchestrator.core.states import RankState, RunState
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.plan.launch_plan import LaunchPlan, unreadable

__all__ = [
    "LEFT_FOR",
    "AttemptRecord",
    "Cause",
    "HostView",
    "Refused",
    "Replica",
    "RunRecord",
    "Waits",
    "failed_launch",
    "new_record",
    "read_record",
    "with_spent",
    "write_record",
]

# For so long after its end a run's monitor goes on trying to stop what may be left on hosts that were lost.
LEFT_FOR = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run failed: the end of the first worker that failed by itself, or of a host that was lost.

    `rank` is None where of a lost host no rank is known; `time` is of our clock. `reporters` are ranks that
    have only noticed the end of another, in the order of their ends. Where they are all there is, it is not
    `sure`: then host and rank are those for which they waited, or nobody's (empty, None), and `end` is that
    of the first of them.
    """

    host: str
    rank: int | None
    end: End
    time: float
    sure: bool = True
    reporters: tuple[int, ...] = ()

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Format 1 had a label and a sentence."""
        if "what" not in data:
            return data
        end = {"kind": EndKind.DESCRIBED, "message": data["what"], "tail": data.get("tail", ())}
        return {**data, "rank": rank_of_label(str(data.get("label"))), "end": end}


class Waits(enum.StrEnum):
    """Why a host that does not answer is not lost, and what then makes it lost."""

    NOTHING = ""
    LOGIN = "login"  # it refuses our login, so that it is there: nothing
    FAULT = "fault"  # the fault is here: nothing
    NO_HOST = "no_host"  # no host of the run answers, so that it may be our network: nothing
    STEPS = "steps"  # ranks elsewhere make steps; where they cannot without it: nothing
    NO_SIGN = "no_sign"  # nothing else says that it is gone: time
    NO_RUN = "no_run"  # it is lost, and nothing can be left: the host answers, and has no such run
    STUCK = "stuck"  # it is lost though it answers: a killed process stays, blocked in the kernel


@dataclass(frozen=True, slots=True)
class HostView:
    """One host as last heard of; `error` is set while it cannot be reached.

    `silent` are the seconds for which attempts have failed while the monitor was awake. It `waits` until that
    is `limit`; None where no time makes the host lost. Since `blind_since` nothing is known of it, set with
    `error`; since `stale_since` its supervisor has not written a status, though the host answers. Times are
    of our clock. `last_contact` is written down with what else is new, so it may be older.
    """

    status: HostStatus | None = None
    last_contact: float = 0.0
    error: str = ""
    lost: bool = False
    clock: ClockOffset | None = None
    silent: float = 0.0
    waits: Waits = Waits.NOTHING
    limit: float | None = None
    blind_since: float | None = None
    stale_since: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of the run is left there, as far as the host has told."""
        return self.status is not None and self.status.is_over

    @property
    def may_have_workers(self) -> bool:
        """Of an ended run: whether it was lost with workers that nobody could tell to end.

        One that is back has them until it says that it is over.
        """
        is_known = self.lost or self.status is not None
        return is_known and not self.is_over and self.waits is not Waits.NO_RUN

    def ours(self, there: float) -> float:
        """Our time when this host's clock shows `there`, as far as that clock is known."""
        return there if self.clock is None else self.clock.ours(there)

    def ranks(self) -> tuple[RankStatus, ...]:
        """The host's ranks, with what is not known marked as such."""
        if self.status is None:
            return ()
        if not self.error and not self.lost:
            return self.status.ranks
        unknown = RankState.LOST if self.lost else RankState.UNREACHABLE
        return tuple(
            rank if rank.state.is_terminal else dataclasses.replace(rank, state=unknown)
            for rank in self.status.ranks
        )


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One start of all workers; its plan, with its ports and its rank table, is in `attempts/<number>/`.

    Once another one has followed: its `cause`, the steps that it made, its hosts, and of these those that are
    `left`, on which it may still run, since nobody has been able to ask them. `decision` is what was decided
    at its end, written down before it is carried out. `outcome` and `kind` (of `diagnosis.signatures.KINDS`)
    are what ended it.

    It went on from `origin`, an attempt and its step; (0, 0): from the beginning, None: not known. `spent` is
    how its time was spent, None where nobody has noted that. `kept` is the newest step that was whole in a
    checkpoint of its own when it was over, or of which the attempt after it has made use, 0: none; None where
    its workers do not tell.
    """

    number: int = 1
    token: str = ""
    state: RunState = RunState.PREPARING
    started: float | None = None
    ended: float | None = None
    cause: Cause | None = None
    first_step: int | None = None
    last_step: int | None = None
    hosts: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    decision: Decision | None = None
    origin: tuple[int, int] | None = None
    spent: Spent | None = None
    kept: int | None = None
    outcome: Outcome | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A launch of another attempt that came to nothing, so that the one before is in force; why.

    `count`: so many did in a row.
    """

    number: int
    errors: tuple[str, ...] = ()
    exit_code: int = 2
    time: float = 0.0
    count: int = 1


@dataclass(frozen=True)
class RunRecord(Stored):
    """One run: its state, its hosts, and how it ended. Times are seconds since the epoch.

    `victims` are the ranks that ended because of the cause; `warnings` are what the checks before the start
    found to be doubtful, a line each. `watched` is when a monitor last wrote it; `unwatched` is set by who
    finds that none lives: since then nobody has watched the run. `elsewhere` is set by who finds that the
    monitor lives on another machine, to its name. The last of `attempts` is in force: it is as far as the
    run. `health` is what is not well now, or was when the run ended; `recovered` are the last hangs that went
    on; `step_interval` are the seconds that usually lie between two new steps, where that is known. `claim`
    is ours; with epoch 0 this control node only watches, and the holder is who acts, as far as that is known.
    `spares` are the hosts that stand ready, by name. `held` is who may still hold something for a run that is
    over; None where that is not known.
    """

    # 2: who does not know of attempts would write the record back without them. 3: what has changed since is
    # in a journal beside it, and who does not know of that would show how the run was long ago. 4: a run may
    # be restarting, of which who does not know would take it for damaged.
    FORMAT = 4
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
    watched: float = 0.0
    unwatched: float | None = None
    elsewhere: str = ""
    health: tuple[Finding, ...] = ()
    recovered: tuple[Finding, ...] = ()
    step_interval: float | None = None
    claim: Claim = NO_CLAIM
    refused: Refused | None = None
    spares: Mapping[str, SpareView] = field(default_factory=dict)
    held: Held | None = None

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

    @property
    def needs_monitor(self) -> bool:
        """Whether there is something to watch or, of a run that is over, to stop or to let go of on hosts."""
        return self.needs_monitor_at(time.time())

    def needs_monitor_at(self, now: float) -> bool:
        """As `needs_monitor`, by another clock."""
        if not self.state.is_terminal:
            return True
        if self.held is not None and self.held.at(now):
            return True
        recent = self.ended is not None and now < self.ended + LEFT_FOR
        return recent and (
            any(view.may_have_workers for view in self.hosts.values())
            or any(attempt.left for attempt in self.attempts[:-1])
        )

    @property
    def has_started(self) -> bool:
        """Whether any host ever told of workers: a launch that came to nothing has none."""
        return any(view.status is not None for view in self.hosts.values())

    def ranks(self) -> list[RankStatus]:
        """All ranks of all hosts in rank order."""
        found = [rank for view in self.hosts.values() for rank in view.ranks()]
        return sorted(found, key=lambda rank: rank.rank)


def new_record(plan: LaunchPlan, claim: Claim = NO_CLAIM) -> RunRecord:
    """The record of a run that nobody has started yet, or of one that was found on its hosts."""
    return RunRecord(
        run_id=plan.run_id,
        job=plan.job_name,
        task=plan.task,
        world_size=plan.world_size,
        created=plan.created,
        updated=plan.created,
        hosts={host.name: HostView() for host in plan.hosts},
        attempts=(AttemptRecord(plan.attempt.number, plan.attempt.token, origin=plan.origin),),
        claim=claim,
    )


def with_spent(record: RunRecord, spent: Spent) -> RunRecord:
    """The record, of which the attempt in force has spent its time so; the same one where nothing is new."""
    *before, last = record.attempts
    if last.spent is spent or (last.spent is None and spent == Spent()):
        return record
    return dataclasses.replace(record, attempts=(*before, dataclasses.replace(last, spent=spent)))


def failed_launch(
    record: RunRecord, lines: Sequence[str], exit_code: int, now: float | None = None
) -> RunRecord:
    """The record of a launch that came to nothing, with what is to be told of it."""
    now = time.time() if now is None else now
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
    """Replace the record on disk, of a run that no monitor writes down."""
    atomic_write(control.record, dumps(record))
    control.journal.unlink(missing_ok=True)


def read_record(control: ControlDir) -> RunRecord:
    """The record on disk: the snapshot, and what has changed since by its journal.

    Raises RunNotFound where it cannot be read, say by a newer version. Damage in the middle of the journal
    costs what lies behind it, which is said with a warning.
    """
    try:
        return from_json(RunRecord, _newest(control))
    except (OSError, DecodeError) as error:
        raise unreadable(control.record, error) from error


# So often a snapshot is replaced while somebody reads it and its journal, at most.
_TURNS = 8


def _newest(control: ControlDir) -> dict[str, Any]:
    before: object = None
    for _ in range(_TURNS):
        data = unpacked(RunRecord, read_safely(control.record, control.runs, RunRecord.LARGEST))
        name = data.get("journal")
        if not isinstance(name, str) or not name:
            return data
        journal = _journal(control)
        if journal.problem and name in (journal.snapshot, before):
            warnings.warn(AssumedWarning(f"{control.journal}: {journal.problem}"), stacklevel=3)
        if journal.snapshot == name:
            for changes in journal.changes:
                apply_changes(data, changes)
            return data
        if name == before:  # the journal is of the snapshot before this one, which has all of it
            return data
        before = name
    return data


def _journal(control: ControlDir) -> Journal:
    try:
        return Journal.of(read_safely(control.journal, control.runs, RunRecord.LARGEST))
    except FileNotFoundError:
        return Journal()
    except OSError as error:  # a link, a pipe: the snapshot is there all the same
        return Journal(problem=f"{error.strerror}: what it may say does not count")


class Replica:
    """A record that follows another by its changes; only hosts that have changed are made anew."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self.record = from_json(RunRecord, data)

    def apply(self, changes: Sequence[Change]) -> RunRecord:
        """The record as it is with these changes. Raises DecodeError."""
        apply_changes(self._data, changes)
        names = {str(place[1]) for place, _ in changes if place[0] == "hosts" and len(place) > 1}
        if any(list(place) == ["hosts"] for place, _ in changes):
            self.record = from_json(RunRecord, self._data)
            return self.record
        hosts = {name: from_json(HostView, self._data["hosts"][name]) for name in names}
        if hosts:
            self.record = dataclasses.replace(self.record, hosts={**self.record.hosts, **hosts})
        if len(changes) > sum(place[0] == "hosts" for place, _ in changes):
            rest = from_json(RunRecord, {**self._data, "hosts": {}})
            self.record = dataclasses.replace(rest, hosts=self.record.hosts)
        return self.record
