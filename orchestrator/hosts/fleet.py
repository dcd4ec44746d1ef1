"""The fleet of a run: one connection and one agent per host, one function on all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.errors import HostsFailed, OrchestrateError, TransportError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.boot import agent_bundle
from orchestrator.hosts.open_transport import open_transport
from orchestrator.hosts.session import Session
from orchestrator.hosts.transport import Transport

__all__ = [
    "Fleet",
    "HostResults",
    "agent_over",
    "error_lines",
    "fleet_of",
]

T = TypeVar("T")


def error_lines(error: OrchestrateError) -> list[str]:
    """The lines of an error as people read them: hosts with the same message as one range."""
    if isinstance(error, HostsFailed):
        return [f"{fold(hosts)}: {text}" for text, hosts in error.hosts_by_message().items()]
    return error.lines()


class HostResults(Generic[T]):
    """A result or an error for every host that was asked, in the order of the inventory."""

    def __init__(self, values: Mapping[str, T], errors: Mapping[str, OrchestrateError]) -> None:
        self.values = dict(values)
        self.errors = dict(errors)

    def __repr__(self) -> str:
        return f"HostResults(ok={list(self.values)}, failed={list(self.errors)})"

    def raise_on_error(self) -> dict[str, T]:
        """The values, if no host failed; else that host's error, or one HostsFailed for several."""
        if self.errors:
            raise HostsFailed.of(self.errors)
        return self.values


_FAN_OUT = 32


def agent_over(transport: Transport, host: Host) -> Agent:
    """An agent started over this transport, which must be connected."""
    return Agent(Session(transport, python=host.python, workdir=host.workdir, bundle=agent_bundle()))


class Fleet:
    """The hosts of one run. Connections are made when first needed, kept, and made anew after they broke."""

    def __init__(
        self, hosts: Iterable[Host], transports: Mapping[str, Transport], *, fan_out: int = _FAN_OUT
    ) -> None:
        self.hosts = {host.name: host for host in hosts}
        self._transports = transports
        self._agents: dict[str, Agent] = {}
        self._locks = {name: threading.Lock() for name in self.hosts}
        self._fan_out = fan_out
        self._owns = True
        self._closed = False
        self._pool = ThreadPoolExecutor(max_workers=min(fan_out, max(1, len(self.hosts))))

    def agent(self, name: str) -> Agent:
        """The agent of a host, connecting where that is needed."""
        with self._locks[name]:
            if name not in self._agents:
                self._agents[name] = self._connect(name)
            return self._agents[name]

    def new_agent(self, name: str) -> Agent:
        """One more agent on the same connection, the caller's to close; for bytes in parallel."""
        with self._locks[name]:
            return self._connect(name)

    def _connect(self, name: str) -> Agent:
        if self._closed:
            raise TransportError("interrupted", where=name)
        transport = self._transports[name]
        transport.connect()
        return agent_over(transport, self.hosts[name])

    def drop(self, name: str) -> None:
        """Forget a broken agent, so that the next use connects anew."""
        with self._locks[name]:
            agent = self._agents.pop(name, None)
            if agent is not None:
                agent.close()
            self._transports[name].close()

    def end_session(self, name: str) -> None:
        """Forget a broken agent, and keep the connection if that lives: it takes no login to go on."""
        with self._locks[name]:
            agent = self._agents.pop(name, None)
            if agent is not None:
                agent.close()

    def each(self, work: Callable[[Agent], T], hosts: Iterable[str] | None = None) -> HostResults[T]:
        """Do `work` with every host's agent, in parallel; one host's error never hides another's result."""
        names = list(self.hosts if hosts is None else hosts)
        outcomes = list(self._pool.map(lambda name: self._attempt(work, name), names))
        values: dict[str, T] = {}
        errors: dict[str, OrchestrateError] = {}
        for name, (value, error) in zip(names, outcomes, strict=True):
            if error is not None:
                errors[name] = error
            else:
                values[name] = value  # type: ignore[assignment]
        return HostResults(values, errors)

    def begin(
        self, work: Callable[[Agent], T], name: str
    ) -> Future[tuple[T, None] | tuple[None, OrchestrateError]]:
        """Begin `work` with one host's agent; the future has its result or its error."""
        return self._pool.submit(self._attempt, work, name)

    def part(self, names: Iterable[str]) -> Fleet:
        """Some of the hosts, over the same connections; closing the part leaves those open."""
        part = Fleet((self.hosts[name] for name in names), self._transports, fan_out=self._fan_out)
        part._agents, part._locks, part._owns = self._agents, self._locks, False
        return part

    def close(self) -> None:
        """Hang up everywhere, also where somebody connects or waits; runs on the hosts go on."""
        self._closed = True
        # After Ctrl-C there may be work left: it is not waited for, hanging up ends it.
        self._pool.shutdown(wait=False, cancel_futures=True)
        if not self._owns:
            return
        for agent in list(self._agents.values()):
            agent.close()
        for transport in self._transports.values():
            transport.close()
        self._agents.clear()

    def _attempt(
        self, work: Callable[[Agent], T], name: str
    ) -> tuple[T, None] | tuple[None, OrchestrateError]:
        try:
            return work(self.agent(name)), None
        except OrchestrateError as error:
            if isinstance(error, TransportError):
                self.drop(name)
            return None, error

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fleet_of(hosts: Iterable[Host], options: SshOptions) -> Fleet:
    """The fleet of these hosts, each over the transport that its inventory entry names."""
    chosen = tuple(hosts)
    return Fleet(chosen, {host.name: open_transport(host, options) for host in chosen})
