"""The feed of a run's hosts: all that they say, from sessions that are kept open, in one queue.

Each host is a link. A link that is closed is opened in a pool, again and again, ever more seldom; one that is
open asks to be told (`watch`) and costs nothing until it is. What has come is parsed by who takes it, and
requests are written in a pool without waiting for their answers: a host that hangs holds up nobody, and there
are no threads of ours but those of the pools.

A host that is silent for longer than its beats allow is asked, and only when that fails it does not answer.
An agent of an earlier version, which knows no `watch`, is asked for its status every now and then.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AnswerError, OrchestrateError
from orchestrator.core.push import Mark, Pushed, Snapshot
from orchestrator.core.records import HostStatus
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.host_link import (
    Ask,
    Failed,
    Link,
    Opened,
    Present,
    Said,
    beat_seconds,
    digest_seconds,
)
from orchestrator.hosts.link_jobs import PATIENCE, Agents, LinkJobs, StacksAsker
from orchestrator.hosts.push_client import Reply
from orchestrator.hosts.scheduling import SYSTEM, Scheduling, Signal
from orchestrator.hosts.told_links import ToldLinks

__all__ = ["HostFeed"]

log = logging.getLogger(__name__)
_MAX_BACKOFF = 15.0
_JITTER = 0.2
# So long a session has to live before the next one is opened at once when it breaks.
_SETTLED = 10.0
_MARGIN = 5.0
_AGAIN = 0.5  # between two requests of the same kind to one host
_CLOCK_AGE = 1800.0  # what matters is measured when it does: where ranks fail, or a clock jumps
_OPENERS, _DOUBTFUL, _WRITERS = 64, 32, 8
_HANDED_BACK = 0.2  # so often it is looked whether all answers have come


class HostFeed:
    """The hosts `names` of a run. One thread calls `take` and what changes a link; `signal` is set for it.

    `once`: every host is asked for its status once, and nothing else.
    """

    def __init__(
        self,
        fleet: Agents,
        names: Iterable[str],
        run_id: str,
        signal: Signal,
        *,
        world_size: int,
        placed: Mapping[str, frozenset[int]],
        unreachable: float,
        scheduling: Scheduling = SYSTEM,
        once: bool = False,
    ) -> None:
        self._signal, self._scheduling, self._once = signal, scheduling, once
        beat = beat_seconds(unreachable)
        self._jobs = LinkJobs(fleet, run_id, world_size, placed, beat, once, scheduling)
        self._quiet = 2 * beat + min(_MARGIN, beat)
        now = scheduling.monotonic()
        self._links = {name: Link(name, heard=now, due=now) for name in names}
        self._hosts = len(self._links)
        self.refusals: dict[str, OrchestrateError] = {}  # of stops that hosts do not take from us
        self.every = digest_seconds(self._hosts)  # how often hosts tell of their steps, in seconds
        self._random = random.Random(run_id)  # so that hosts do not come all at once
        self._told = ToldLinks(signal, scheduling.monotonic)
        self._done: deque[tuple[Link, Opened | Failed | None]] = deque()
        self._timers: list[tuple[float, int, Link]] = []
        self._numbers = itertools.count()
        # Who has failed before waits among its like: hosts that never answer hold up no other.
        count = max(1, self._hosts)
        self._openers = scheduling.pool(min(_OPENERS, count))
        self._doubtful = scheduling.pool(min(_DOUBTFUL, count))
        self._writers = scheduling.pool(min(_WRITERS, count))
        self._stacks = StacksAsker(self._jobs, signal, scheduling, count)
        for link in self._links.values():
            self._set_timer(link)

    def stop(self, name: str, reason: StopReason) -> None:
        """Have this host end its workers, if it can be asked."""
        self._want(name, Ask.STOP, reason)

    def keep(self, name: str, attempt: int, step: int) -> None:
        """Have this host keep the newest step that is complete over all hosts, and what is newer."""
        self._links[name].wants.pop(Ask.KEEP, None)  # an older one
        self._want(name, Ask.KEEP, (attempt, step))

    def renew(self, name: str) -> None:
        """Let this host know that the run is watched."""
        self._want(name, Ask.RENEW)

    def again(self, name: str) -> None:
        """Something of what this host has said was missed: ask for what it has."""
        self._want(name, Ask.WATCH)

    def measure(self, name: str) -> None:
        """The offset of this host's clock is not known well."""
        self._want(name, Ask.CLOCK)

    def confirm(self, name: str) -> None:
        """Have this host say that it is there and all that is new; what it answers is told as `Present`."""
        self._want(name, Ask.STATUS)

    def ask_stacks(self, names: Iterable[str]) -> None:
        """Ask these hosts where their ranks are; each answers once with `Stacks`, whenever it can."""
        self._stacks.ask(names)

    def has(self, name: str, mark: Mark | None) -> None:
        """What the next subscription goes on from."""
        self._links[name].mark = mark

    def done(self, name: str) -> None:
        """Nothing of this host matters any more: it is neither asked nor opened again."""
        link = self._links[name]
        if not link.is_done:
            link.is_done = True
            link.wants.clear()
            link.due = math.inf

    def set_viewers(self, count: int) -> None:
        """So many look at the run just now: have the hosts tell of their steps as often as that needs."""
        self._told.set_viewers(count)
        every = digest_seconds(self._hosts, count)
        if every != self.every:
            self.every = every
            for link in self._links.values():
                if link.client is not None and not link.polls:
                    self._want(link.name, Ask.WATCH)

    def start_anew(self) -> None:
        """Time has passed in which nothing could be heard: ask everybody, and forget who failed before."""
        now = self._scheduling.monotonic()
        for link in self._links.values():
            link.backoff = 0.0
            link.heard = now
            if link.client is None:
                link.due = now
                self._set_timer(link)
            else:
                self._want(link.name, Ask.STATUS)

    def due(self) -> float:
        """When `take` is to be called though nobody has said anything (monotonic)."""
        return min(self._timers[0][0], self._told.due) if self._timers else self._told.due

    def hand_back(self, patience: float) -> list[str]:
        """Ask nothing more and take the answers that are still to come, so that others can use the sessions.

        Returns the hosts whose answers have not come by then: their sessions are of no use to anybody.
        """
        for link in self._links.values():
            link.wants.clear()
            link.is_done, link.due = True, math.inf
        deadline = self._scheduling.monotonic() + patience
        while (late := [link.name for link in self._links.values() if link.is_busy]) and (
            left := deadline - self._scheduling.monotonic()
        ) > 0:
            self._signal.wait(min(left, _HANDED_BACK))
            self._signal.clear()
            self.take()
        return late

    def close(self) -> None:
        for pool in (self._openers, self._doubtful, self._writers, self._stacks):
            pool.close()

    def take(self) -> list[Said]:
        """What hosts have said by now, and the beginning of what is due. Never waits for a host."""
        said = [Said(name, found) for name, found in self._stacks.take()]
        while self._done:
            self._take_result(*self._done.popleft(), said)
        for link in self._told.take():
            self._hear(link, said)
        now = self._scheduling.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, link = heapq.heappop(self._timers)
            link.entry = math.inf
            if link.due <= now:
                self._on_time(link, now, said)
            self._set_timer(link)
        return said

    # What has come.

    def _take_result(self, link: Link, result: Opened | Failed | None, said: list[Said]) -> None:
        was_opening, link.is_opening, link.is_writing = link.is_opening, False, False
        if isinstance(result, Opened):
            self._begin_to_hear(link, result, said)
        elif isinstance(result, Failed) and was_opening:
            self._fail(link, result, said)
        elif isinstance(result, Failed) and link.client is not None:
            self._lose(link, result, said)
        elif link.client is None and link.due == math.inf:
            link.due = self._scheduling.monotonic()  # it was lost while it was written to
        self._pump(link)

    def _begin_to_hear(self, link: Link, opened: Opened, said: list[Said]) -> None:
        link.client, link.before, link.polls = opened.client, opened.before, opened.polls
        link.opened = link.heard = link.last[Ask.WATCH] = self._scheduling.monotonic()
        link.is_fresh, link.is_broken = True, False
        # With what has come by now, the way of a message is known only roughly.
        link.measure_at = link.opened + 1 + 2 * self._random.random()
        if opened.status is not None:
            said.append(self._polled(link, opened.status))
        elif link.is_doubted:
            link.wants[Ask.STATUS] = None  # that it can be reached is no word yet
        elif link.mark is not None:
            said.append(Said(link.name, Present()))
        if self._once:
            link.is_done = True
        elif opened.every != self.every:
            link.wants[Ask.WATCH] = None
        link.due = link.next_question(self._quiet, self._hosts)
        self._told.tell(link)  # it may have spoken before anybody listened

    def _hear(self, link: Link, said: list[Said]) -> None:
        client = link.client
        if client is None:
            return
        begun = link.asked_at if link.asked is not None else self._scheduling.monotonic()
        try:
            found = client.heard()
        except Exception as error:
            self._lose(link, Failed(error, begun), said)
            return
        if client.has_more:
            self._told.tell(link)  # after the others have had their turn
        if not found:
            return
        link.heard, link.is_doubted = self._scheduling.monotonic(), False
        for each in found:
            if isinstance(each, Reply):
                self._take_reply(link, each, said)
            else:
                said.append(Said(link.name, each, self._measured_by(link, each)))
        if link.asked is None:
            link.due = link.next_question(self._quiet, self._hosts)
        self._pump(link)

    def _take_reply(self, link: Link, reply: Reply, said: list[Said]) -> None:
        asked, link.asked = link.asked, None
        if asked is Ask.CLOCK:
            link.measure_at = self._scheduling.monotonic() + _CLOCK_AGE  # also where it could not be
        if reply.error is not None:
            if asked is Ask.WATCH and reply.error.kind == "unknown_verb":
                link.polls = True
            elif asked is Ask.STOP and reply.error.kind == "claim":
                self.refusals[link.name] = reply.error  # it is there, and another control node acts
                said.append(Said(link.name, Present()))
            elif asked not in (Ask.CLOCK, Ask.KEEP, Ask.RENEW):
                said.append(Said(link.name, Failed(reply.error, link.asked_at)))
        elif isinstance(reply.value, HostStatus):
            said.append(self._polled(link, reply.value))
        else:
            clock = self._offset(link, reply.value) if isinstance(reply.value, float) else None
            said.append(Said(link.name, Present(), clock))

    def _polled(self, link: Link, status: HostStatus) -> Said:
        clock = None if status.clock is None else self._offset(link, status.clock)
        return Said(link.name, Present(status, is_newest=link.polls or self._once), clock)

    def _measured_by(self, link: Link, each: Pushed) -> ClockOffset | None:
        """The first snapshot of a session was made after it was asked for, and before now."""
        was_fresh, link.is_fresh = link.is_fresh, False
        if isinstance(each, Snapshot) and was_fresh and link.asked is None:
            return self._offset(link, each.clock)
        return None

    def _offset(self, link: Link, there: float) -> ClockOffset:
        return ClockOffset.of(link.before, there, self._scheduling.time())

    def _lose(self, link: Link, failed: Failed, said: list[Said]) -> None:
        """A session that was open has broken. That is nothing to tell of before another one cannot be had.

        But what it said that is none is told, and so is that it did not answer.
        """
        now = self._scheduling.monotonic()
        was_settled = now - link.opened > _SETTLED
        was_silent = link.asked is not None
        link.client, link.is_broken, link.asked = None, True, None
        link.is_doubted |= isinstance(failed.error, AnswerError)
        link.wants.clear()
        if was_settled:
            link.backoff = 0.0
        if was_settled and not was_silent and not isinstance(failed.error, AnswerError):
            link.due = now + self._random.random() * min(1.0, self._hosts / 100)
        else:
            self._fail(link, failed, said)
        self._set_timer(link)

    def _fail(self, link: Link, failed: Failed, said: list[Said]) -> None:
        link.client, link.asked = None, None
        link.wants.clear()
        if link.is_done or self._once:
            link.is_done, link.due = True, math.inf
        if link.is_done and not self._once:
            return
        link.backoff = min(_MAX_BACKOFF, max(1.0, link.backoff) * 2)
        jitter = 1 + _JITTER * (2 * self._random.random() - 1)
        if not link.is_done:
            link.due = self._scheduling.monotonic() + link.backoff * jitter
            self._set_timer(link)
        if not isinstance(failed.error, OrchestrateError):
            # A bug of ours that this host has found. It must not end the watch over the others.
            log.error("%s cannot be watched", link.name, exc_info=failed.error)
        said.append(Said(link.name, failed))

    # What is due.

    def _on_time(self, link: Link, now: float, said: list[Said]) -> None:
        if link.is_done or (link.client is None and (link.is_opening or link.is_writing)):
            link.due = math.inf
        elif link.client is None:
            self._open(link, now)
        elif link.asked is not None:
            self._hear(link, said)  # which finds out that the answer is late
            if link.client is not None and link.asked is not None:
                link.due = now + _AGAIN
        else:
            # A link that is silent for too long, whose turn it is, or of whose clock too little is known.
            is_quiet = link.polls or now - link.heard >= self._quiet
            link.wants.setdefault(Ask.STATUS if is_quiet else Ask.CLOCK, None)
            link.due = now + _AGAIN
            self._pump(link)

    def _set_timer(self, link: Link) -> None:
        """Each link has an entry no later than it is due; one too many does no harm."""
        if link.due < link.entry:
            link.entry = link.due
            heapq.heappush(self._timers, (link.due, next(self._numbers), link))

    def _open(self, link: Link, now: float) -> None:
        link.is_opening, link.due = True, math.inf
        pool = self._doubtful if link.backoff else self._openers
        pool.submit(self._open_job, link, link.is_broken, link.mark, self.every)

    def _want(self, name: str, ask: Ask, reason: StopReason | tuple[int, int] | None = None) -> None:
        link = self._links[name]
        if not link.is_done or ask in (Ask.STOP, Ask.CLOCK):
            link.wants.setdefault(ask, reason)
            self._pump(link)

    def _pump(self, link: Link) -> None:
        """Ask what is wanted most, if nothing is being asked."""
        if link.client is None or link.asked is not None or link.is_writing or not link.wants:
            self._set_timer(link)
            return
        now = self._scheduling.monotonic()
        for ask in Ask:
            if ask in link.wants and (not link.polls or ask is not Ask.WATCH):
                break
        else:
            link.wants.clear()
            return
        if now < (may := link.last.get(ask, -math.inf) + _AGAIN):
            link.due = min(link.due, may)
            self._set_timer(link)
            return
        reason = link.wants.pop(ask)
        link.asked, link.asked_at, link.last[ask], link.is_writing = ask, now, now, True
        link.due = now + PATIENCE
        self._set_timer(link)
        job = self._jobs.question(link.client, ask, reason, link.mark, self.every)
        self._writers.submit(self._ask_job, link, job, now)

    # In other threads.

    def _open_job(self, link: Link, is_broken: bool, mark: Mark | None, every: float) -> None:
        tells = (functools.partial(tell, link) for tell in (self._told.tell, self._told.tell_calmly))
        result = self._jobs.open(link.name, is_broken, mark, every, *tells)
        self._done.append((link, result))
        self._signal.set()

    def _ask_job(self, link: Link, ask: Callable[[], None], begun: float) -> None:
        link.before = self._scheduling.time()
        self._done.append((link, self._jobs.begin(ask, begun)))
        self._signal.set()
