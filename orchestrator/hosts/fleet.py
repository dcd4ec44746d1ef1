"""The fleet of a run: one connection and one agent per host, one function on all of them at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Generic, TypeVar

from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.errors import CommandTimeout, HostsFailed, OrchestrateError, TransportError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.boot import QUIET, agent_bundle
from orchestrator.hosts.descriptors import require_descriptors
from orchestrator.hosts.open_transport import open_transport
from orchestrator.hosts.pace import Gate, Pace
from orchestrator.hosts.run_address import RunAddress
from orchestrator.hosts.scheduling import SYSTEM, Scheduling
from orchestrator.hosts.session import Session
from orchestrator.hosts.transport import Transport

__all__ = [
    "Fleet",
    "HostResults",
    "agent_over",
    "error_lines",
    "fan_out_of",
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


# Agents that are started at once, and pieces of work: as many more as may wait for hosts that do not answer.
_STARTS = 32
_SPARE = 32
_MOST_SPARE = 96
# One host in so many may be silent, and the others have the fleet's whole pace all the same.
_SILENT_PART = 16
# So often it is looked whether somebody else has connected to a host, in seconds.
_LOOK = 0.02

Outcome = tuple[T, None] | tuple[None, OrchestrateError]


def fan_out_of(hosts: int) -> int:
    """The threads of a fleet of so many hosts: a constant at most, however many there are."""
    return max(1, min(hosts, _STARTS + min(_MOST_SPARE, _SPARE + hosts // _SILENT_PART)))


def agent_over(
    transport: Transport,
    host: Host,
    *,
    scheduling: Scheduling = SYSTEM,
    quiet: float = QUIET,
    addresses: Mapping[str, RunAddress] | None = None,
) -> Agent:
    """An agent started over this transport, which must be connected; `quiet` as for `boot.open_agent`."""
    session = Session(
        transport,
        python=host.python,
        workdir=host.workdir,
        bundle=agent_bundle(),
        quiet=quiet,
        clock=scheduling.monotonic,
    )
    session.addresses = {} if addresses is None else addresses
    return Agent(session)


class Fleet:
    """The hosts of one run. Connections are made when first needed, kept, and made anew after they broke.

    At most `fan_out` pieces of work are under way at a time, by default as many as `fan_out_of` says.
    """

    def __init__(
        self,
        hosts: Iterable[Host],
        transports: Mapping[str, Transport],
        *,
        fan_out: int | None = None,
        scheduling: Scheduling = SYSTEM,
    ) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.scheduling = scheduling
        self._transports = transports
        self._agents: dict[str, Agent] = {}
        self._locks = {name: threading.Lock() for name in self.hosts}
        self._starts = Gate(Pace(_STARTS, _STARTS), scheduling)
        self._fan_out = fan_out
        self._owns, self._is_apart = True, False
        self._closed = False
        self._pool = scheduling.pool(fan_out or fan_out_of(len(self.hosts)))
        self._begun: set[Future[Outcome[Any]]] = set()
        self._addresses: dict[str, RunAddress] = {}

    def address(self, *addresses: RunAddress) -> None:
        """From now on whoever asks about one of these runs over this fleet means that attempt of it."""
        self._addresses.update({address.run_id: address for address in addresses})

    @property
    def addresses(self) -> tuple[RunAddress, ...]:
        return tuple(self._addresses.values())

    def addressed(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a request as a host of this fleet gets them."""
        address = self._addresses.get(args.get("run_id", ""))
        return args if address is None else address.added_to(args)

    def agent(self, name: str) -> Agent:
        """The agent of a host, connecting where that is needed."""
        with self._held(name):
            if name not in self._agents:
                self._agents[name] = self._connect(name)
            return self._agents[name]

    def new_agent(self, name: str) -> Agent:
        """One more agent on the same connection, the caller's to close; for bytes in parallel."""
        with self._held(name):
            return self._connect(name)

    @contextlib.contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """One host, for one who connects to it. Waited for by the scheduling, which may be virtual."""
        lock = self._locks[name]
        while not lock.acquire(blocking=False):
            self.scheduling.sleep(_LOOK)
        try:
            yield
        finally:
            lock.release()

    def _connect(self, name: str) -> Agent:
        if self._closed:
            raise TransportError("interrupted", where=name)
        transport = self._transports[name]
        transport.connect()
        with self._starts.turn(is_wanted=lambda: not self._closed):
            # Where agents take long because all hosts are busy, a silent one is no sign of another shell.
            quiet = max(QUIET, self._starts.patience)
            return agent_over(
                transport,
                self.hosts[name],
                scheduling=self.scheduling,
                quiet=quiet,
                addresses=self._addresses,
            )

    def drop(self, name: str) -> None:
        """Forget a broken agent, so that the next use connects anew."""
        with self._held(name):
            agent = self._agents.pop(name, None)
            if agent is not None:
                agent.close()
            self._transports[name].close()

    def end_session(self, name: str) -> None:
        """Forget a broken agent, and keep the connection if that lives: it takes no login to go on."""
        with self._held(name):
            agent = self._agents.pop(name, None)
            if agent is not None:
                agent.close()

    def each(self, work: Callable[[Agent], T], hosts: Iterable[str] | None = None) -> HostResults[T]:
        """Do `work` with every host's agent, in parallel; one host's error never hides another's result."""
        names = list(self.hosts if hosts is None else hosts)
        outcomes = self._pool.each(lambda name: self._attempt(work, name), names)
        values: dict[str, T] = {}
        errors: dict[str, OrchestrateError] = {}
        for name, (value, error) in zip(names, outcomes, strict=True):
            if error is not None:
                errors[name] = error
            else:
                values[name] = value  # type: ignore[assignment]
        return HostResults(values, errors)

    def begin(self, work: Callable[[Agent], T], name: str) -> Future[Outcome[T]]:
        """Begin `work` with one host's agent; the future has its result or its error.

        It is cancelled where the fleet is closed before.
        """
        future: Future[Outcome[T]] = Future()
        self._begun.add(future)
        self._pool.submit(self._fulfil, future, work, name)
        if self._closed:
            future.cancel()
        return future

    def part(self, names: Iterable[str]) -> Fleet:
        """Some of the hosts, over the same connections; closing the part leaves those open."""
        hosts = [self.hosts[name] for name in names]
        part = type(self)(hosts, self._transports, fan_out=self._fan_out, scheduling=self.scheduling)
        part._agents, part._locks, part._starts, part._owns = self._agents, self._locks, self._starts, False
        part._addresses = self._addresses
        return part

    def apart(self, names: Iterable[str]) -> Fleet:
        """As `part`, with agents of its own that end with it: what takes long there keeps nobody waiting who
        asks these hosts over this fleet."""
        part = self.part(names)
        part._agents, part._is_apart = {}, True
        return part

    def close(self) -> None:
        """Hang up everywhere, also where somebody connects or waits; runs on the hosts go on."""
        self._closed = True
        # After Ctrl-C there may be work left: it is not waited for, hanging up ends it.
        self._pool.close()
        for future in list(self._begun):
            future.cancel()
        if not self._owns:
            if self._is_apart:
                for agent in list(self._agents.values()):
                    agent.close()
            return
        for agent in list(self._agents.values()):
            agent.close()
        for transport in self._transports.values():
            transport.close()
        self._agents.clear()

    def _fulfil(self, future: Future[Outcome[T]], work: Callable[[Agent], T], name: str) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(self._attempt(work, name))
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._begun.discard(future)

    def _attempt(self, work: Callable[[Agent], T], name: str) -> Outcome[T]:
        try:
            return work(self.agent(name)), None
        except OrchestrateError as error:
            if self._is_apart and isinstance(error, CommandTimeout):
                self.end_session(name)  # the connection is others', and may do
            elif isinstance(error, TransportError):
                self.drop(name)
            return None, error

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# What a connection has open here: its socket and a ProxyCommand's streams, or three streams of a process.
_DESCRIPTORS = 4


def fleet_of(hosts: Iterable[Host], options: SshOptions, scheduling: Scheduling = SYSTEM) -> Fleet:
    """The fleet of these hosts, each over the transport that its inventory entry names.

    Raises OrchestrateError where so many connections cannot be open here.
    """
    chosen = tuple(hosts)
    require_descriptors(_DESCRIPTORS * len(chosen), f"connections to {len(chosen)} hosts")
    return Fleet(chosen, {host.name: open_transport(host, options) for host in chosen}, scheduling=scheduling)
