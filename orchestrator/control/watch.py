"""The watch over a started run: what every host says, folded into one record, and the gang rule.

The first rank that fails ends all ranks on all hosts, and is named as the cause. A host that does not
answer is unreachable, then lost when the grace period is over; polling it never holds up the others.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from orchestrator.config.job import Timeouts
from orchestrator.config.worker_config import TRAINING
from orchestrator.control.cause import cause_of, fold_run, victims_of
from orchestrator.control.run_record import Cause, HostView, RunRecord
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import AgentError, OrchestrateError, RunFailed, TransportError
from orchestrator.core.records import HostStatus
from orchestrator.core.states import RankState
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.fleet import Fleet

__all__ = ["Watch", "look_once"]

log = logging.getLogger(__name__)
_POLL_TIMEOUT = 10.0
_MAX_BACKOFF = 15.0


class Watch:
    """Polls the hosts of one run; `step` is one round and returns the record as it is then."""

    def __init__(
        self,
        record: RunRecord,
        fleet: Fleet,
        timeouts: Timeouts,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.record = record
        self._fleet = fleet
        self._timeouts = timeouts
        self._clock = clock
        self._started = clock()
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(fleet.hosts)))
        self._polls: dict[str, Future[Any]] = {}
        self._due: dict[str, float] = dict.fromkeys(fleet.hosts, 0.0)
        self._backoff: dict[str, float] = dict.fromkeys(fleet.hosts, 1.0)
        self._stop_reason: StopReason | None = None
        self._done_since: float | None = None

    def step(self, patience: float = 1.0) -> RunRecord:
        """Ask every host that is due, wait at most `patience` seconds for answers, and judge."""
        now = self._clock()
        for name, due in self._due.items():
            view = self.record.hosts.get(name)
            over = view is not None and view.status is not None and view.status.is_over
            if name not in self._polls and due <= now and not over:
                self._polls[name] = self._pool.submit(self._poll, name, self._stop_reason)
        wait(self._polls.values(), timeout=patience)
        hosts = dict(self.record.hosts)
        for name in [name for name, poll in self._polls.items() if poll.done()]:
            hosts[name] = self._take(name, hosts.get(name, HostView()), self._polls.pop(name))
        self.record = self._judge(dataclasses.replace(self.record, hosts=hosts, updated=self._clock()))
        return self.record

    def stop(self, reason: StopReason) -> None:
        """Have every host that is not over stop its workers, again at every poll until it is."""
        self._stop_reason = self._stop_reason or reason

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _poll(self, name: str, reason: StopReason | None) -> tuple[HostStatus, ClockOffset | None]:
        agent = self._fleet.agent(name)
        run_id, world_size = self.record.run_id, self.record.world_size
        try:
            before = self._clock()
            status = agent.status(run_id, world_size=world_size, timeout=_POLL_TIMEOUT)
            after = self._clock()
            if reason is not None and status.phase in ("started", "committed"):
                agent.stop(run_id, reason, timeout=_POLL_TIMEOUT)
        except TransportError:
            self._fleet.drop(name)
            raise
        return status, None if status.clock is None else ClockOffset.of(before, status.clock, after)

    def _take(self, name: str, view: HostView, poll: Future[Any]) -> HostView:
        now = self._clock()
        error = poll.exception()
        if error is None:
            self._backoff[name] = 1.0
            self._due[name] = 0.0
            status, clock = poll.result()
            if clock is not None and view.clock is not None:
                clock = view.clock.or_newer(clock)
            return HostView(status=status, last_contact=now, clock=clock or view.clock)
        if not isinstance(error, OrchestrateError):
            # A bug of ours that this host has found. It must not end the watch over the others.
            log.error("%s cannot be watched", name, exc_info=error)
            error = TransportError(f"internal error: {error!r}", where=name)
        self._backoff[name] = min(_MAX_BACKOFF, self._backoff[name] * 2)
        self._due[name] = now + self._backoff[name]
        if isinstance(error, AgentError) and error.kind == "no_run":
            gone = f"{name}: nothing of this run is there (a launch that broke off, or a removed directory)"
            return dataclasses.replace(view, error=gone, lost=True)
        silent_for = now - (view.last_contact or self._started)
        lost = silent_for > self._timeouts.unreachable or not isinstance(error, TransportError)
        return dataclasses.replace(view, error=str(error), lost=lost)

    def _judge(self, record: RunRecord) -> RunRecord:
        cause = record.cause or cause_of(record.hosts, self._clock()) or self._overdue(record)
        if cause is not None:
            end = dataclasses.replace(cause.end, tail=())
            self.stop(StopReason(StopKind.WORKER_FAILED, cause.host, cause.rank, end))
        self._end_what_outlives_the_ranks(record)
        self._stop_all_or_none(record)
        state = fold_run(record.hosts, len(self._fleet.hosts), failed=cause is not None)
        record = dataclasses.replace(record, cause=cause, state=state, phase=str(state))
        if not state.is_terminal:
            return record
        return dataclasses.replace(
            record, ended=self._clock(), victims=victims_of(record.hosts, cause), exit_code=_EXIT[state.value]
        )

    def _end_what_outlives_the_ranks(self, record: RunRecord) -> None:
        """A scheduler that still waits a grace period after the last rank is done waits for nobody."""
        ranks = record.ranks()
        if len(ranks) < record.world_size or any(rank.state is not RankState.SUCCEEDED for rank in ranks):
            return
        if self._done_since is None:
            self._done_since = self._clock()
        elif self._clock() > self._done_since + self._timeouts.grace:
            self.stop(StopReason(StopKind.RANKS_DONE))

    def _stop_all_or_none(self, record: RunRecord) -> None:
        """A gang of which a part was stopped, by whomever, is not left running in part."""
        for name, view in record.hosts.items():
            reason = view.status.stop if view.status is not None else None
            has_stopped = any(rank.state is RankState.STOPPED for rank in view.ranks())
            if reason and has_stopped and not self._stop_reason:
                self.stop(dataclasses.replace(reason, host=reason.host or name))

    def _overdue(self, record: RunRecord) -> Cause | None:
        """Ranks of a bundled task that have made no step when the start deadline is over."""
        if record.task not in TRAINING or self._clock() < record.created + self._timeouts.start:
            return None
        ranks = record.ranks()
        silent = [rank for rank in ranks if not rank.progress and not rank.state.is_terminal]
        if not silent:
            return None
        host = next(name for name, view in record.hosts.items() if silent[0] in view.ranks())
        now = self._clock()
        end = End(
            EndKind.NO_FIRST_STEP,
            now,
            missing=tuple(rank.rank for rank in silent),
            expected=len(ranks),
            seconds=self._timeouts.start,
        )
        return Cause(host, silent[0].rank, end, now)


def look_once(record: RunRecord, fleet: Fleet, timeouts: Timeouts) -> RunRecord:
    """One round without a monitor: what the hosts say now. It judges, but stops nobody."""
    watch = Watch(record, fleet, timeouts)
    try:
        return watch.step(patience=timeouts.connect + _POLL_TIMEOUT)
    finally:
        watch.close()


_EXIT: Mapping[str, int] = {"succeeded": 0, "failed": RunFailed.exit_code, "stopped": 5}
