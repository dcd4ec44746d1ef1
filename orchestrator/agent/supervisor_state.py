"""The decisions of a supervisor: which worker to start or signal, and when a run is over.

    prepared --start--> started --commit--> committed --last exit--> over
        |                  |                    |
        | lease runs out   | lease runs out     | a worker fails, or `stop`
        v                  v                    v
     undone             stopping ----------> stopping --grace, then SIGKILL--> over

A lease makes the launch safe against a control node that dies in its middle: what is not taken on to the next
phase in time undoes itself.

A worker that saved because it was told to end says so by its exit code (`SAVED_EXIT`). On several hosts the
ranks agree on that among themselves, so that one may end before its own supervisor has heard of the stop:
such an end waits a moment for it. Without a stop it is a failure, as by any signal that was not ours.

There are no sockets, processes or clocks here, so that thousands of these can be run side by side. What has
happened goes in by the methods, with `now` in seconds of any steady clock; each answers with the actions
to carry out, in order, and is told of their results in the same way.
"""

from __future__ import annotations

import signal
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Union

from orchestrator.agent.monitor_lease import MonitorLease
from orchestrator.agent.rank_watch import RankWatch
from orchestrator.agent.stop_grace import grace_of, will_save
from orchestrator.agent.worker_end import Exit, end_of
from orchestrator.core.ends import SAVED_EXIT, SCHEDULER, UNASKED, End, EndKind, StopKind, StopReason
from orchestrator.core.record_class import dataclass, replace
from orchestrator.core.records import HostStatus, Manifest, ProcessId, RankStatus, WorkerSpec
from orchestrator.core.states import RankState

__all__ = ["Action", "Exit", "Signal", "Start", "SupervisorState"]

# So long a worker that has saved and ended waits for the stop that it heard of first.
_STOP_COMES = 5.0
# The ranks of other hosts save in the same step, and not to the second in the same time.
_OTHERS_SAVE = 2.0
# The ends of an attempt that another one may follow.
_FOLLOWED = (UNASKED | {StopKind.WORKER_FAILED}) - {StopKind.LAUNCH_LAPSED, StopKind.RUN_DIRECTORY_REMOVED}


@dataclass(frozen=True)
class Start:
    """Start the worker of this rank; `started` or `not_started` follows."""

    rank: int


@dataclass(frozen=True)
class Signal:
    """Signal the group of this rank's process where it still runs; then `signalled` follows."""

    rank: int
    number: int


Action = Union[Start, Signal]


