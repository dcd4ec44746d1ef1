"""The facts of all hosts at once, over a fleet: two or more questions to each host's agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from orchestrator.ascend.discovery import TOOL_TIMEOUT, ask, find_devices
from orchestrator.ascend.tool_answers import ToolAnswers
from orchestrator.config.container import seen_at, spec_of
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.config.yaml_messages import plain
from orchestrator.core.codec import to_json
from orchestrator.core.errors import AgentError, OrchestrateError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.fleet import Fleet, HostResults, fleet_of
from orchestrator.hosts.scheduling import Scheduling
from orchestrator.preflight.checks import run_checks
from orchestrator.preflight.checks_host import MOST_SKEW, wanted_ports
from orchestrator.preflight.checks_scheduler import ask_addresses, scheduler_address
from orchestrator.preflight.copy_tries import try_copies
from orchestrator.preflight.host_facts import (
    Facts,
    HostFacts,
    Needs,
    PingTry,
    first_questions,
    later_questions,
)
from orchestrator.preflight.pings import Target, targets
from orchestrator.preflight.report import Report
from orchestrator.rank_table.table import is_ip

__all__ = [
    "gather",
    "look",
    "look_at_hosts",
    "look_between",
]

# What a host may take for its answer beside the workers' environment: an ill name server, a slow disk.
_REST = 40.0
# For a script that sets an environment, which takes about a second, on a slow network disk too.
_PATIENCE = 20.0


def gather(
    needs: Needs,
    fleet: Fleet,
    *,
    timeout: float = TOOL_TIMEOUT,
    patience: float = _PATIENCE,
    seen: Callable[[str], None] | None = None,
) -> tuple[dict[str, HostFacts], dict[str, OrchestrateError]]:
    """The facts of the hosts that answer, the errors of the others. `timeout` is for one call of a tool.

    `patience` is for a host's `env_script`; the host is waited for longer, so that it can say that it hangs.
    `seen` is told the name of every host that has answered, from the thread that asked it.
    """
    looked = look(needs, fleet, timeout=timeout, patience=patience, seen=seen)
    return look_between(needs, fleet, looked, timeout=timeout)


def look_between(
    needs: Needs, fleet: Fleet, looked: HostResults[HostFacts], *, timeout: float = TOOL_TIMEOUT
) -> tuple[dict[str, HostFacts], dict[str, OrchestrateError]]:
    """As `gather`, where each host has been `looked` at by itself: what they tell of each other is added."""
    facts = {host.name: looked.values[host.name] for host in needs.hosts if host.name in looked.values}
    errors = dict(looked.errors)
    addresses = ask_addresses(needs, fleet, facts)
    errors.update(addresses.errors)
    facts = {
        name: dataclasses.replace(fact, addresses=addresses.values.get(name)) for name, fact in facts.items()
    }
    ports = _ask_port(needs, fleet, facts)
    errors.update(ports.errors)
    asked = targets(needs, facts)
    pings = fleet.each(lambda agent: _ping(asked[agent.host], agent, timeout), asked)
    errors.update(pings.errors)
    copies = try_copies(needs, fleet, facts)
    errors.update(copies.errors)
    return (
        {
            name: dataclasses.replace(
                fact,
                pings=pings.values.get(name, ()),
                port_trouble=ports.values.get(name, ""),
                copies=copies.values.get(name),
            )
            for name, fact in facts.items()
            if name not in errors
        },
        errors,
    )


def look(
    needs: Needs,
    fleet: Fleet,
    *,
    timeout: float = TOOL_TIMEOUT,
    patience: float = _PATIENCE,
    seen: Callable[[str], None] | None = None,
    hosts: Iterable[str] | None = None,
    all_devices: bool = False,
) -> HostResults[HostFacts]:
    """What each host tells by itself, as for `gather`; only of `hosts`, where they are named.

    With `all_devices`, which of all its devices are held, and not only of those that are needed.
    """

    def one(agent: Agent) -> HostFacts:
        host, ids = needs.host(agent.host), needs.devices.get(agent.host, ())
        held = [device.id for device in host.devices] if all_devices else ids
        found = _look(needs, host, held, agent, fleet.scheduling, timeout, patience)
        if seen is not None:
            seen(agent.host)
        return found

    return fleet.each(one, hosts)


def _look(
    needs: Needs,
    host: Host,
    held: Sequence[int],
    agent: Agent,
    scheduling: Scheduling,
    timeout: float,
    patience: float,
) -> HostFacts:
    tools = None if needs.ascend is False else _ask(needs, host, agent, timeout)
    is_ascend = needs.ascend or (tools is not None and _has_any(tools))
    before = scheduling.time()
    probe = agent.probe(
        timeout=patience + _REST,
        patience=patience,
        devices=held,
        lock_dir=host.lock_dir,
        env_script=host.env_script,
        packages=needs.packages,
        paths=[
            path if host.container is None else seen_at(host.container, path) or path for path in needs.paths
        ],
        port_on=_port_on(needs) if needs.chooses_port and host.name == needs.master.name else None,
        ascend=bool(is_ascend),
        address=host.address,
        ports=wanted_ports(needs, host.name, bool(is_ascend)),
        env=dict(needs.env),
        **({"kept_for": needs.kept_for} if needs.kept_for else {}),
        **_container(host, bool(is_ascend)),
    )
    ahead = _clock_ahead(agent, ClockOffset.of(before, probe.clock, scheduling.time()), scheduling)
    ids = needs.devices.get(host.name, ())
    found = find_devices(host, ids, tools) if tools is not None else None
    return HostFacts(probe, ahead, tools, found)


def _container(host: Host, ascend: bool) -> dict[str, Any]:
    """What the host is to look into, where workers run in a container."""
    if host.container is None or host.container.image is None:
        return {}
    return {"container": to_json(spec_of(host.container, ascend=ascend, hccn_conf=host.hccn_conf))}


def _port_on(needs: Needs) -> str:
    """The address on which a port must be free; all of them where only a name is known."""
    names = needs.scheduler
    return names[0] if names and is_ip(names[0]) else ""


def _ask_port(needs: Needs, fleet: Fleet, facts: Facts) -> HostResults[str]:
    """Why the scheduler cannot have its fixed port, asked as the launch does: at the very address.

    The table of ports that a host tells before does not know that address, nor whether it is a loopback's.
    """
    address = scheduler_address(needs, facts)
    if needs.port is None or address is None:
        return HostResults({}, {})
    return fleet.each(lambda agent: _port_trouble(agent, address, needs.port), [needs.master.name])


def _port_trouble(agent: Agent, address: str, port: int | None) -> str:
    try:
        agent.require_port(address, port)
    except AgentError as error:
        if error.kind != "port_in_use":
            raise
        return plain(error.what)
    return ""


def _has_any(tools: ToolAnswers) -> bool:
    return tools.has_tool("hccn_tool") or tools.has_tool("npu-smi")


def _clock_ahead(agent: Agent, probed: ClockOffset, scheduling: Scheduling) -> float:
    """By how much the host's clock is ahead, as little as what we measure allows.

    What its probe tells is enough where that cannot be much; else the host is asked for its time alone.
    """
    if probed.at_most() <= MOST_SKEW:
        return probed.at_least()
    before = scheduling.time()
    there = agent.clock()
    return ClockOffset.of(before, there, scheduling.time()).at_least()


def _ask(needs: Needs, host: Host, agent: Agent, timeout: float) -> ToolAnswers:
    ids = needs.devices.get(host.name, ())
    answers = ask(agent, first_questions(ids), host, timeout=timeout)
    if later := later_questions(ids, answers):
        answers |= ask(agent, later, timeout=timeout)
    return answers


def _ping(wanted: list[Target], agent: Agent, timeout: float) -> tuple[PingTry, ...]:
    answers = ask(agent, [target.call for target in wanted], timeout=2 * timeout)
    return tuple(
        PingTry(target.device, target.peer, target.address, answers[target.call]) for target in wanted
    )


def look_at_hosts(needs: Needs, options: SshOptions, seen: Callable[[str], None] | None = None) -> Report:
    """Check the hosts of `needs`, over connections of its own. Those that do not answer are rows of it.

    `seen` as for `gather`.
    """
    with fleet_of(needs.hosts, options) as fleet:
        facts, errors = gather(needs, fleet, seen=seen)
    return run_checks(needs, facts, errors)
