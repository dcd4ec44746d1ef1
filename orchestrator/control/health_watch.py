"""The watch over a run's health: what hosts say goes in, findings come out; at a hang stacks are asked for.

What is judged is pure (`health`, `stragglers`); here are the clocks, the questions to hosts, which nobody
waits for, and the file that keeps the stacks.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.config.run_terms import Health
from orchestrator.config.tasks import MINDFORMERS, TRAINING
from orchestrator.control.hang_proof import HangProof
from orchestrator.control.hang_stacks import StackFold, suspects, told_stacks
from orchestrator.control.health import RunHealth
from orchestrator.control.health_findings import Finding
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.control.step_limits import StepLimits
from orchestrator.control.stragglers import Stragglers
from orchestrator.core.paths import atomic_write
from orchestrator.core.push import Digest, Pushed, Snapshot
from orchestrator.core.records import HostStatus
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.host_feed import HostFeed
from orchestrator.hosts.host_link import Present, Stacks
from orchestrator.hosts.scheduling import Scheduling

__all__ = ["HealthWatch"]

log = logging.getLogger(__name__)

# Stacks that have not come by then are not waited for.
_STACKS_WITHIN = 120.0
# So often stragglers are judged, at most.
_STRAGGLERS_EVERY = 5.0
# A step that was made is told of within so many tellings.
_TELLINGS = 2.5
# Of findings that are no more the last ones are kept, and said for so long.
_MOST_ENDED = 4
# A new pace is written down where it differs by more than this part.
_NEWS = 0.25


class HealthWatch:
    """Of one run of this `task`. `see`, `told`, `stacks` and `start_anew` are given what happens, `judged`
    says what holds.

    `stages` has the pipeline stage of each rank; `stacks_file` is where the stacks of a hang are kept, None:
    nowhere. `ends_hangs`: it is found out whether a hang is one for which the run is to be ended.
    """

    def __init__(
        self,
        rules: Health,
        feed: HostFeed,
        scheduling: Scheduling,
        *,
        task: str = "",
        stages: Mapping[int, int] | None = None,
        stacks_file: Path | None = None,
        ends_hangs: bool = False,
    ) -> None:
        self._rules, self._feed, self._scheduling, self._stacks_file = rules, feed, scheduling, stacks_file
        every = feed.every if rules.enabled else 0.0
        # The phases of MindFormers are read from its log, which does not tell of each that it begins.
        self._limits = StepLimits(rules, every, tells_all=task != MINDFORMERS)
        now = scheduling.monotonic()
        self._health = RunHealth(rules, self._limits, trains=task in TRAINING, now=now)
        self._stragglers = Stragglers(rules, stages or {})
        self._judged_stragglers = -math.inf
        self._slow: tuple[Finding, ...] = ()
        # Hosts whose stacks are waited for, until when, and what has come.
        self._awaited: dict[str, None] = {}
        self._awaited_until = math.inf
        self._stacks = StackFold()
        self._without: list[str] = []
        self._proof = HangProof() if ends_hangs else None

    # What happens.

    def see(self, name: str, view: HostView) -> None:
        """A host's view is another one."""
        if not self._rules.enabled:
            return
        now = self._scheduling.monotonic()
        if view.lost or view.is_over:
            self._health.over(name)
            self._stragglers.forget(name)
        elif view.error:
            self._health.lost_sight(name, now)
            self._stragglers.forget(name)
        elif view.status is not None:
            self._health.stale(name, view.stale_since, now)
            offset = None if view.clock is None else view.clock.seconds
            self._health.heard(name, view.status.ranks, now, offset=offset)

    def see_steps(self, name: str, status: HostStatus, clock: ClockOffset | None) -> None:
        """As `see`, of a host that answers and has told of steps and nothing else."""
        if self._rules.enabled:
            now, offset = self._scheduling.monotonic(), None if clock is None else clock.seconds
            self._health.heard_steps(name, status.ranks, now, offset)

    def told(self, name: str, what: Pushed | Present, view: HostView) -> None:
        """What a host has said, whose view is then this."""
        if isinstance(what, Digest) and what.compute and view.status is not None and not view.error:
            steps = {rank.rank: rank.progress.get("step", 0) for rank in view.status.ranks}
            devices = {rank.rank: rank.device_id for rank in view.status.ranks}
            self._stragglers.heard(name, what.compute, steps, devices)
        if isinstance(what, Snapshot) or (isinstance(what, Present) and what.status is not None):
            self._health.answered(name)

    def stacks(self, name: str, found: Stacks, view: HostView) -> None:
        """Where the ranks of a host are."""
        if self._awaited.pop(name, self) is self:
            return  # nobody waits for it any more
        if found.answer is None:
            log.info("%s tells no stacks: %s", name, found.error)
            self._without.append(name)
        else:
            for rank in view.ranks():  # of no others it may tell
                if (own := found.answer.ranks.get(str(rank.rank))) is not None:
                    self._stacks.add(rank.rank, own)

    def start_anew(self) -> None:
        """The monitor slept."""
        self._health.start_anew(self._scheduling.monotonic())
        self._stragglers.start_anew()
        if self._proof is not None and self._health.hang is not None:
            self._proof.start_anew(self._scheduling.monotonic(), self._half_a_limit)

    # What holds.

    @property
    def is_held_up(self) -> bool:
        """Whether the ranks that can be seen are where no steps are made: none is then no sign."""
        return self._health.is_held_up(self._scheduling.monotonic())

    def due(self) -> float:
        """When there may be something to judge though no host has said anything."""
        if not self._rules.enabled:
            return math.inf
        stragglers = self._judged_stragglers + _STRAGGLERS_EVERY if self._stragglers.is_changed else math.inf
        stacks = (self._awaited_until if self._awaited else -math.inf) if self._without_end else math.inf
        proof = self._proof.due if self._proof is not None and self._health.hang is not None else math.inf
        return min(self._health.due(), stragglers, stacks, proof)

    @property
    def proven_hang(self) -> Finding | None:
        """The hang for which the run is to be ended; None while that is not known."""
        hang = self._health.hang
        if self._proof is None or hang is None or not self._health.ranks:
            return None
        return hang if self._proof.holds(self._scheduling.monotonic()) else None

    @property
    def _half_a_limit(self) -> float:
        hang = self._health.hang
        return ((hang.seconds if hang is not None else None) or self._rules.floor) / 2

    def judged(self, record: RunRecord) -> RunRecord:
        """The record with what is not well now."""
        if not self._rules.enabled:
            return record
        self._limits.every = self._feed.every
        now, moment = self._scheduling.monotonic(), self._scheduling.time()
        had_hang = self._health.hang is not None
        found = self._health.judge(now, moment)
        for name in self._health.to_ask():
            self._feed.confirm(name)
        if self._health.hang is not None and not had_hang:
            if self._proof is not None:
                self._proof.forget()
            self._ask_for_stacks()
            found = self._health.judge(now, moment)
        elif self._wants_proof(now):
            self._ask_for_stacks()
        elif self._without_end and self._mind_stacks(now, moment):
            found = self._health.judge(now, moment)
        if now >= self._judged_stragglers + _STRAGGLERS_EVERY:
            self._judged_stragglers = now
            self._slow = self._stragglers.judge(moment)
        return self._noted(record, (*found, *self._slow), moment)

    def _noted(self, record: RunRecord, found: tuple[Finding, ...], moment: float) -> RunRecord:
        """The record, the same one where nothing is new: what differs is written down."""
        ended = [dataclasses.replace(each, ended=moment) for each in self._health.taken_back()]
        for each in ended:
            log.info("the run went on after %.0f s without a step", moment - each.since)
        for each in found:
            if each not in record.health:
                log.info("not well: %s", each)
        if found != record.health:
            record = dataclasses.replace(record, health=found)
        if ended:
            record = dataclasses.replace(record, recovered=(*record.recovered, *ended)[-_MOST_ENDED:])
        known, interval = record.step_interval, self._limits.interval
        if interval is not None and (known is None or abs(interval - known) > _NEWS * known):
            record = dataclasses.replace(record, step_interval=interval)
        return record

    # The stacks of a hang.

    def _wants_proof(self, now: float) -> bool:
        """Whether stacks are to be taken once more."""
        if self._proof is None or self._without_end:
            return False
        if self._health.hang is None:
            self._proof.forget()
            return False
        return self._proof.wants_stacks(now)

    @property
    def _without_end(self) -> bool:
        """Whether stacks were asked for and have not been looked at."""
        return self._awaited_until < math.inf

    def _ask_for_stacks(self) -> None:
        names = self._health.hosts
        self._stacks, self._without = StackFold(), []
        self._awaited = dict.fromkeys(names)
        self._awaited_until = self._scheduling.monotonic() + _STACKS_WITHIN
        self._feed.ask_stacks(names)

    def _mind_stacks(self, now: float, moment: float) -> bool:
        """Whether the stacks are there, as far as they come, and have been looked at."""
        if self._health.hang is None:
            self._awaited_until = math.inf  # it went on: what comes now is not of the hang
            self._awaited.clear()
            return False
        if self._awaited and now < self._awaited_until:
            return False
        if self._proof is not None:
            settle = _TELLINGS * self._feed.every
            self._proof.looked(self._stacks, self._health.ranks, now, half=self._half_a_limit, settle=settle)
        silent = [*self._without, *self._awaited]
        self._awaited_until = math.inf
        self._awaited.clear()
        groups = self._stacks.groups()
        odd = suspects(groups)
        named = odd or self._health.hang.ranks
        # Where those are that are named; of who could tell no stack the kernel's words are no place.
        told = (
            group
            for group in groups
            if group.how != "kernel" and set(group.ranks) <= set(named or group.ranks)
        )
        self._health.suspect(odd, next((group.where for group in told), ""))
        if groups and self._stacks_file is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
            try:
                atomic_write(self._stacks_file, told_stacks(groups, silent, when))
            except OSError as error:
                log.warning("the stacks cannot be kept: %s", error)
        return True
