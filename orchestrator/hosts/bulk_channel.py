"""Agents for many bytes: through the system's `ssh` where that works, else on the fleet's connections."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.config.inventory import SshOptions
from orchestrator.core.errors import ConfigError, OrchestrateError, TransportError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, agent_over
from orchestrator.hosts.openssh_transport import OpenSshTransport, write_ssh_config
from orchestrator.hosts.ssh.client_config import Asked
from orchestrator.hosts.ssh.known_hosts import user_files
from orchestrator.hosts.ssh.ssh_config import settings_of

__all__ = ["BulkAgents"]

_log = logging.getLogger(__name__)


class BulkAgents:
    """Opened as they are needed, kept for the next, closed together; from any number of threads."""

    def __init__(self, fleet: Fleet, options: SshOptions) -> None:
        self._fleet = fleet
        self._options = options
        self._config = write_ssh_config(options)
        self._idle: dict[str, list[Agent]] = {name: [] for name in fleet.hosts}
        self._open: set[Agent] = set()
        self._without_ssh: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def agent(self, name: str) -> Iterator[Agent]:
        """An agent nobody else uses; one that ended in the middle of an answer is not used again."""
        with self._lock:
            agent = self._idle[name].pop() if self._idle[name] else None
        agent = agent or self._make(name)
        try:
            yield agent
        except BaseException:
            self._drop(agent)
            raise
        with self._lock:
            self._idle[name].append(agent)

    def interrupt(self) -> None:
        """Hang up everywhere: whoever reads or opens gets a TransportError."""
        with self._lock:
            self._closed = True
            agents, self._open = self._open, set()
        for agent in agents:
            agent.close()

    def close(self) -> None:
        self.interrupt()
        if self._config is not None:
            self._config.close()

    def _make(self, name: str) -> Agent:
        agent = self._through_ssh(name) or self._on_the_fleet(name)
        with self._lock:
            if not self._closed:
                self._open.add(agent)
                return agent
        agent.close()
        raise TransportError("interrupted", where=name)

    def _through_ssh(self, name: str) -> Agent | None:
        host = self._fleet.hosts[name]
        if host.transport != "ssh" or self._config is None or name in self._without_ssh:
            return None
        asked = Asked(host.address, host.user, host.port)
        try:
            configured = settings_of(asked, self._options.config_file).user_known_hosts
        except ConfigError:
            return None  # the fleet's connection says what is wrong
        known = user_files(self._options.known_hosts, configured)
        transport = OpenSshTransport(host, self._config.path, known)
        transport.connect()
        try:
            return agent_over(transport, host)
        except OrchestrateError as error:
            # The fleet's connection is the judge: it works, or says better what is wrong.
            _log.debug("no agent through ssh: %s", error)
            self._without_ssh.add(name)
            transport.close()
            return None

    def _on_the_fleet(self, name: str) -> Agent:
        try:
            return self._fleet.new_agent(name)
        except TransportError:
            self._fleet.drop(name)
            with contextlib.suppress(KeyError):
                self._without_ssh.remove(name)  # it was the host, not ssh
            raise

    def _drop(self, agent: Agent) -> None:
        with self._lock:
            self._open.discard(agent)
        agent.close()
