"""Letting go of a run that is over: devices kept for its next attempt, and hosts that stand ready for it.

Who may still hold something stands in the record from the moment at which it says that the run is over, so
that another monitor, or a stop, finishes what this one began. Hosts are asked over sessions of their own: a
question that is pending there keeps nobody waiting. Who does not answer lets go with its lease.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import AgentError, TransportError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet

__all__ = ["LettingGo"]

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # in which an agent that is there has answered
_AGAIN = 15.0  # after which one that has not is asked again, in seconds


@dataclass
class _Asked:
    """The question to a host; `since` is of the monotonic clock."""

    since: float = -math.inf
    answer: Future[Any] | None = None
    said: str = ""  # what it is known by already


class LettingGo:
    """Of one run, over a fleet that has its hosts and knows which attempt is meant; for one thread.

    `names` are those that may hold something, `spares` those among them that may stand ready.
    """

    def __init__(self, fleet: Fleet, run_id: str, names: Iterable[str], spares: Iterable[str] = ()) -> None:
        known = [name for name in dict.fromkeys(names) if name in fleet.hosts]
        self._run_id, self._spares = run_id, frozenset(spares)
        self._fleet, self._scheduling = fleet.apart(known), fleet.scheduling
        self._signal = self._scheduling.signal()
        self._left = {name: _Asked() for name in known}

    @property
    def left(self) -> tuple[str, ...]:
        """The hosts that have not said that they hold nothing any more."""
        return tuple(self._left)

    def step(self, patience: float) -> tuple[str, ...]:
        """Ask those whose turn it is, and wait at most so many seconds for what they say; who is left."""
        now = self._scheduling.monotonic()
        deadline = now + patience
        for name, asked in self._left.items():
            if asked.answer is None and now >= asked.since + _AGAIN:
                asked.since = now
                asked.answer = self._fleet.begin(self._ask, name)
                asked.answer.add_done_callback(lambda _: self._signal.set())
        self._take()
        while self._waits() and (left := deadline - self._scheduling.monotonic()) > 0:
            self._signal.wait(left)
            self._signal.clear()
            self._take()
        return self.left

    def close(self) -> None:
        """Ask no more; what is pending is not waited for."""
        self._fleet.close()

    def _waits(self) -> bool:
        return any(asked.answer is not None for asked in self._left.values())

    def _take(self) -> None:
        for name, asked in list(self._left.items()):
            if asked.answer is None or not asked.answer.done():
                continue
            error, asked.answer = _error_of(asked.answer), None
            if isinstance(error, TransportError):
                if error.what != asked.said:
                    log.warning("%s lets go with its lease where it does not answer: %s", name, error.what)
                asked.said = error.what
                continue
            if error is not None:
                log.warning("%s: %s", name, error)  # it answers, and asking again changes nothing
            del self._left[name]

    def _ask(self, agent: Agent) -> None:
        if agent.host in self._spares:
            agent.spare_release(self._run_id, timeout=_PATIENCE)
        try:
            agent.release(self._run_id, timeout=_PATIENCE)
        except AgentError as error:
            if error.kind != "no_run":  # no attempt was there
                raise


def _error_of(answer: Future[Any]) -> BaseException | None:
    if answer.cancelled():
        return None
    return answer.exception() or answer.result()[1]
