"""A host that pushes, in this process and without threads: the agent's side of the protocol, as a script.

Everything happens in the call that makes it happen: a request is answered while it is written, and who is
told that there is something to read is told at once. Time passes when a test says so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, TypeVar

from orchestrator.core.codec import from_json, to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, CommandTimeout, TransportError
from orchestrator.core.protocol import Receiver, frame
from orchestrator.core.push import Beat, Mark, Pushed, Snapshot
from orchestrator.core.records import HostStatus, ProcessId
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.boot import Bundle
from orchestrator.hosts.scheduling import Pool, Scheduling
from orchestrator.hosts.session import Session
from orchestrator.hosts.transport import Channel, Transport

__all__ = ["HandScheduling", "Hands", "MemoryChannel", "PushFleet", "PushHost", "agent_over_memory"]

A = TypeVar("A")
B = TypeVar("B")
SUPERVISOR = ProcessId(7, 70, "boot-1")


class Hands:
    """Time that passes when it is told to: `now` for what is waited for, `wall` for what is shown."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = self.wall = now

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


class HandScheduling(Scheduling):
    """Work is done where it is asked for, and nobody waits."""

    def __init__(self, hands: Hands | None = None) -> None:
        self.hands = hands or Hands()

    def time(self) -> float:
        return self.hands.wall

    def monotonic(self) -> float:
        return self.hands.now

    def sleep(self, seconds: float) -> None:
        self.hands.passes(seconds)

    def signal(self) -> HandSignal:
        return HandSignal()

    def pool(self, workers: int) -> Pool:
        return _HandPool()


class HandSignal:
    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        return self._is_set


class _HandPool(Pool):
    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        work(*args)

    def each(self, work: Callable[[A], B], items: Iterable[A]) -> list[B]:
        return [work(item) for item in items]

    def close(self) -> None:
        pass


