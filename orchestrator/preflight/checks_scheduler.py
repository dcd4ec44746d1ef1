"""At which IP address the workers of all hosts reach the scheduler, which runs on the first of them.

MindSpore takes no names, binds the scheduler to this very address, and before 2.10 takes IPv4 alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address

from orchestrator.agent.addresses import meanings
from orchestrator.core.host_answers import Addresses
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, HostResults
from orchestrator.plan.launch_plan import TABLE_ALONE
from orchestrator.preflight.host_facts import AddressFacts, Facts, Needs
from orchestrator.preflight.report import Level, Result
from orchestrator.rank_table.table import is_ip, is_loopback

__all__ = ["ask_addresses", "scheduler_address", "scheduler_is_reached"]

# More than a name has; a host's answer is cut to it.
_MOST = 32
_BROADCAST = ip_address("255.255.255.255")
_GIVE_IT = "give the address at which the others reach it as `address:`"


def ask_addresses(needs: Needs, fleet: Fleet, names: Iterable[str]) -> HostResults[AddressFacts]:
    """What the hosts among `names` say that matters for the scheduler's address; not all need be asked."""
    if not needs.scheduler:
        return HostResults({}, {})
    asked = [needs.master.name]
    if not is_ip(needs.scheduler[0]) or is_loopback(needs.scheduler[0]):
        asked = [host.name for host in needs.hosts]  # whether loopback serves depends on all of them
    here = {name: meanings(name) for name in needs.scheduler}
    among = set(names)
    return fleet.each(lambda agent: _ask(needs, agent, here), [name for name in asked if name in among])


def _ask(needs: Needs, agent: Agent, here: Mapping[str, list[str]]) -> AddressFacts:
    if agent.host != needs.master.name:
        return _facts(agent.addresses(), {})
    known = [address for listed in here.values() for address in listed]
    return _facts(agent.addresses(needs.scheduler, known), here)


def _facts(answer: Addresses, here: Mapping[str, list[str]]) -> AddressFacts:
    """A host's answer, of which nothing is believed but IP addresses and a short text."""
    candidates: list[str] = []
    for name, listed in here.items():
        candidates += [*_usable(answer.found.get(name, ())), *_usable(listed)]
    return AddressFacts(
        candidates=tuple(dict.fromkeys(candidates)),
        own=frozenset(_usable(answer.own)),
        network=answer.network[:200],
    )


def _usable(listed: Sequence[str]) -> list[str]:
    # One with a scope (fe80::1%eth0) means something on one host only.
    return [text for text in listed[:_MOST] if is_ip(text) and "%" not in text]


def scheduler_address(needs: Needs, facts: Facts) -> str | None:
    """The address to give to all workers; None where there is none, or no scheduler.

    An address of the inventory is taken as it is. Of what a name means, on the first host or here, an address
    of that host's own goes before others, a real one before a loopback, IPv4 before IPv6, and what the host
    says before what this machine says. Loopback serves only hosts that share their interfaces.
    """
    fact = facts.get(needs.master.name) if needs.scheduler else None
    if fact is None or fact.addresses is None:
        return None
    known = fact.addresses
    fitting = [address for address in known.candidates if _serves_all(address, needs, facts)]
    return min(fitting, key=lambda address: _rank(address, known), default=None)


def _serves_all(address: str, needs: Needs, facts: Facts) -> bool:
    means = ip_address(address)
    if means.is_link_local or means.is_unspecified or means.is_multicast or means == _BROADCAST:
        return False
    return not is_loopback(address) or len(needs.hosts) == 1 or _share_a_network(needs, facts)


def _share_a_network(needs: Needs, facts: Facts) -> bool:
    # A host that did not answer is told of by its own row.
    told = [fact.addresses.network for fact in facts.values() if fact.addresses is not None]
    if not all(told):
        return all(is_loopback(host.address) for host in needs.hosts)
    return len(set(told)) == 1


def _rank(address: str, known: AddressFacts) -> tuple[bool, bool, bool]:
    return address not in known.own, is_loopback(address), ":" in address


def scheduler_is_reached(needs: Needs, facts: Facts) -> Iterator[Result]:
    """The first host has an address at which the workers of all hosts find the scheduler."""
    master = needs.master.name
    if needs.by_table_alone:
        yield Result(master, Level.WARN, TABLE_ALONE, "use mode rank_table unless the program needs this one")
    elif not needs.scheduler:
        yield Result(master, Level.SKIP, "the job needs none" if needs.has_job else "no --job")
    elif master in facts and (known := facts[master].addresses) is not None:
        address = scheduler_address(needs, facts)
        yield _refusal(needs, known) if address is None else _verdict(needs, facts, address, known)


def _refusal(needs: Needs, known: AddressFacts) -> Result:
    name, master = needs.scheduler[0], needs.master.name
    means = ", ".join(known.candidates[:4])
    if not means:
        what = f"its name {name} means no address, neither there nor on this machine"
    else:
        shown = name if is_ip(name) else f"its name {name} means {means}"
        what = f"{shown}: of no use to the other hosts, which look for the scheduler there"
    return Result(master, Level.FAIL, what, _GIVE_IT)


def _verdict(needs: Needs, facts: Facts, address: str, known: AddressFacts) -> Result:
    master = needs.master.name
    if address not in known.own:
        what = f"the scheduler is to listen at {address}, which is no address of the host itself"
        return Result(master, Level.WARN, what, "give one of its own addresses as `address:`")
    if ":" in address and not _takes_ipv6(str(facts[master].probe.packages.get("mindspore"))):
        what = f"the scheduler's address is {address}; MindSpore takes IPv6 from 2.10 on"
        return Result(master, Level.WARN, what, "give its IPv4 address as `address:`")
    return Result(master, Level.OK, f"at {address}")


def _takes_ipv6(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (2, 10)
