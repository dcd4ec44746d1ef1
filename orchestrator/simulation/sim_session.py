"""A simulated session without bytes: values pass the simulated network as they are, and nothing is made JSON.

For simulations of weeks with a thousand hosts. All above an agent's client is the real code: fleet, feed,
watch, monitor, recovery; so is what the host decides. What is between, frames and checks of JSON, is left
out: simulations of hours have it, and those with hosts that lie.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, TypeVar

from orchestrator.core.claims import Tombstone
from orchestrator.core.errors import AgentError, AnswerError
from orchestrator.core.host_answers import Prepared
from orchestrator.core.paths import RUN_YAML
from orchestrator.core.push import Beat, Digest, Pushed
from orchestrator.core.records import HostStatus, Manifest
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.conversation import Answer, Event, Limits
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.push_client import PushClient, Reply
from orchestrator.hosts.session import Payload, Session
from orchestrator.hosts.transport import Deadline
from orchestrator.simulation.sim_transport import SimChannel, SimTransport
from orchestrator.simulation.sim_values import DIRECT, HEADER, LaunchValue, Packet, Value
from orchestrator.simulation.virtual_time import World

__all__ = ["DirectFleet", "SimFleet"]

T = TypeVar("T")
_CALM = frozenset({Digest.EVENT, Beat.EVENT})  # what nobody has to act on, see `hosts.session`


class _Receiver:
    """Nothing lies behind a message; messages come whole."""

    left = 0

    def __init__(self) -> None:
        self.came: deque[Any] = deque()

    @property
    def is_between_frames(self) -> bool:
        return not self.came


class _Talk:
    """In the place of `hosts.conversation`: requests and answers are values."""

    def __init__(self, host: str) -> None:
        self.receiver = _Receiver()
        self.is_answered = True
        self.data: bytes | memoryview = b""
        self._host = host
        self._number = 0

    def ask(self, verb: str, args: Mapping[str, Any], size: int, limits: Limits) -> Any:
        self._number += 1
        self.is_answered = False
        return {"id": self._number, "verb": verb, "args": args}

    def allow(self, unasked: Limits) -> None:
        pass

    def feed(self, data: Any) -> None:
        self.receiver.came.append(data.content)

    def next(self) -> Answer | Event | None:
        if not self.receiver.came:
            return None
        content = self.receiver.came.popleft()
        if isinstance(content, Event):
            return content
        number, answer = content
        if self.is_answered or number != self._number:
            raise self.broken("answered another question than was asked")
        if answer.error is not None:
            self.is_answered = True
            raise AgentError(
                answer.error["what"],
                where=self._host,
                remedy=answer.error["remedy"],
                kind=answer.error["kind"],
            )
        self.is_answered, self.data = not answer.more, answer.data
        return Answer(answer.result, len(answer.data), answer.more)

    def broken(self, what: str) -> AnswerError:
        return AnswerError(f"the agent {what}", where=self._host)


class _Unlimited:
    def takes(self, amount: float, now: float) -> bool:
        return True


class DirectSession(Session):
    """The real session, but for its bytes."""

    def __init__(self, transport: SimTransport, clock: Any) -> None:
        self.host = transport.host
        self.addresses = {}
        self._events = deque()
        self._timeout = 60.0
        self._clock = clock
        self._talk = _Talk(transport.host)  # type: ignore[assignment]
        self._number = self._bytes = _Unlimited()  # type: ignore[assignment]
        self._asking, self._writing, self._ending = (threading.Lock() for _ in range(3))
        self._later = None
        self._tell = None
        self._heard = clock()
        self._channel = transport.open_as(DirectChannel, DIRECT)

    def _send(self, header: Any, payload: Any, timeout: float | None) -> None:
        with self._writing:
            self._heard = self._clock()
            self._channel.timeout = timeout or self._timeout
            body = payload if isinstance(payload, (bytes, LaunchValue)) else b"".join(map(bytes, payload))
            self._channel.write(Packet((header, body), HEADER + len(body)))  # type: ignore[arg-type]

    def _data(self, verb: str, size: int, buffer: memoryview | None, deadline: Deadline) -> memoryview:
        data = self._talk.data  # type: ignore[attr-defined]
        if buffer is None:
            return memoryview(bytearray(data))
        buffer[:size] = data
        return buffer[:size]


class _DirectPushes(PushClient):
    def _made(self, message: Event | Answer | AgentError) -> Pushed | Reply | None:
        if isinstance(message, Event) and isinstance(message.data, Value):
            told: Pushed = message.data.value
            return told if message.name == getattr(told, "EVENT", None) else None
        return super()._made(message)

    def _status(self, data: Any) -> HostStatus:
        return data.value if isinstance(data, Value) else super()._status(data)


class _DirectAgent(Agent):
    """The client to an agent, whose answers need not be made of JSON."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.pushes = _DirectPushes(session)

    def prepare(
        self,
        manifest: Manifest,
        worker_config: str,
        rank_table: str | None,
        *,
        files: Mapping[str, str] | None = None,
        contents: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> Prepared:
        payload: Payload = LaunchValue(  # type: ignore[assignment]
            manifest, worker_config, rank_table, (files or {}).get(RUN_YAML), contents or {}
        )
        return self._ask(Prepared, "prepare", payload=payload, timeout=timeout, run_id=manifest.run_id)

    def bury(self, stone: Tombstone, *, timeout: float | None = None) -> HostStatus:
        return self._status("bury", stone.run_id, 0, timeout, stone=Value(stone))

    def _status(
        self, verb: str, run_id: str, world_size: int, timeout: float | None, **args: Any
    ) -> HostStatus:
        return self._ask(HostStatus, verb, timeout=timeout, run_id=run_id, **args)

    def _shown(self, result: Any, raw: tuple[str, ...]) -> Any:
        return result  # our own hosts say nothing that is not to be shown

    def _made(self, kind: type[T], data: Any) -> T:
        return data.value if isinstance(data, Value) else super()._made(kind, data)


class _WorldLock:
    """A lock whose holders may park: who waits for it parks, too, and the world goes on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_held = False
        self._waiting: list[object] = []

    def acquire(self, blocking: bool = True) -> bool:
        while self._is_held:
            if not blocking:
                return False
            self._world.park("a session that is in use", told=self._waiting.append)
        self._is_held = True
        return True

    def release(self) -> None:
        self._is_held = False
        waiting, self._waiting = self._waiting, []
        for token in waiting:
            self._world.wake(token)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimFleet(Fleet):
    """The real fleet; two threads that want one session take their turns in the world's time."""

    def _connect(self, name: str) -> Agent:
        agent = super()._connect(name)
        transport = self._transports[name]
        assert isinstance(transport, SimTransport)
        agent._session._asking = _WorldLock(transport.world)  # type: ignore[assignment]
        return agent


class DirectFleet(Fleet):
    """The real fleet, whose agents pass values."""

    def _connect(self, name: str) -> Agent:
        transport = self._transports[name]
        assert isinstance(transport, SimTransport)
        transport.connect()
        session = DirectSession(transport, self.scheduling.monotonic)
        session.addresses = self._addresses
        session._asking = _WorldLock(transport.world)  # type: ignore[assignment]
        return _DirectAgent(session)


class DirectChannel(SimChannel):
    """A channel for packets; each is read whole."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._came: Any = deque()

    def write(self, data: Any) -> None:
        self._write(data)

    def _is_calm(self, data: Any, begins: tuple[bytes, ...]) -> bool:
        return isinstance(data.content, Event) and data.content.name in _CALM

    def _keep(self, data: Any) -> None:
        self._came.append(data)

    def _taken(self, size: int) -> Any:
        if self._came:
            return self._came.popleft()
        return super()._taken(size)
