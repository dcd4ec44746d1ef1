"""Many hosts at once: one connection and one agent session per host, one function on all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from orchestrator.errors import OrchestrateError, TransportError
from orchestrator.fleet.bundle import agent_bundle
from orchestrator.fleet.results import HostResults
from orchestrator.fleet.session import Session
from orchestrator.inventory import Host, SshOptions
from orchestrator.transport import Transport, open_transport

__all__ = ["Fleet", "fleet_of"]

T = TypeVar("T")
_FAN_OUT = 32


class Fleet:
    """The hosts of one run. Connections are made when first needed, kept, and made anew after they broke."""

    def __init__(
        self, hosts: Iterable[Host], transports: Mapping[str, Transport], *, fan_out: int = _FAN_OUT
    ) -> None:
        self.hosts = {host.name: host for host in hosts}
        self._transports = transports
        self._sessions: dict[str, Session] = {}
        self._locks = {name: threading.Lock() for name in self.hosts}
        self._fan_out = fan_out
        self._owns = True
        self._pool = ThreadPoolExecutor(max_workers=min(fan_out, max(1, len(self.hosts))))

    def session(self, name: str) -> Session:
        """The agent session of a host, connecting where that is needed."""
        with self._locks[name]:
            if name not in self._sessions:
                self._sessions[name] = self._connect(name)
            return self._sessions[name]

    def new_session(self, name: str) -> Session:
        """One more session on the same connection, the caller's to close; for bytes in parallel."""
        with self._locks[name]:
            return self._connect(name)

    def _connect(self, name: str) -> Session:
        host = self.hosts[name]
        transport = self._transports[name]
        transport.connect()
        return Session(transport, python=host.python, workdir=host.workdir, bundle=agent_bundle())

    def drop(self, name: str) -> None:
        """Forget a broken session, so that the next use connects anew."""
        with self._locks[name]:
            session = self._sessions.pop(name, None)
            if session is not None:
                session.close()
            self._transports[name].close()

    def each(self, work: Callable[[Session], T], hosts: Iterable[str] | None = None) -> HostResults[T]:
        """Do `work` with every host's session, in parallel; one host's error never hides another's result."""
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

    def part(self, names: Iterable[str]) -> Fleet:
        """Some of the hosts, over the same connections; closing the part leaves those open."""
        part = Fleet((self.hosts[name] for name in names), self._transports, fan_out=self._fan_out)
        part._sessions, part._locks, part._owns = self._sessions, self._locks, False
        return part

    def close(self) -> None:
        """Hang up everywhere; runs on the hosts go on."""
        self._pool.shutdown(wait=True)
        if not self._owns:
            return
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        for transport in self._transports.values():
            transport.close()

    def _attempt(
        self, work: Callable[[Session], T], name: str
    ) -> tuple[T, None] | tuple[None, OrchestrateError]:
        try:
            return work(self.session(name)), None
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
