"""The decisions of a supervisor: which worker to start or signal, and when a run is over.

    prepared --start--> started --commit--> committed --last exit--> over
        |                  |                    |
        | lease runs out   | lease runs out     | a worker fails, or `stop`
        v                  v                    v
     undone             stopping ----------> stopping --grace, then SIGKILL--> over

A lease makes the launch safe against a control node that dies in its middle: what is not taken on to the next
phase in time undoes itself.

There are no sockets, processes or clocks here, so that thousands of these can be run side by side. What has
happened goes in by the methods, with `now` in seconds of any steady clock; each answers with the actions
to carry out, in order, and is told of their results in the same way.
"""

from __future__ import annotations

import signal
from typing import Dict, Iterable, List, Optional, Tuple, Union

from orchestrator.agent.step_pace import StepPace
from orchestrator.core.ends import SCHEDULER, End, EndKind, StopKind, StopReason
from orchestrator.core.record_class import dataclass, replace
from orchestrator.core.records import HostStatus, Manifest, ProcessId, RankStatus, StallKind, WorkerSpec
from orchestrator.core.states import RankState

__all__ = ["Action", "Exit", "Signal", "Start", "SupervisorState"]

# How a process ends that breaks in native code.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})

# The states of a process, see proc(5), in which it does not go on, and for how long that is nothing.
_HELD_UP = {"T": StallKind.STOPPED, "t": StallKind.STOPPED, "D": StallKind.BLOCKED}
_HELD_UP_SECONDS = 10.0


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


@dataclass(frozen=True)
class Exit:
    """A process that has ended, with `code` as of `wait` (negative for a signal), at `time` of the host.

    `was_done`: it had said that its work was done.
    """

    rank: int
    code: int
    time: float
    was_done: bool = False
    tail: Tuple[str, ...] = ()
    evidence: Tuple[str, ...] = ()


