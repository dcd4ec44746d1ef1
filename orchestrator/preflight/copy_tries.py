"""Whether the copies of checkpoints would get from host to host: tried both ways, as copiers will go."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping

from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import AgentError
from orchestrator.core.host_answers import CopyListener
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, HostResults
from orchestrator.preflight.host_facts import CopyFacts, Needs

__all__ = ["try_copies"]

# A connection within a network of servers; one that takes longer is no good for copies.
_PATIENCE = 10.0


def try_copies(needs: Needs, fleet: Fleet, names: Collection[str]) -> HostResults[CopyFacts]:
    """What those of the hosts among `names` find; nothing where no copies are made.

    All listen, then each tries those to whom, and from whom, its copies go.
    """
    ring = needs.copies
    if ring is None or not ring.keepers:
        return HostResults({}, {})
    words = {host.name: secrets.token_hex(16) for host in needs.hosts}
    taking_part = [name for name in names if name in words]

    def listen(agent: Agent) -> CopyListener | str:
        try:
            return agent.copy_listen(
                ring.network, ring.ports, run_id="check", host=agent.host, word=words[agent.host]
            )
        except AgentError as error:
            if error.kind not in ("no_address", "no_port"):
                raise
            return plain(error.what)

    answers = fleet.each(listen, taking_part)
    listening = {host: one for host, one in answers.values.items() if isinstance(one, CopyListener)}
    peers = _peers(ring.keepers)

    def reach(agent: Agent) -> dict[str, str]:
        found = {}
        for peer in peers.get(agent.host, ()):
            if (there := listening.get(peer)) is None:
                continue  # its own row says why
            own = listening[agent.host].address
            why = agent.copy_reach(own, there.address, there.port, words[peer], timeout=_PATIENCE)
            if why:
                found[peer] = f"{there.address} port {there.port}: {plain(why)}"
        return found

    tries = fleet.each(reach, listening)
    closed = fleet.each(lambda agent: agent.copy_close(), listening)
    facts = {
        host: CopyFacts(
            trouble=one if isinstance(one, str) else "",
            address=one.address if isinstance(one, CopyListener) else "",
            has_tls=isinstance(one, str) or one.tls,
            unreached=tries.values.get(host, {}),
        )
        for host, one in answers.values.items()
        if host not in tries.errors and host not in closed.errors
    }
    return HostResults(facts, {**answers.errors, **tries.errors, **closed.errors})


def _peers(keepers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Both directions: a host's keeper, and the hosts that it keeps for."""
    peers: dict[str, dict[str, None]] = {}
    for owner, keeper in keepers.items():
        peers.setdefault(owner, {})[keeper] = None
        peers.setdefault(keeper, {})[owner] = None
    return {host: tuple(found) for host, found in peers.items()}
