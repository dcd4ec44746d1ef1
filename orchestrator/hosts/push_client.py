"""The client to an agent that is watched: what it says unasked, and requests whose answers nobody waits for.

As in `agent_client`, and for it, everything that a host says is checked here: made of its type (`core.push`,
`core.records`), held against the run that is watched, its texts made visible. What does not fit costs that
host: AnswerError, and its session is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.codec import from_json, to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, AnswerError
from orchestrator.core.host_answers import Size, Told
from orchestrator.core.push import Mark, Pushed
from orchestrator.core.records import HostStatus
from orchestrator.hosts.answer_checks import LATEST, MOST_RANKS, made_visible, pushed_of, status_of
from orchestrator.hosts.conversation import Answer, Event, Limits, shown
from orchestrator.hosts.session import Session

__all__ = ["PushClient", "Reply", "Watched", "stop_args"]

_STATUS = Limits(1 << 23, items=1 << 20)
# What may come unasked: a snapshot is as large as a status, and a host may have much to tell at once.
_UNASKED = Limits(1 << 23, items=1 << 20, answers=20_000, total=1 << 25)


_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Watched:
    """The answer to `watch`: the sequence that the host has."""

    sequence: Size


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to what was begun: to `watch`, the host's `status` or time, or why there is none."""

    verb: str
    value: Watched | float | HostStatus | Told | None = None
    error: AgentError | None = None


class PushClient:
    """One session with an agent, used by one thread at a time but for `on_readable`.

    Every method may raise TransportError where the host cannot be reached (AnswerError where what it says is
    none, CommandTimeout where an answer is late).
    """

    def __init__(self, session: Session) -> None:
        self.host = session.host
        self._session = session
        self._run_id = ""
        self._world_size = MOST_RANKS
        self._placed: frozenset[int] | None = None
        self.has_more = False  # than `heard` has given at the last time
        self._begun: tuple[str, Callable[[Any], Any]] | None = None

    def on_readable(self, tell: Callable[[], None], calm: Callable[[], None] | None = None) -> None:
        """From now on have `tell` called from any thread when `heard` may have something; `calm`, if given,
        where that is only progress."""
        self._session.on_readable(tell, calm)

    def expect(self, run_id: str, world_size: int = MOST_RANKS, placed: frozenset[int] | None = None) -> None:
        """What is told from now on is of this run, and of the host's own ranks where they are known."""
        self._run_id, self._world_size, self._placed = run_id, world_size, placed
        self._session.allow(_UNASKED)

    def status(self, *, timeout: float) -> HostStatus:
        """What became of the run there, waited for."""
        ((result, _),) = self._session.stream("status", {"run_id": self._run_id}, _STATUS, timeout=timeout)
        try:
            return self._status(result)
        except ValueError as error:
            raise self._none(error) from None

    def watch(self, since: Mark | None, *, every: float, beat: float, timeout: float | None = None) -> int:
        """Ask to be told of the run; the sequence that the host has."""
        args = _watch_args(self._run_id, since, every, beat)
        ((result, _),) = self._session.stream("watch", args, Limits(), timeout=timeout)
        # A session that is kept from one attempt to the next may have told of the one before.
        self._session.forget_events()
        try:
            return from_json(Watched, result).sequence
        except ValueError as error:
            raise self._none(error) from None

    def begin_watch(self, since: Mark | None, every: float, beat: float, *, timeout: float) -> None:
        """Ask to be told of the run, or to be told at another pace."""
        self._begin(
            "watch",
            lambda data: from_json(Watched, data),
            _watch_args(self._run_id, since, every, beat),
            timeout,
        )

    def begin_status(self, *, timeout: float) -> None:
        """Ask for what became of the run there."""
        self._begin("status", self._status, {"run_id": self._run_id}, timeout, _STATUS)

    def begin_stop(self, reason: StopReason, *, timeout: float) -> None:
        """End the workers."""
        args = stop_args(self._run_id, reason)
        self._begin("stop", lambda data: from_json(Told, made_visible(data)), args, timeout)

    def begin_tell_step(self, number: int, step: int, *, timeout: float) -> None:
        """Tell the newest step, of attempt `number`, that is complete over all hosts."""
        args = {"run_id": self._run_id, "number": number, "step": step}
        self._begin("tell_step", lambda data: None, args, timeout)

    def begin_renew(self, *, timeout: float) -> None:
        """Let the supervisor know that its run is watched: its lease begins anew."""
        self._begin("renew", lambda data: None, {"run_id": self._run_id}, timeout)

    def begin_clock(self, *, timeout: float) -> None:
        """Ask for the host's time."""
        self._begin("clock", _time, {}, timeout)

    def heard(self) -> list[Pushed | Reply]:
        """What has come, in its order. Never waits; for one who is told, as long as there is something."""
        found: list[Pushed | Reply] = []
        messages = self._session.heard(_AT_ONCE)
        self.has_more = len(messages) == _AT_ONCE
        for message in messages:
            try:
                made = self._made(message)
            except ValueError as error:
                raise self._none(error) from None
            if made is not None:
                found.append(made)
        return found

    def _none(self, why: object) -> AnswerError:
        return self._session.refuse(f"sent an answer that is none: {shown(why, 200)}")

    def _begin(
        self,
        verb: str,
        read: Callable[[Any], Any],
        args: Mapping[str, Any],
        timeout: float,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        self._begun = (verb, read)
        self._session.begin(verb, args, limits, timeout=timeout)

    def _made(self, message: Event | Answer | AgentError) -> Pushed | Reply | None:
        if isinstance(message, Event):
            return pushed_of(message.name, message.data, self._run_id, self._world_size, self._placed)
        begun, self._begun = self._begun, None
        if begun is None:
            raise ValueError("nothing was asked")
        verb, read = begun
        if isinstance(message, AgentError):
            return Reply(verb, error=message)
        return Reply(verb, read(message.result))

    def _status(self, data: Any) -> HostStatus:
        status = status_of(made_visible(data), self._run_id, self._world_size)
        if self._placed is not None and {rank.rank for rank in status.ranks} != self._placed:
            raise ValueError("expected the host's own ranks")
        return status


def _watch_args(run_id: str, since: Mark | None, every: float, beat: float) -> dict[str, Any]:
    """The arguments of `watch`."""
    return {"run_id": run_id, "since": to_json(since), "every": every, "beat": beat}


def stop_args(run_id: str, reason: StopReason) -> dict[str, Any]:
    """The arguments of `stop`. A supervisor of an earlier version understands a text alone."""
    text = reason.text or reason.kind.replace("_", " ")
    now = {"now": True} if reason.now else {}
    return {"run_id": run_id, "reason": text, "why": to_json(reason), **now}


def _time(data: Any) -> float:
    now = from_json(float, data)
    if not 0 <= now <= LATEST:
        raise ValueError("expected a time")
    return now