class SupervisorState:
    """One host's part of one run, from prepared to over or undone."""

    def __init__(self, manifest: Manifest, now: float) -> None:
        self._manifest = manifest
        specs = [*([manifest.scheduler] if manifest.scheduler else []), *manifest.workers]
        # In the order in which they are started: the scheduler first.
        self.specs: Dict[int, WorkerSpec] = {spec.rank: spec for spec in specs}
        self.workers = {rank: _status_of(spec) for rank, spec in self.specs.items()}
        self.phase = "prepared"
        self.failed_first: Optional[int] = None
        self.stop_reason: Optional[StopReason] = None
        self._deadline: Optional[float] = now + manifest.lease
        # Why a worker that runs was signalled by us: its end is then no failure.
        self._signalled: Dict[int, Optional[StopReason]] = {}
        self._paces = {rank: StepPace() for rank in self.specs}
        # Processes that were found in such a state, and since when.
        self._held_up: Dict[int, Tuple[StallKind, float]] = {}

    @property
    def has_ended(self) -> bool:
        return self.phase in ("over", "undone")

    def is_running(self, rank: int) -> bool:
        return self.workers[rank].state is RankState.RUNNING

    def status(self, time: float) -> HostStatus:
        """The record as it is now, `time` by the host's clock."""
        workers = [status for rank, status in self.workers.items() if rank != SCHEDULER]
        return HostStatus(
            run_id=self._manifest.run_id,
            job=self._manifest.job,
            host=self._manifest.host,
            updated=time,
            ranks=tuple(workers),
            scheduler=self.workers.get(SCHEDULER),
            phase=self.phase,
            failed_first=self.failed_first,
            stop=self.stop_reason,
            attempt=self._manifest.attempt,
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

    def commit(self) -> None:
        """Every host has started: the run no longer hangs on whoever launched it."""
        if self.phase == "started":
            self.phase = "committed"
            self._deadline = None

    def stop(self, reason: StopReason, now: float) -> List[Action]:
        """Begin to end every worker: SIGTERM now, SIGKILL when the grace period is over."""
        if self.phase in ("stopping", "over", "undone", "undoing"):
            return []
        self.stop_reason = reason
        self.phase = "stopping"
        self._deadline = now + self._manifest.grace
        return self._signal_all(signal.SIGTERM)

    def kill(self) -> List[Action]:
        """End the grace period of a stop now."""
        return self._signal_all(signal.SIGKILL) if self.phase in ("stopping", "undoing") else []

    def undo(self) -> List[Action]:
        """Take the launch back: nothing is to be left."""
        if self.has_ended:
            return []
        self.stop_reason = StopReason(StopKind.UNDONE)
        self.phase = "undoing"
        self._deadline = None
        return self._signal_all(signal.SIGKILL)

    def signalled(self, rank: int) -> None:
        """A signal of ours has reached the worker while it ran."""
        self._signalled.setdefault(rank, self.stop_reason)

    def exited(self, exits: Iterable[Exit], now: float) -> List[Action]:
        """Processes that have ended by the same moment: all first, then what follows from them.

        So who failed in the same instant was not stopped by us.
        """
        ended = list(exits)
        for each in ended:
            end, state = self._end_of(each)
            self._update(each.rank, state=state, end=end, stalled=None, stalled_since=None)
        actions: List[Action] = []
        for each in ended:
            if self.workers[each.rank].state is RankState.FAILED:
                actions += self._break_gang(each.rank, now)
        return actions

    def tick(self, now: float, time: float) -> List[Action]:
        """Mind the deadline of the phase, see who has stalled or gone on, and whether all is over."""
        actions: List[Action] = []
        for rank in self.workers:
            self._mind_stall(rank, now, time)
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            actions = self._on_deadline(now)
        # Workers may be done before the launch is: the commit must still find somebody to take it.
        under_launch = self.phase in ("prepared", "started")
        if not under_launch and not self.has_ended and not any(map(self.is_running, self.workers)):
            self._finish(time)
        return actions

    def report_progress(self, rank: int, progress: Dict[str, object]) -> None:
        """The newest line of a worker's metrics.

        The first is kept beside it: pace and time left are told from the two, and the first step, which
        compiles, does not count.
        """
        first = self.workers[rank].progress.get("first") or {
            name: progress[name] for name in ("step", "time") if name in progress
        }
        self._update(rank, progress={**progress, "first": first})

    def report_process(self, rank: int, letter: str, now: float) -> None:
        """The state of a worker's process, as proc(5) has it; to be told every few seconds."""
        kind = _HELD_UP.get(letter)
        if kind is None:
            self._held_up.pop(rank, None)
        elif self._held_up.get(rank, (None, now))[0] is not kind:
            self._held_up[rank] = (kind, now)

    def woke(self, now: float) -> None:
        """The supervisor, or its whole host, did not run for a while: that was nobody's stall."""
        self._held_up.clear()
        for pace in self._paces.values():
            pace.forgive(now)

    @property
    def step_seconds(self) -> Optional[float]:
        """The median time of a step on this host; None until there are two."""
        known = sorted(
            pace.median
            for rank, pace in self._paces.items()
            if pace.median is not None and self.is_running(rank)
        )
        return known[len(known) // 2] if known else None

    def _mind_stall(self, rank: int, now: float, time: float) -> None:
        """Nothing is ended for a stall: it is said, and taken back."""
        status, pace = self.workers[rank], self._paces[rank]
        if status.state is not RankState.RUNNING:
            return
        if status.progress and pace.note(status.progress, now):
            self._held_up.pop(rank, None)  # it was, each time one looked, and went on in between
        since = pace.stalled_since(now)
        kind = None if since is None else StallKind.NO_STEP
        held_up = self._held_up.get(rank)
        if held_up is not None and now - held_up[1] > _HELD_UP_SECONDS:
            kind, since = held_up
        if kind is not status.stalled:
            self._update(rank, stalled=kind, stalled_since=None if since is None else time - (now - since))

    def _on_deadline(self, now: float) -> List[Action]:
        if self.phase == "prepared":
            return self.undo()
        if self.phase == "started":
            return self.stop(StopReason(StopKind.LAUNCH_LAPSED), now)
        return self.kill()

    def _break_gang(self, rank: int, now: float) -> List[Action]:
        if self.failed_first is None:
            self.failed_first = rank
        return self.stop(StopReason(StopKind.WORKER_FAILED, self._manifest.host, rank), now)

    def _signal_all(self, number: int) -> List[Action]:
        return [Signal(rank, number) for rank in self.workers if self.is_running(rank)]

    def _finish(self, time: float) -> None:
        for rank, status in self.workers.items():
            if not status.state.is_terminal:
                end = End(EndKind.STOPPED, time, reason=self.stop_reason)
                self._update(rank, state=RankState.STOPPED, end=end)
        self.phase = "undone" if self.phase == "undoing" else "over"

    def _end_of(self, ended: Exit) -> Tuple[End, RankState]:
        step = self.workers[ended.rank].progress.get("step")
        end = End(
            EndKind.EXITED if ended.code >= 0 else EndKind.SIGNALLED,
            ended.time,
            exit_code=ended.code if ended.code >= 0 else None,
            signal=-ended.code if ended.code < 0 else None,
            step=step if isinstance(step, int) else None,
            tail=ended.tail if ended.code else (),
            evidence=ended.evidence if ended.code else (),
        )
        if ended.rank in self._signalled:
            reason = self._signalled[ended.rank]
            return replace(end, kind=EndKind.STOPPED, reason=reason), RankState.STOPPED
        if -ended.code in _CRASHES and ended.was_done:
            end = replace(end, kind=EndKind.CRASHED_WHEN_DONE, tail=(), evidence=())
            return end, RankState.SUCCEEDED
        return end, RankState.FAILED if ended.code else RankState.SUCCEEDED

    def _update(self, rank: int, **changes: object) -> None:
        self.workers[rank] = replace(self.workers[rank], **changes)  # type: ignore[arg-type]


def _status_of(spec: WorkerSpec) -> RankStatus:
    return RankStatus(spec.rank, spec.local_rank, spec.device_id)