class MemoryChannel(Channel):
    """Bytes between a session and a host in this process."""

    def __init__(self, host: PushHost) -> None:
        super().__init__(host.name, ("python",))
        self._host = host
        self._data = bytearray(b"orchestrate-agent ready\n")
        self._asked: Receiver | None = None
        self._tell: Callable[[], None] | None = None
        self.closed = self.is_cut = False
        self.written: list[dict[str, Any]] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._require()
        if self._asked is None:  # how an agent is started
            return
        self._asked.feed(bytes(data))
        while (request := self._asked.header()) is not None:
            self.written.append(request)
            if "verb" in request:
                self._host.answer(self, request)

    def send(self, *headers: dict[str, Any]) -> None:
        self.send_bytes(b"".join(map(frame, headers)))

    def send_bytes(self, data: bytes) -> None:
        self._data += data
        self.tell()

    def tell(self) -> None:
        if self._tell is not None:
            self._tell()

    def cut(self) -> None:
        self.is_cut = True
        self.tell()

    def read(self, size: int) -> bytes:
        if not self._data:
            self._require()
            self._host.hands.passes(self.timeout or 0.0)
            raise CommandTimeout("no answer", where=self.host)
        return self._taken(size)

    def on_readable(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        tell()

    def read_ready(self, size: int) -> bytes | None:
        self._require()
        return self._taken(size) if self._data else None

    def _taken(self, size: int) -> bytes:
        self._require()
        data = bytes(self._data[:size])
        del self._data[:size]
        if data == b"orchestrate-agent ready\n":
            self._asked = Receiver()
        return data

    def _require(self) -> None:
        if self.closed:
            raise self._closed_error()
        if self.is_cut:
            raise TransportError("the connection broke", where=self.host)

    def close_stdin(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def stderr_bytes(self) -> bytes:
        return b""

    def close(self) -> None:
        self.closed = True
        self._host.forget(self)


class _MemoryTransport(Transport):
    def __init__(self, host: PushHost) -> None:
        super().__init__(host.name)
        self._memory = host

    def connect(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _open(self, argv: tuple[str, ...]) -> Channel:
        return self._memory.open()


class PushHost:
    """The agent and the supervisor of one host. `says` what holds from now on, and pushes it.

    `error` is what reaching it fails with, or, an AgentError, what its agent refuses. `told` are the reasons
    of its stops, `asked` how often its status was asked for or to be told of, `dropped` its connection.
    `knows_watch`: else it is of an earlier version. `is_deaf`: it takes what is written, and says nothing.
    """

    def __init__(self, name: str, status: HostStatus | None = None, hands: Hands | None = None) -> None:
        self.name = name
        self.hands = hands or Hands()
        self._error: Exception | None = None
        self.sequence = 0
        self.supervisor: ProcessId | None = SUPERVISOR
        self.ahead = 0.0  # of its clock
        self.knows_watch, self.is_deaf = True, False
        self.asked = self.dropped = self.opened = 0
        self.watches: list[dict[str, Any]] = []
        self.told: list[StopReason] = []
        self.told_steps: list[tuple[int, int]] = []  # (attempt, step) that it was told to keep
        self.channels: list[MemoryChannel] = []
        self._watching: list[MemoryChannel] = []
        if status is not None:
            self.said = status

    @property
    def error(self) -> Exception | None:
        return self._error

    @error.setter
    def error(self, error: Exception | None) -> None:
        """What it is reached with from now on; who is connected learns of it."""
        self._error = error
        if error is not None:
            self.cut()

    @property
    def clock(self) -> float:
        return self.hands.wall + self.ahead

    def tells(self, status: HostStatus) -> None:
        """Its status from now on, which it pushes as a snapshot of the next sequence."""
        self._error = None
        self.said = status
        self.sequence += 1
        self.push(self.snapshot())

    def snapshot(self) -> Snapshot:
        return Snapshot(self.sequence, self.clock, self.said, self.supervisor)

    def beat(self) -> None:
        self.push(Beat(self.sequence, self.clock))

    def push(self, *told: Pushed) -> None:
        """Say this to everybody who watches."""
        for channel in list(self._watching):
            channel.send(*({"event": each.EVENT, "data": to_json(each)} for each in told))

    def push_raw(self, data: bytes) -> None:
        for channel in list(self._watching):
            channel.send_bytes(data)

    def cut(self) -> None:
        """Every connection breaks."""
        channels, self.channels, self._watching = self.channels, [], []
        for channel in channels:
            channel.cut()

    def open(self) -> MemoryChannel:
        self.opened += 1
        channel = MemoryChannel(self)
        self.channels.append(channel)
        return channel

    def forget(self, channel: MemoryChannel) -> None:
        self.channels = [each for each in self.channels if each is not channel]
        self._watching = [each for each in self._watching if each is not channel]

    def answer(self, channel: MemoryChannel, request: dict[str, Any]) -> None:
        verb, number = request["verb"], request["id"]
        self.asked += verb in ("status", "watch")
        if self.is_deaf:
            return
        if verb == "watch" and not self.knows_watch:
            self._refuse(channel, number, AgentError("the agent knows no verb `watch`", kind="unknown_verb"))
        elif isinstance(self._error, AgentError):
            self._refuse(channel, number, self._error)
        else:
            getattr(self, f"_{verb}")(channel, number, request["args"])

    def _refuse(self, channel: MemoryChannel, number: int, error: AgentError) -> None:
        reason = {"what": error.what, "remedy": "", "kind": error.kind}
        channel.send({"id": number, "ok": False, "error": reason})

    def _reply(self, channel: MemoryChannel, number: int, result: Any) -> None:
        channel.send({"id": number, "ok": True, "result": result, "bytes": 0, "more": False})

    def _status(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        self._reply(channel, number, to_json(dataclasses.replace(self.said, clock=self.clock)))

    def _clock(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        self._reply(channel, number, self.clock)

    def _stop(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        self.told.append(from_json(StopReason, args["why"]))
        self._reply(channel, number, {"phase": "stopping"})

    def _tell_step(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        self.told_steps.append((args["number"], args["step"]))
        self._reply(channel, number, None)

    def _watch(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        self.watches.append(args)
        self._reply(channel, number, {"sequence": self.sequence})
        if channel not in self._watching:
            self._watching.append(channel)
        since = None if args["since"] is None else from_json(Mark, args["since"])
        if since is None or self.supervisor is None or since != Mark(self.supervisor, self.sequence):
            snapshot = {"event": "snapshot", "data": to_json(self.snapshot())}
            channel.send(json.loads(json.dumps(snapshot)))


def agent_over_memory(host: PushHost) -> Agent:
    session = Session(
        _MemoryTransport(host),
        python="p",
        workdir="~/w",
        bundle=Bundle(b"", "0"),
        timeout=10.0,
        clock=lambda: host.hands.now,
    )
    return Agent(session)


class PushFleet:
    """Agents of these hosts."""

    def __init__(self, *hosts: PushHost) -> None:
        self._by_name = {host.name: host for host in hosts}
        self._agents: dict[str, Agent] = {}
        self.hosts: Any = {name: SimpleNamespace(name=name) for name in self._by_name}

    def agent(self, name: str) -> Agent:
        error = self._by_name[name].error
        if error is not None and not isinstance(error, AgentError):
            self._by_name[name].asked += 1
            raise error
        if name not in self._agents:
            self._agents[name] = agent_over_memory(self._by_name[name])
        return self._agents[name]

    def new_agent(self, name: str) -> Agent:
        """One more, the caller's to close."""
        if (error := self._by_name[name].error) is not None:
            raise error
        return agent_over_memory(self._by_name[name])

    def drop(self, name: str) -> None:
        self._by_name[name].dropped += 1
        self.end_session(name)

    def end_session(self, name: str) -> None:
        agent = self._agents.pop(name, None)
        if agent is not None:
            agent.close()