class SupervisorState:
    """One host's part of one run, from prepared to over or undone."""

    def __init__(self, manifest: Manifest, now: float) -> None:
        self._manifest = manifest
        named = (manifest.run_id, manifest.job, manifest.host)
        self._status = HostStatus(*named, updated=now, ranks=(), attempt=manifest.attempt)
        specs = [*([manifest.scheduler] if manifest.scheduler else []), *manifest.workers]
        # In the order in which they are started: the scheduler first.
        self.specs: Dict[int, WorkerSpec] = {spec.rank: spec for spec in specs}
        self.workers = {rank: _status_of(spec) for rank, spec in self.specs.items()}
        self.phase = "prepared"
        self.failed_first: Optional[int] = None
        self.stop_reason: Optional[StopReason] = None
        # Of a stop: how many seconds workers have, and whether that is for a checkpoint.
        self.grace: Optional[float] = None
        self.saves = False
        self._stopped_at = now
        self._deadline: Optional[float] = now + manifest.lease
        # Why a worker that runs was signalled by us: its end is then no failure.
        self._signalled: Dict[int, Optional[StopReason]] = {}
        self._watches = {rank: RankWatch() for rank in self.specs}
        # Workers that have saved and ended before anybody told us of a stop, and until when that may come.
        self._early: Dict[int, Tuple[Exit, float]] = {}
        # Whether the scheduler is let be while ranks save, which need it, and since when they all have.
        self._keeps_scheduler = False
        self._saved_at: Optional[float] = None
        # A person has stopped the run, or its monitor has given up: no other attempt follows.
        self._is_wanted_no_more = self._is_killed = False
        self._lease = MonitorLease(manifest.monitor_lease, now)

    @property
    def has_ended(self) -> bool:
        return self.phase in ("over", "undone")

    @property
    def keeps_devices(self) -> bool:
        """Whether, now that it is over, another attempt may follow that wants the same devices."""
        why = self.stop_reason
        has_failed = why is not None and why.kind in _FOLLOWED and not self._is_wanted_no_more
        return self.phase == "over" and has_failed and self._manifest.holds is not None

    @property
    def may_save_last(self) -> bool:
        """Whether a failed gang has less time than it gets once it is seen to write what it has."""
        why = self.stop_reason
        fails = self.phase == "stopping" and why is not None and why.kind is StopKind.WORKER_FAILED
        is_short = self.grace is not None and self.grace < self._manifest.grace
        return fails and is_short and self._deadline is not None

    @property
    def needs_ticks(self) -> bool:
        """Whether more than a deadline of the phase is waited for."""
        return bool(self._early) or (self.phase == "stopping" and self.saves)

    @property
    def lease_ends(self) -> Optional[float]:
        """Until when workers run if neither a monitor nor a step of theirs is heard of; None: for ever."""
        return self._lease.ends if self.phase == "committed" else None

    def is_running(self, rank: int) -> bool:
        return self.workers[rank].state is RankState.RUNNING and rank not in self._early

    def status(self, time: float) -> HostStatus:
        """The record as it is now, `time` by the host's clock."""
        return replace(
            self._status,
            updated=time,
            ranks=tuple(status for rank, status in self.workers.items() if rank != SCHEDULER),
            scheduler=self.workers.get(SCHEDULER),
            phase=self.phase,
            failed_first=self.failed_first,
            stop=self.stop_reason,
            grace=self.grace,
        )

    def start(self, now: float) -> List[Action]:
        """The launch goes on: start the workers. A second time, as after a broken connection, is nothing."""
        if self.phase != "prepared":
            return []
        self.phase = "started"
        self._deadline = now + self._manifest.lease
        return [Start(rank) for rank in self.specs]

    def may_start(self, rank: int) -> bool:
        """Whether a start that was decided still holds: not when another worker could not be started."""
        return self.phase == "started" and self.workers[rank].state is RankState.PENDING

    def started(self, rank: int, process: Optional[ProcessId], time: float) -> None:
        self._update(rank, state=RankState.RUNNING, process=process, started=time)

    def not_started(self, rank: int, message: str, time: float, now: float) -> List[Action]:
        """A worker's program cannot be run; `message` is what the system says."""
        end = End(EndKind.NOT_STARTED, time, exit_code=127, message=message)
        self._update(rank, state=RankState.FAILED, end=end)
        return self._break_gang(rank, now)

    def heard(self, now: float) -> None:
        """A monitor is there: it has renewed its lease, or acts. Who only watches may be gone by now."""
        self._lease.renew(now)

    def commit(self) -> None:
        """Every host has started: the run no longer hangs on whoever launched it."""
        if self.phase == "started":
            self.phase = "committed"
            self._deadline = None

    def stop(self, reason: StopReason, now: float) -> List[Action]:
        """Begin to end every worker: SIGTERM now, SIGKILL when the grace period is over."""
        if reason.kind is StopKind.REQUESTED:
            self.release()
        if self.phase in ("stopping", "over", "undone", "undoing"):
            return []
        self.stop_reason = reason
        self.phase = "stopping"
        running = [status for rank, status in self.workers.items() if self.is_running(rank)]
        self.saves = will_save(reason, running)
        self.grace = grace_of(self._manifest, reason, running, self.step_seconds, self.save_seconds)
        self._stopped_at, self._deadline = now, now + self.grace
        self._settle_early()
        self._keeps_scheduler = self.saves and SCHEDULER in self.workers
        kept = {SCHEDULER} if self._keeps_scheduler else set()
        return [each for each in self._signal_all(signal.SIGTERM) if each.rank not in kept]

    def release(self) -> None:
        """Keep no devices for another attempt once this one is over."""
        self._is_wanted_no_more = True

    def kill(self) -> List[Action]:
        """End the grace period of a stop now."""
        return self._kill_all() if self.phase in ("stopping", "undoing") else []

    def undo(self) -> List[Action]:
        """Take the launch back: nothing is to be left."""
        if self.has_ended:
            return []
        self.stop_reason = StopReason(StopKind.UNDONE)
        self.phase = "undoing"
        self._deadline = None
        self._settle_early()
        return self._kill_all()

    def signalled(self, rank: int) -> None:
        """A signal of ours has reached the worker while it ran."""
        self._signalled.setdefault(rank, self.stop_reason)

    def exited(self, exits: Iterable[Exit], now: float) -> List[Action]:
        """Processes that have ended by the same moment: all first, then what follows from them.

        So who failed in the same instant was not stopped by us.
        """
        ended = []
        for each in exits:
            if self._may_be_early(each):
                self._early[each.rank] = (each, now + _STOP_COMES)
            else:
                self._end(each)
                ended.append(each)
        return self._follow(ended, now)

    def tick(self, now: float, time: float) -> List[Action]:
        """Mind the deadline of the phase, see who has stalled or gone on, and whether all is over."""
        actions: List[Action] = []
        for rank in self.workers:
            self._mind_stall(rank, now, time)
        unasked = [each for each, until in self._early.values() if now >= until]
        for each in unasked:
            del self._early[each.rank]
            self._end(each)
        actions += self._follow(unasked, now)
        actions += self._let_scheduler_go(now)
        actions += self._mind_lease(now)
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            actions += self._on_deadline(now)
        # Workers may be done before the launch is: the commit must still find somebody to take it.
        under_launch = self.phase in ("prepared", "started")
        is_live = bool(self._early) or any(map(self.is_running, self.workers))
        if not under_launch and not self.has_ended and not is_live:
            self._finish(time)
        return actions

    def report_progress(self, rank: int, progress: Mapping[str, Any]) -> None:
        """The newest line of a worker's metrics, which tells of a step and of nothing else."""
        self.report_lines(rank, [progress], 0.0, 0.0)

    def report_lines(self, rank: int, lines: Iterable[Mapping[str, Any]], now: float, time: float) -> None:
        """What a worker's metrics have gained, in its order."""
        status, watch = self.workers[rank], self._watches[rank]
        for line in lines:
            status = watch.after(status, line, now, time)
        self.workers[rank] = status

    def report_process(self, rank: int, letter: str, now: float, switches: Optional[int] = None) -> None:
        """The state of a worker's process, as proc(5) has it, and how often it has run; once a second."""
        self._watches[rank].note_process(letter, now, switches)

    def report_ability(self, rank: int, word: str, has: bool) -> None:
        """What a worker announces, or takes back, but by its metrics; see `RankStatus.can`."""
        can = self.workers[rank].can
        if has is not (word in can):
            self._update(rank, can=(*can, word) if has else tuple(each for each in can if each != word))

    def report_last_save(self) -> None:
        """A failed gang is seen to write what it has: it gets the time that the job gives for an end."""
        if self.may_save_last:
            self.grace = self._manifest.grace
            self._deadline = self._stopped_at + self.grace

    def woke(self, now: float) -> None:
        """The supervisor, or its whole host, did not run for a while: that was nobody's stall."""
        for watch in self._watches.values():
            watch.forgive(now)
        self._lease.renew(now)

    @property
    def step_seconds(self) -> Optional[float]:
        """The median time of a step on this host; None until there are two."""
        known = sorted(
            watch.pace.median
            for rank, watch in self._watches.items()
            if watch.pace.median is not None and self.is_running(rank)
        )
        return known[len(known) // 2] if known else None

    @property
    def save_seconds(self) -> Optional[float]:
        """The time of the last save of the rank that took longest; None until there is one."""
        paces = (watch.pace for rank, watch in self._watches.items() if self.is_running(rank))
        return max((pace.save_seconds for pace in paces if pace.save_seconds is not None), default=None)

    @property
    def compute(self) -> Dict[str, float]:
        """The seconds of a step in which each rank itself computes, by rank as text, where it says so."""
        return {
            str(rank): watch.pace.compute
            for rank, watch in self._watches.items()
            if watch.pace.compute is not None and self.is_running(rank)
        }

    def _mind_stall(self, rank: int, now: float, time: float) -> None:
        """Nothing is ended for a stall: it is said, and taken back."""
        status = self.workers[rank]
        if not self.is_running(rank):
            return
        watch = self._watches[rank]
        kind, since = watch.stall(status, now)
        stuck = watch.outlives_kill(self._is_killed, now)
        if kind is not status.stalled or stuck is not status.stuck:
            then = None if since is None else time - (now - since)
            self._update(rank, stalled=kind, stalled_since=then, stuck=stuck)

    def _mind_lease(self, now: float) -> List[Action]:
        """Nobody may look after these workers any more, and another attempt be about to take their place."""
        running = (status for rank, status in self.workers.items() if self.is_running(rank))
        if self.phase != "committed" or not self._lease.has_ended(running, now):
            return []
        return self.stop(StopReason(StopKind.LEASE_ENDED), now)

    def _on_deadline(self, now: float) -> List[Action]:
        if self.phase == "prepared":
            return self.undo()
        if self.phase == "started":
            return self.stop(StopReason(StopKind.LAUNCH_LAPSED), now)
        return self.kill()

    def _let_scheduler_go(self, now: float) -> List[Action]:
        """End the scheduler once the ranks of this host have ended, and those of others most likely."""
        if not self._keeps_scheduler or any(
            self.is_running(rank) for rank in self.workers if rank != SCHEDULER
        ):
            return []
        self._saved_at = now if self._saved_at is None else self._saved_at
        if now < self._saved_at + (_OTHERS_SAVE if len(self._manifest.hosts) > 1 else 0.0):
            return []
        self._keeps_scheduler = False
        return [each for each in self._signal_all(signal.SIGTERM) if each.rank == SCHEDULER]

    def _settle_early(self) -> None:
        """The stop has come of which these had heard before."""
        early, self._early = self._early, {}
        for each, _ in early.values():
            self._end(each)

    def _may_be_early(self, ended: Exit) -> bool:
        """Whether it has saved and ended on another host's word; on one host all are told by us at once."""
        was_told = ended.rank in self._signalled or self.stop_reason is not None
        return ended.code == SAVED_EXIT and not was_told and len(self._manifest.hosts) > 1

    def _follow(self, ended: Iterable[Exit], now: float) -> List[Action]:
        """What follows from these ends, once all of them are noted."""
        actions: List[Action] = []
        for each in ended:
            if self.workers[each.rank].state is RankState.FAILED:
                actions += self._break_gang(each.rank, now)
            elif self._deadline is not None and self._spoils_save(each):
                # The others wait in vain for the one with whom they would have saved.
                self._deadline = min(self._deadline, now + self._manifest.grace)
        return actions

    def _spoils_save(self, ended: Exit) -> bool:
        return self.saves and ended.rank != SCHEDULER and ended.code not in (0, SAVED_EXIT)

    def _break_gang(self, rank: int, now: float) -> List[Action]:
        if self.failed_first is None:
            self.failed_first = rank
        return self.stop(StopReason(StopKind.WORKER_FAILED, self._manifest.host, rank), now)

    def _kill_all(self) -> List[Action]:
        self._is_killed = True
        return self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> List[Action]:
        return [Signal(rank, number) for rank in self.workers if self.is_running(rank)]

    def _finish(self, time: float) -> None:
        for rank, status in self.workers.items():
            if not status.state.is_terminal:
                end = End(EndKind.STOPPED, time, reason=self.stop_reason)
                self._update(rank, state=RankState.STOPPED, end=end)
        self.phase = "undone" if self.phase == "undoing" else "over"

    def _end(self, each: Exit) -> None:
        was_signalled = each.rank in self._signalled
        reason = self._signalled.get(each.rank, self.stop_reason)
        end, state = end_of(each, self.workers[each.rank], was_signalled, reason)
        self._update(each.rank, state=state, end=end, stalled=None, stalled_since=None, stuck=False)

    def _update(self, rank: int, **changes: object) -> None:
        self.workers[rank] = replace(self.workers[rank], **changes)


def _status_of(spec: WorkerSpec) -> RankStatus:
    return RankStatus(spec.rank, spec.local_rank, spec.device_id)
