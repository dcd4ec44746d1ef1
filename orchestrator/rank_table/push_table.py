"""A rank table on all its servers, and the proof that it arrived."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import AgentError, ConfigError, Problem
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.rank_table.live_table import hosts_of
from orchestrator.rank_table.table import RankTable

__all__ = ["Pushed", "push_table"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where the table lies on a host, and the SHA-256 of what was read back from there."""

    host: str
    path: str
    sha256: str


def push_table(table: RankTable, data: bytes, inventory: Inventory, to: str | None = None) -> list[Pushed]:
    """Put `data`, the bytes of a valid table, at `to` on every server of the table.

    `to` None means `<workdir>/rank_table.json` of each host. Nothing is written before all hosts are
    reached; each file is replaced whole, read back, and its hash compared. Raises ConfigError for a server
    that is no host, and the hosts' errors.
    """
    hosts = _require_hosts(table, inventory)
    with fleet_of(hosts, inventory.ssh) as fleet:
        fleet.each(lambda agent: agent.host).raise_on_error()
        return push_with(fleet, data, to)


def push_with(fleet: Fleet, data: bytes, to: str | None) -> list[Pushed]:
    """As `push_table`, over connections that are there."""
    sha256 = hashlib.sha256(data).hexdigest()

    def put(agent: Agent) -> Pushed:
        path = to or f"{fleet.hosts[agent.host].workdir}/rank_table.json"
        answer = agent.put_file(path, data, sha256)
        if answer.sha256 != sha256:
            what = f"{answer.path} reads back as {answer.sha256[:16]}, not {sha256[:16]}"
            raise AgentError(what, where=agent.host, remedy="look at its disk")
        return Pushed(agent.host, answer.path, answer.sha256)

    return list(fleet.each(put).raise_on_error().values())


def _require_hosts(table: RankTable, inventory: Inventory) -> Sequence[Host]:
    hosts = hosts_of(table, inventory)
    where = plain(str(inventory.path))
    problems = [
        Problem(where, plain(f"no host has the address {server.server_id}"), "add it, or correct `address:`")
        for server, host in zip(table.server_list, hosts, strict=True)
        if host is None
    ]
    if problems:
        raise ConfigError(problems)
    return [host for host in hosts if host is not None]
