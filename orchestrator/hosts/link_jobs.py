"""The jobs that open a host's session and ask over it: what may take its time, and is done in a pool."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.push import Mark
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.host_link import Ask, Failed, Opened, Stacks
from orchestrator.hosts.push_client import PushClient
from orchestrator.hosts.scheduling import Scheduling, Signal

__all__ = ["PATIENCE", "Agents", "LinkJobs", "StacksAsker"]

log = logging.getLogger(__name__)
PATIENCE = 10.0
_STACKERS = 64
_STACKS_PATIENCE = 30.0  # they are asked of each rank, and some say nothing


class Agents(Protocol):
    """What of a fleet is needed here."""

    def agent(self, name: str) -> Agent: ...

    def new_agent(self, name: str) -> Agent: ...

    def drop(self, name: str) -> None: ...

    def end_session(self, name: str) -> None: ...


class LinkJobs:
    """For the hosts of one run. Nothing is raised: what fails is a result. Knows no link."""

    def __init__(
        self,
        fleet: Agents,
        run_id: str,
        world_size: int,
        placed: Mapping[str, frozenset[int]],
        beat: float,
        once: bool,
        scheduling: Scheduling,
    ) -> None:
        self._fleet, self._run_id, self._world_size, self._placed = fleet, run_id, world_size, placed
        self._beat, self._once, self._scheduling = beat, once, scheduling

    def open(
        self,
        name: str,
        is_broken: bool,
        mark: Mark | None,
        every: float,
        tell: Callable[[], None],
        calm: Callable[[], None],
    ) -> Opened | Failed:
        """A session that tells of the run from `mark` on, or the status where it knows no `watch`.

        `tell` and `calm` are called when there is something, see `PushClient.on_readable`.
        `is_broken`: that of before is of no use. The connection under it may be: who has one needs no login.
        """
        begun = self._scheduling.monotonic()
        try:
            if is_broken:
                self._fleet.end_session(name)
            return self._opened(name, self._fleet.agent(name), mark, every, tell, calm)
        except Exception as error:
            if not isinstance(error, AgentError):
                self._drop(name)
            return Failed(error, begun)

    def question(
        self,
        client: PushClient,
        ask: Ask,
        reason: StopReason | tuple[int, int] | None,
        mark: Mark | None,
        every: float,
    ) -> Callable[[], None]:
        """What sends a question; its answer comes as all else does. Of KEEP the reason is (attempt, step)."""
        because = reason if isinstance(reason, StopReason) else StopReason.requested("")
        number, step = reason if isinstance(reason, tuple) else (0, 0)
        asks: Mapping[Ask, Callable[..., None]] = {
            Ask.STOP: functools.partial(client.begin_stop, because),
            Ask.WATCH: functools.partial(client.begin_watch, mark, every, self._beat),
            Ask.STATUS: client.begin_status,
            Ask.KEEP: functools.partial(client.begin_tell_step, number, step),
            Ask.CLOCK: client.begin_clock,
            Ask.RENEW: client.begin_renew,
        }
        return functools.partial(asks[ask], timeout=PATIENCE)

    def begin(self, ask: Callable[[], None], begun: float) -> Failed | None:
        """Send a question of `question`."""
        try:
            ask()
        except Exception as error:
            return Failed(error, begun)
        return None

    def stacks(self, name: str) -> Stacks:
        """Where the ranks are, asked of an agent of its own: the open link is for what is urgent."""
        try:
            agent = self._fleet.new_agent(name)
            try:
                return Stacks(agent.stacks(self._run_id, timeout=_STACKS_PATIENCE))
            finally:
                agent.close()
        except Exception as error:
            return Stacks(error=str(error))

    def _opened(
        self,
        name: str,
        agent: Agent,
        mark: Mark | None,
        every: float,
        tell: Callable[[], None],
        calm: Callable[[], None],
    ) -> Opened:
        client, before, status = agent.pushes, self._scheduling.time(), None
        client.expect(self._run_id, self._world_size, self._placed.get(name))
        polls = self._once
        try:
            if not polls:
                client.watch(mark, every=every, beat=self._beat, timeout=PATIENCE)
        except AgentError as error:
            if error.kind != "unknown_verb":
                raise
            polls = True
        if polls:
            before = self._scheduling.time()
            status = client.status(timeout=PATIENCE)
        client.on_readable(tell, calm)
        return Opened(client, before, every, polls, status)

    def _drop(self, name: str) -> None:
        try:
            self._fleet.drop(name)
        except Exception:
            log.exception("%s cannot be hung up", name)


class StacksAsker:
    """Asks hosts where their ranks are, in a pool of its own, and keeps what they say until it is taken."""

    def __init__(self, jobs: LinkJobs, signal: Signal, scheduling: Scheduling, hosts: int) -> None:
        self._jobs, self._signal = jobs, signal
        self._pool = scheduling.pool(min(_STACKERS, hosts))
        self._found: deque[tuple[str, Stacks]] = deque()

    def ask(self, names: Iterable[str]) -> None:
        """Each of these hosts answers once, whenever it can."""
        for name in names:
            self._pool.submit(self._job, name)

    def take(self) -> list[tuple[str, Stacks]]:
        """What has come since the last call."""
        return [self._found.popleft() for _ in range(len(self._found))]

    def close(self) -> None:
        self._pool.close()

    def _job(self, name: str) -> None:
        self._found.append((name, self._jobs.stacks(name)))
        self._signal.set()
