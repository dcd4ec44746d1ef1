"""The watch over a started run: what every host says, folded into one record, and the gang rule.

The first rank that fails ends all ranks on all hosts. A host that does not answer is unreachable; whether it
is lost is judged in `host_loss`. Hosts tell of what is new by themselves (`hosts.host_feed`), and a run is
judged when something has changed or a time has come: nothing is done again and again for every host.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from orchestrator.config.run_terms import Health, Timeouts
from orchestrator.config.tasks import TRAINING
from orchestrator.control.cause import cause_of, cause_of_hang, first_failure, refined, victims_of
from orchestrator.control.health_watch import HealthWatch
from orchestrator.control.host_loss import AwakeClock
from orchestrator.control.host_views import HostViews
from orchestrator.control.run_record import Cause, HostView, RunRecord, with_spent
from orchestrator.control.step_times import StepTimes
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import OrchestrateError, RunFailed
from orchestrator.core.states import RankState
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.host_feed import HostFeed
from orchestrator.hosts.link_jobs import PATIENCE
from orchestrator.hosts.scheduling import SYSTEM, Scheduling

__all__ = ["Watch", "look_once"]

log = logging.getLogger(__name__)
# While hosts pour in what they have to say, the run is judged so often; at once where it may end, or fail.
_JUDGED_EVERY, _STEPS_EVERY = 0.2, 1.0  # the latter where they only make steps, and nobody looks
_SILENT_EVERY = 2.0  # while hosts do not answer: whether ranks elsewhere make steps
_LONGEST_WAIT = 5.0
_TOLD_AGAIN = 5.0
_HANDED_BACK_WITHIN = 2.0


class Watch:
    """Hears the hosts of one run; `step` waits for something to happen and returns the record as it is then.

    `placed` are the ranks of each host, where that is known: a host that tells of others is not believed.
    `stop`, `wake` and `set_viewers` may be called from any thread, all else from one. `once`: the hosts are
    asked for their status once, and nobody is told to stop. `health` are the rules for what is said of ranks,
    `stages` their pipeline stages; `stacks_file` keeps the stacks of a hang. `ends_hangs`: a run that hangs
    is ended, once that is proven (`hang_proof`). Every `renew_every` seconds the hosts are told that they are
    watched; None: their supervisors have no lease.
    """

    def __init__(
        self,
        record: RunRecord,
        fleet: Fleet,
        timeouts: Timeouts,
        *,
        placed: Mapping[str, frozenset[int]] | None = None,
        scheduling: Scheduling = SYSTEM,
        once: bool = False,
        health: Health | None = None,
        stages: Mapping[int, int] | None = None,
        stacks_file: Path | None = None,
        renew_every: float | None = None,
        ends_hangs: bool = False,
    ) -> None:
        self.record = record
        self._fleet, self._renew_every = fleet, renew_every
        self._renewed = -math.inf
        self._timeouts, self._scheduling, self._once = timeouts, scheduling, once
        self._signal = scheduling.signal()
        self._host_count = len(fleet.hosts)
        self._feed = HostFeed(
            fleet,
            fleet.hosts,
            record.run_id,
            self._signal,
            world_size=record.world_size,
            placed=placed or {},
            unreachable=timeouts.unreachable,
            scheduling=scheduling,
            once=once,
        )
        views = {name: record.hosts.get(name, HostView()) for name in (*record.hosts, *fleet.hosts)}
        self._health = HealthWatch(
            Health(enabled=False) if once else health or Health(),
            self._feed,
            scheduling,
            task=record.task,
            stages=stages,
            stacks_file=stacks_file,
            ends_hangs=ends_hangs,
        )
        times = StepTimes(record.world_size, record.attempts[-1].spent)
        self._views = HostViews(views, fleet.hosts, self._feed, scheduling, self._health, times)
        self._hosts, self._tally = self._views.views, self._views.tally
        self._awake = AwakeClock(scheduling.monotonic, scheduling.time)
        self._stop_reason: StopReason | None = None
        self._told: dict[str, float] = {}
        self._told_at = self._judged = -math.inf
        self._kept = (0, 0)
        self._done_since: float | None = None
        self._viewers = self._shown_to = 0
        self._is_woken = self._must_tell = self._must_hurry = self._was_notable = False
        if record.state.is_terminal:
            self.stop(_reason_for_leftovers(record))

    # From any thread.

    def stop(self, reason: StopReason) -> None:
        """Have every host that is not over stop its workers, again and again until it is."""
        before = self._stop_reason
        self._must_hurry = self._must_hurry or (reason.now and before is not None)
        self._stop_reason = (
            reason if before is None else dataclasses.replace(before, now=before.now or reason.now)
        )
        self._must_tell = True
        self._signal.set()

    def wake(self) -> None:
        """Let `step` return at once."""
        self._is_woken = True
        self._signal.set()

    def set_viewers(self, count: int) -> None:
        """So many look at the run: while there are any, hosts tell of their steps more often."""
        self._viewers = count
        self._signal.set()

    @property
    def refusals(self) -> Mapping[str, OrchestrateError]:
        """Why hosts do not take a stop from this control node."""
        return self._feed.refusals

    # From one.

    def step(self, patience: float = 1.0) -> RunRecord:
        """Wait at most `patience` seconds for something to happen, take all that has, and judge."""
        self._take()
        self._wait(patience)
        now = self._scheduling.monotonic()
        try:
            if self._views.is_changed or now >= min(self._next_time(), self._judged + _LONGEST_WAIT):
                self.record = self._judge()
        finally:
            self._tell_complete_step()
            self._renew()
            self._tell_hosts()  # a stop that was asked for reaches the hosts whatever judging has come to
        self._views.measure_failed()  # only now: an order goes before a question
        return self.record

    def hear_all(self, patience: float) -> RunRecord:
        """Wait until every host has said something or could not be reached, and judge."""
        deadline = self._scheduling.monotonic() + patience
        while self._views.unheard and (left := deadline - self._scheduling.monotonic()) > 0:
            self._take()
            if self._views.unheard:
                self._signal.wait(min(left, _LONGEST_WAIT))
            self._signal.clear()
            self._take()
        self.record = self._judge()
        return self.record

    def close(self) -> None:
        self._feed.close()

    def hand_back(self) -> None:
        """Close, and leave the sessions to who goes on with the hosts."""
        late = self._feed.hand_back(_HANDED_BACK_WITHIN)
        self.close()
        for name in late:
            self._fleet.end_session(name)

    # Waiting and taking.

    def _wait(self, patience: float) -> None:
        """Until something has happened that is worth a judgement, or a time has come."""
        now = self._scheduling.monotonic()
        until = min(now + min(patience, _LONGEST_WAIT), self._next_time())
        while not self._is_urgent() and not self._is_woken:
            if self._views.is_changed:
                is_calm = self._views.is_calm and not self._viewers
                until = min(until, self._judged + (_STEPS_EVERY if is_calm else _JUDGED_EVERY))
            then = min(until, self._feed.due())
            was_set = self._signal.wait(max(0.0, then - self._scheduling.monotonic()))
            self._signal.clear()
            self._take()
            now = self._scheduling.monotonic()
            if now >= until or (not was_set and now < then):
                break
        self._is_woken = False

    def _is_urgent(self) -> bool:
        """Whether hosts are to be told to stop, or the run may have failed or ended and nobody knows yet."""
        if self._must_tell and self._stop_reason is not None and self._tally.running:
            return True
        if not self._views.is_relevant or self.record.state.is_terminal:
            return False
        may_have_failed = bool(self._tally.notable) and not self._was_notable
        return may_have_failed or self._tally.finished == self._host_count

    def _take(self) -> None:
        if self._awake.has_slept():
            self._start_anew()
        if self._viewers != self._shown_to:
            self._shown_to = self._viewers
            self._feed.set_viewers(self._viewers)
        self._views.take()
        if self._stop_reason is not None and self._views.is_relevant:
            running = self._tally.running
            self._told = {name: when for name, when in self._told.items() if name in running}
            self._must_tell = self._must_tell or len(self._told) < len(running)

    def _start_anew(self) -> None:
        """The monitor slept: what did not happen meanwhile has no meaning. Every host is asked again now."""
        log.info("the monitor slept: every timer starts anew")
        self._done_since = None
        self._views.start_anew()

    # Judging.

    def _next_time(self) -> float:
        """When something is to be judged though no host has said anything."""
        times = [self._views.since + self._timeouts.start] if self._may_be_overdue() else []
        if self._done_since is not None and self._stop_reason is None:
            times.append(self._done_since + self._timeouts.grace + 0.1)
        if self._stop_reason is not None and self._tally.running:
            times.append(self._told_at + _TOLD_AGAIN)
        if self._views.any_silent:
            times.append(self._judged + _SILENT_EVERY)
        if self._goes_on:
            times.append(self._health.due())
        if self._renew_every is not None and self._tally.running:
            times.append(self._renewed + self._renew_every)
        return min(times, default=math.inf)

    @property
    def _goes_on(self) -> bool:
        """Whether steps are to be expected: nobody ends the run."""
        return not self.record.state.is_terminal and self._stop_reason is None

    def _may_be_overdue(self) -> bool:
        is_training = self.record.task in TRAINING and not self.record.state.is_terminal
        return is_training and self.record.cause is None and self._tally.without_step > 0

    def _judge(self) -> RunRecord:
        self._note_losses()
        hosts = dict(self._hosts) if self._views.is_changed else self.record.hosts
        self._judged = self._scheduling.monotonic()
        self._views.note_judged()
        self._was_notable = bool(self._tally.notable)
        record, tally = self.record, self._tally
        if not record.state.is_terminal:
            cause = self._cause(record.cause)
            self._end_what_outlives_the_ranks()
            self._stop_all_or_none()
            state = tally.state(self._host_count, failed=cause is not None)
            record = dataclasses.replace(record, cause=cause, state=state, phase=str(state))
            if self._goes_on and not state.is_terminal:
                record = self._ended_hang(self._health.judged(record))
        now = self._scheduling.time()
        hosts = dict(self._hosts) if self._views.is_changed else hosts
        record = dataclasses.replace(record, hosts=hosts, updated=now)
        record = with_spent(record, self._views.times.spent)
        if not record.state.is_terminal or self.record.state.is_terminal:
            return record
        victims = victims_of(record.hosts, record.cause)
        return dataclasses.replace(record, ended=now, victims=victims, exit_code=_EXIT[record.state.value])

    def _cause(self, before: Cause | None) -> Cause | None:
        """Of all hosts only where one of them tells of a failure; for it all are stopped."""
        now = self._scheduling.time()
        found = (cause_of(self._hosts, now) if self._tally.notable else None) or self._overdue()
        cause = refined(before, found)
        if cause is not None and self._stop_reason is None:
            trigger = first_failure(self._hosts, now) or cause
            end = dataclasses.replace(trigger.end, tail=(), evidence=())
            self.stop(StopReason(StopKind.WORKER_FAILED, trigger.host, trigger.rank, end))
            self._note_losses()  # whose loss ends nobody's run any more
        return cause

    def _ended_hang(self, record: RunRecord) -> RunRecord:
        """The record; where a hang is proven it is the cause, and all are stopped for it."""
        if (hang := self._health.proven_hang) is None:
            return record
        cause = cause_of_hang(hang, self._scheduling.time())
        self.stop(StopReason(StopKind.WORKER_FAILED, cause.host, cause.rank, cause.end))
        return dataclasses.replace(record, cause=cause)

    def _note_losses(self) -> None:
        failed, stops = self.record.cause is not None, self._stop_reason is not None
        self._views.note_losses(self.record.task, self._timeouts, ending=failed or stops, failed=failed)

    def _end_what_outlives_the_ranks(self) -> None:
        """A scheduler that still waits a grace period after the last rank is done waits for nobody."""
        states, now = self._tally.states, self._scheduling.monotonic()
        if self._tally.ranks < self.record.world_size or states[RankState.SUCCEEDED] < self._tally.ranks:
            return
        if self._done_since is None:
            self._done_since = now
        elif now > self._done_since + self._timeouts.grace:
            self.stop(StopReason(StopKind.RANKS_DONE))

    def _stop_all_or_none(self) -> None:
        """A gang of which a part was stopped, by whomever, is not left running in part."""
        for name in self._tally.stopped_apart:
            status = self._hosts[name].status
            if status is not None and status.stop is not None and self._stop_reason is None:
                self.stop(dataclasses.replace(status.stop, host=status.stop.host or name))

    def _overdue(self) -> Cause | None:
        """Ranks of a bundled task that have made no step when the start deadline is over.

        Only of hosts that answer: nobody knows what the others have done.
        """
        is_late = self._scheduling.monotonic() >= self._views.since + self._timeouts.start
        if not is_late or not self._may_be_overdue():
            return None
        silent = [
            (name, rank)
            for name, view in self._hosts.items()
            for rank in view.ranks()
            if not view.error and not rank.progress and not rank.state.is_terminal
        ]
        now = self._scheduling.time()
        end = End(
            EndKind.NO_FIRST_STEP,
            now,
            missing=tuple(sorted(rank.rank for _, rank in silent)),
            expected=self._tally.ranks,
            seconds=self._timeouts.start,
        )
        host, first = min(silent, key=lambda each: each[1].rank)
        return Cause(host, first.rank, end, now)

    # Telling.

    def _tell_complete_step(self) -> None:
        """Once every rank has saved a step, hosts may remove what is older, and must keep it."""
        step = self._tally.saved_step(self._host_count)
        number = self.record.attempts[-1].number
        if (
            step is None
            or self._once
            or (number, step) <= self._kept
            or self._tally.ranks < self.record.world_size
        ):
            return
        self._kept = (number, step)
        for name in self._tally.running:
            self._feed.keep(name, number, step)

    def _renew(self) -> None:
        """Let the hosts know that the run is watched: their supervisors' leases begin anew."""
        now = self._scheduling.monotonic()
        if self._renew_every is not None and now >= self._renewed + self._renew_every and not self._once:
            self._renewed = now
            for name in self._tally.running:
                self._feed.renew(name)

    def _tell_hosts(self) -> None:
        """Have the hosts whose workers run stop them; again those that still do after a while."""
        if self._must_hurry and self._stop_reason is not None and not self._once:
            self._must_hurry = False
            for name, view in self._hosts.items():
                if view.status is not None and view.status.phase == "stopping" and not view.error:
                    self._feed.stop(name, self._stop_reason)
        reason, now = self._stop_reason, self._scheduling.monotonic()
        is_time = self._must_tell or now >= self._told_at + _TOLD_AGAIN
        if reason is None or self._once or not is_time or not self._tally.running:
            return
        self._must_tell, self._told_at = False, now
        for name in self._tally.running:
            if now >= self._told.get(name, -math.inf) + _TOLD_AGAIN:
                self._told[name] = now
                self._feed.stop(name, reason)


def _reason_for_leftovers(record: RunRecord) -> StopReason:
    """What a host hears that was lost when its run ended, and is back."""
    if record.cause is None or record.cause.rank is None:
        return StopReason.requested(f"the run has {record.state}")
    end = dataclasses.replace(record.cause.end, tail=(), evidence=())
    return StopReason(StopKind.WORKER_FAILED, record.cause.host, record.cause.rank, end)


def look_once(
    record: RunRecord, fleet: Fleet, timeouts: Timeouts, *, scheduling: Scheduling = SYSTEM
) -> RunRecord:
    """One round without a monitor: what the hosts say now. It judges, but stops nobody."""
    watch = Watch(record, fleet, timeouts, scheduling=scheduling, once=True)
    try:
        return watch.hear_all(timeouts.connect + PATIENCE)
    finally:
        watch.close()


_EXIT: Mapping[str, int] = {"succeeded": 0, "failed": RunFailed.exit_code, "stopped": 5}
