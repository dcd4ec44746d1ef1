"""All hosts at once: their tools are asked over the sessions of a fleet, once or twice per host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.ascend.answers import Call, ToolAnswers
from orchestrator.discovery.devices import FoundHost, find_devices, first_calls, later_calls
from orchestrator.fleet import Fleet, HostResults, Session
from orchestrator.inventory import Host

__all__ = ["TOOL_TIMEOUT", "ask", "discover"]

# For one call. hccn_tool answers in a tenth of a second; a ping takes about three.
TOOL_TIMEOUT = 10.0
_PARALLEL = 8


def discover(
    fleet: Fleet, devices: Mapping[str, Sequence[int]] | None = None, *, timeout: float = TOOL_TIMEOUT
) -> HostResults[FoundHost]:
    """The devices of every host of the fleet, or of those in `devices`, with their addresses.

    `devices` are the ids to look at; left out, those of the inventory, and where it names none, all that
    the host has. One agent call per host; a second one for A3 ids, IPv6, and ids that nobody has written.
    """
    wanted = {name: [device.id for device in host.devices] for name, host in fleet.hosts.items()}
    wanted.update({name: list(ids) for name, ids in (devices or {}).items()})

    def work(session: Session) -> FoundHost:
        host, ids = fleet.hosts[session.host], wanted[session.host]
        answers = ask(session, first_calls(ids), host, timeout=timeout)
        if later := later_calls(ids, answers):
            answers |= ask(session, later, timeout=timeout)
        return find_devices(host, ids, answers)

    return fleet.each(work, devices)


def ask(
    session: Session, calls: Sequence[Call], host: Host | None = None, *, timeout: float = TOOL_TIMEOUT
) -> ToolAnswers:
    """Ask one host's tools; with `host`, its hccn.conf is read, too. `timeout` is for each call.

    Raises AgentError and TransportError; a tool that fails is an answer.
    """
    path = host.hccn_conf if host else ""
    # Should each call take all of its time.
    longest = 30.0 + timeout * (len(calls) / _PARALLEL + 1)
    data = session.call(
        "ask_tools",
        calls=calls,
        files=[path] if path else [],
        timeout=longest,
        tool_timeout=timeout,
        parallel=_PARALLEL,
    )
    return ToolAnswers.from_json(calls, path, data)
