"""The watch over a started run: what every host says, folded into one record, and the gang rule.

The first rank that fails ends all ranks on all hosts. A host that does not answer is unreachable; whether it
is lost is judged in `host_loss`. Polling it never holds up the others.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from orchestrator.config.job import Timeouts
from orchestrator.config.worker_config import TRAINING
from orchestrator.control.cause import cause_of, first_failure, fold_run, refined, victims_of
from orchestrator.control.host_loss import AwakeClock, Silence, StepPace, Surroundings, verdict
from orchestrator.control.run_record import Cause, HostView, RunRecord, Waits
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import AgentError, AnswerError, OrchestrateError, RunFailed, TransportError
from orchestrator.core.records import HostStatus
from orchestrator.core.states import RankState
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.scheduling import SYSTEM, Scheduling

__all__ = ["Watch", "look_once"]

log = logging.getLogger(__name__)
_POLL_TIMEOUT = 10.0
_MAX_BACKOFF = 15.0


class Watch:
    """Polls the hosts of one run; `step` is one round and returns the record as it is then.

    `clock` tells times that are shown, `steady` those that are waited for. `placed` are the ranks of each
    host, where that is known: a host that tells of others is not believed.
    """

    def __init__(
        self,
        record: RunRecord,
        fleet: Fleet,
        timeouts: Timeouts,
        *,
        placed: Mapping[str, frozenset[int]] | None = None,
        clock: Callable[[], float] | None = None,
        steady: Callable[[], float] | None = None,
        scheduling: Scheduling = SYSTEM,
    ) -> None:
        clock, steady = clock or scheduling.time, steady or scheduling.monotonic
        self.record = record
        self._fleet = fleet
        self._timeouts = timeouts
        self._placed = placed or {}
        self._clock, self._steady = clock, steady
        self._awake = AwakeClock(steady, clock)
        self._pace = StepPace(steady())
        self._since = steady()  # the start of the watch, or when the monitor last woke
        self._pool = scheduling.pool(max(1, len(fleet.hosts)))
        self._answered = scheduling.signal()
        self._polls: dict[str, tuple[Future[Any], float]] = {}
        self._due: dict[str, float] = dict.fromkeys(fleet.hosts, 0.0)
        self._backoff: dict[str, float] = dict.fromkeys(fleet.hosts, 1.0)
        self._silences: dict[str, Silence] = {}
        self._stop_reason: StopReason | None = None
        self._done_since: float | None = None
        if record.state.is_terminal:
            self.stop(_reason_for_leftovers(record))

    def step(self, patience: float = 1.0) -> RunRecord:
        """Ask every host that is due, wait at most `patience` seconds for answers, and judge."""
        if self._awake.has_slept():
            self._start_anew()
        now = self._steady()
        for name, due in self._due.items():
            view = self.record.hosts.get(name)
            if name not in self._polls and due <= now and not (view is not None and view.is_over):
                poll: Future[Any] = Future()
                self._pool.submit(self._ask, poll, name, self._stop_reason)
                self._polls[name] = (poll, now)
        deadline = now + patience
        while not all(poll.done() for poll, _ in self._polls.values()) and self._steady() < deadline:
            self._answered.clear()
            if not all(poll.done() for poll, _ in self._polls.values()):
                self._answered.wait(max(0.0, deadline - self._steady()))
        hosts = dict(self.record.hosts)
        for name in [name for name, (poll, _) in self._polls.items() if poll.done()]:
            hosts[name] = self._take(name, hosts.get(name, HostView()), *self._polls.pop(name))
        self.record = self._judge(dataclasses.replace(self.record, hosts=hosts, updated=self._clock()))
        return self.record

    def stop(self, reason: StopReason) -> None:
        """Have every host that is not over stop its workers, again at every poll until it is."""
        self._stop_reason = self._stop_reason or reason

    def wake(self) -> None:
        """Have `step` look at once; it does not wait for long in any case."""

    def set_viewers(self, count: int) -> None:
        """So many people look on; every host is asked as often as it answers in any case."""

    def close(self) -> None:
        self._pool.close()

    def _start_anew(self) -> None:
        """The monitor slept: what did not happen meanwhile has no meaning. Every host is asked again now."""
        log.info("the monitor slept: every timer starts anew")
        self._since = self._steady()
        self._pace.start_anew(self._since)
        self._silences.clear()
        self._done_since = None
        self._due = dict.fromkeys(self._due, 0.0)

    def _ask(self, poll: Future[Any], name: str, reason: StopReason | None) -> None:
        try:
            poll.set_result(self._poll(name, reason))
        except Exception as error:
            poll.set_exception(error)
        self._answered.set()

    def _poll(self, name: str, reason: StopReason | None) -> tuple[HostStatus, ClockOffset | None]:
        agent = self._fleet.agent(name)
        run_id, world_size = self.record.run_id, self.record.world_size
        try:
            before = self._clock()
            status = agent.status(run_id, world_size=world_size, timeout=_POLL_TIMEOUT)
            after = self._clock()
            if name in self._placed and {rank.rank for rank in status.ranks} != self._placed[name]:
                raise AnswerError("told of other ranks than its own", where=name)
            if reason is not None and status.phase in ("started", "committed"):
                agent.stop(run_id, reason, timeout=_POLL_TIMEOUT)
        except TransportError:
            self._fleet.drop(name)
            raise
        return status, None if status.clock is None else ClockOffset.of(before, status.clock, after)

    def _take(self, name: str, view: HostView, poll: Future[Any], begun: float) -> HostView:
        error = poll.exception()
        if error is None:
            self._backoff[name] = 1.0
            self._due[name] = 0.0
            self._silences.pop(name, None)
            status, clock = poll.result()
            if clock is not None and view.clock is not None:
                clock = view.clock.or_newer(clock)
            return HostView(status=status, last_contact=self._clock(), clock=clock or view.clock)
        now = self._steady()
        ours = not isinstance(error, OrchestrateError)
        if not isinstance(error, OrchestrateError):
            # A bug of ours that this host has found. It must not end the watch over the others.
            log.error("%s cannot be watched", name, exc_info=error)
            error = TransportError(f"internal error: {error!r}", where=name)
        self._backoff[name] = min(_MAX_BACKOFF, self._backoff[name] * 2)
        self._due[name] = now + self._backoff[name]
        if isinstance(error, AgentError) and error.kind == "no_run":
            self._silences.pop(name, None)
            gone = f"{name}: nothing of this run is there (a launch that broke off, or a removed directory)"
            return dataclasses.replace(view, error=gone, lost=True, waits=Waits.NO_RUN, limit=None)
        before = self._silences.get(name)
        # An attempt that began before the monitor slept says nothing of the time since.
        since = before.since if before is not None else max(begun, self._since)
        self._silences[name] = Silence.of(error, since, now, ours=ours)
        return dataclasses.replace(view, error=str(error))

    def _judge(self, record: RunRecord) -> RunRecord:
        self._pace.note(record.hosts.values(), self._steady())
        record = self._with_losses(record)
        if record.state.is_terminal:
            return record
        found = cause_of(record.hosts, self._clock()) or self._overdue(record)
        cause = refined(record.cause, found)
        if cause is not None:
            trigger = first_failure(record.hosts, self._clock()) or cause
            end = dataclasses.replace(trigger.end, tail=(), evidence=())
            self.stop(StopReason(StopKind.WORKER_FAILED, trigger.host, trigger.rank, end))
            record = self._with_losses(record)  # whose loss ends nobody's run any more
        self._end_what_outlives_the_ranks(record)
        self._stop_all_or_none(record)
        state = fold_run(record.hosts, len(self._fleet.hosts), failed=cause is not None)
        record = dataclasses.replace(record, cause=cause, state=state, phase=str(state))
        if not state.is_terminal:
            return record
        return dataclasses.replace(
            record, ended=self._clock(), victims=victims_of(record.hosts, cause), exit_code=_EXIT[state.value]
        )

    def _with_losses(self, record: RunRecord) -> RunRecord:
        """Which of the hosts that do not answer are lost; who was stays so until it answers."""
        hosts = dict(record.hosts)
        asked = [view for view in hosts.values() if not view.is_over]
        around = Surroundings(
            hosts=len(asked),
            answering=sum(not view.error and view.status is not None for view in asked),
            steps=self._pace.steps(self._steady(), self._timeouts.unreachable),
            in_step=record.task in TRAINING,
            ending=self._stop_reason is not None or record.cause is not None,
        )
        for name, silence in self._silences.items():
            view = hosts[name]
            found = verdict(silence, around, self._timeouts)
            lost = view.lost or found.lost
            hosts[name] = dataclasses.replace(
                view,
                lost=lost,
                silent=silence.seconds,
                waits=Waits.NOTHING if lost else found.waits,
                limit=found.limit,
            )
        return dataclasses.replace(record, hosts=hosts)

    def _end_what_outlives_the_ranks(self, record: RunRecord) -> None:
        """A scheduler that still waits a grace period after the last rank is done waits for nobody."""
        ranks = record.ranks()
        if len(ranks) < record.world_size or any(rank.state is not RankState.SUCCEEDED for rank in ranks):
            return
        if self._done_since is None:
            self._done_since = self._steady()
        elif self._steady() > self._done_since + self._timeouts.grace:
            self.stop(StopReason(StopKind.RANKS_DONE))

    def _stop_all_or_none(self, record: RunRecord) -> None:
        """A gang of which a part was stopped, by whomever, is not left running in part."""
        for name, view in record.hosts.items():
            reason = view.status.stop if view.status is not None else None
            has_stopped = any(rank.state is RankState.STOPPED for rank in view.ranks())
            if reason and has_stopped and not self._stop_reason:
                self.stop(dataclasses.replace(reason, host=reason.host or name))

    def _overdue(self, record: RunRecord) -> Cause | None:
        """Ranks of a bundled task that have made no step when the start deadline is over.

        Only of hosts that answer: nobody knows what the others have done.
        """
        if record.task not in TRAINING or self._steady() < self._since + self._timeouts.start:
            return None
        silent = [
            (name, rank)
            for name, view in record.hosts.items()
            for rank in view.ranks()
            if not view.error and not rank.progress and not rank.state.is_terminal
        ]
        if not silent:
            return None
        now = self._clock()
        end = End(
            EndKind.NO_FIRST_STEP,
            now,
            missing=tuple(sorted(rank.rank for _, rank in silent)),
            expected=len(record.ranks()),
            seconds=self._timeouts.start,
        )
        host, first = min(silent, key=lambda each: each[1].rank)
        return Cause(host, first.rank, end, now)


def _reason_for_leftovers(record: RunRecord) -> StopReason:
    """What a host hears that was lost when its run ended, and is back."""
    if record.cause is None or record.cause.rank is None:
        return StopReason.requested(f"the run has {record.state}")
    end = dataclasses.replace(record.cause.end, tail=(), evidence=())
    return StopReason(StopKind.WORKER_FAILED, record.cause.host, record.cause.rank, end)


def look_once(record: RunRecord, fleet: Fleet, timeouts: Timeouts) -> RunRecord:
    """One round without a monitor: what the hosts say now. It judges, but stops nobody."""
    watch = Watch(record, fleet, timeouts)
    try:
        return watch.step(patience=timeouts.connect + _POLL_TIMEOUT)
    finally:
        watch.close()


_EXIT: Mapping[str, int] = {"succeeded": 0, "failed": RunFailed.exit_code, "stopped": 5}
