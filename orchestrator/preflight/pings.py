"""Which devices ping which, and what the answers say about single devices."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from orchestrator.ascend.found_devices import FoundDevice
from orchestrator.ascend.hccn import parse_ping
from orchestrator.ascend.tool_answers import Call, hccn
from orchestrator.config.host_ranges import fold
from orchestrator.core.errors import ToolOutputError
from orchestrator.preflight.device_fabric import fabric_of
from orchestrator.preflight.host_facts import Facts, HostFacts, Needs, Pings, PingTry
from orchestrator.preflight.report import Level, Result

__all__ = ["RING_ABOVE", "Target", "devices_reach_each_other", "pairs_of", "targets"]

# Above so many hosts the number of pairs grows out of hand, and each host pings only the next one.
RING_ABOVE = 16
_REMEDY = "check the device's cable, switch port and VLAN, and that both are in one segment or have gateways"

# A host, one of its devices.
End = tuple[str, int]


def pairs_of(hosts: Sequence[str], pings: Pings) -> list[tuple[str, str]]:
    """The pairs of hosts whose devices ping each other; a ping goes there and back, so each pair once.

    The one that asks alternates, so that all hosts have equally much to ask.
    """
    if pings == "none" or len(hosts) < 2:
        return []
    if pings == "ring":
        ring = [(host, hosts[(index + 1) % len(hosts)]) for index, host in enumerate(hosts)]
        return ring[:1] if len(hosts) == 2 else ring
    return [
        (hosts[first], hosts[second]) if (first + second) % 2 else (hosts[second], hosts[first])
        for first in range(len(hosts))
        for second in range(first + 1, len(hosts))
    ]


class Target(NamedTuple):
    """A device of a host, a peer, and where the peer's device of the same number is reached."""

    device: int
    peer: str
    address: str
    hccs: bool = False

    @property
    def call(self) -> Call:
        """hccn_tool has a command of its own for the network of a super pod."""
        return hccn(self.device, "-hccs_ping" if self.hccs else "-ping", "address", self.address)


def targets(needs: Needs, facts: Facts) -> dict[str, list[Target]]:
    """What every host that pings is to reach: in a super pod over its network, within a host nothing."""
    there = [host for host, fact in facts.items() if fact.has_tools and fact.found]
    found: dict[str, list[Target]] = {}
    fabric = fabric_of(needs, facts)
    if fabric.spared and not fabric.hccs:
        return found
    for host, peer in pairs_of(there, needs.pings):
        if not _can_ping(facts[host]):
            host, peer = peer, host
        if not _can_ping(facts[host]):
            continue
        peers = set(needs.devices.get(peer, ()))
        for device in needs.devices.get(host, ()):
            own, other = facts[host].found, facts[peer].found
            if own is None or other is None or device not in peers:
                continue
            mine, address = _ends(own.device(device), other.device(device), hccs=fabric.hccs)
            if mine and address:
                found.setdefault(host, []).append(Target(device, peer, address, fabric.hccs))
    return found


def _ends(own: FoundDevice, other: FoundDevice, *, hccs: bool) -> tuple[str | None, str | None]:
    return (own.vnic, other.vnic) if hccs else (own.ip, other.ip)


def _can_ping(fact: HostFacts) -> bool:
    return fact.tools is not None and fact.tools.has_tool("hccn_tool")


def devices_reach_each_other(needs: Needs, facts: Facts) -> Iterator[Result]:
    """A device that no ping gets to or from is named once; else the two that do not reach each other."""
    tried: Counter[End] = Counter()
    failed: dict[tuple[End, End], tuple[str, str]] = {}
    for host, fact in facts.items():
        for each in fact.pings:
            ends = ((host, each.device), (each.peer, each.device))
            tried.update(ends)
            if trouble := _trouble(each):
                failed[ends] = trouble
    guilty = _guilty(tried, failed)
    blamed: dict[str, list[Result]] = defaultdict(list)
    for (host, device), pairs in guilty.items():
        peers = fold({end[0] for pair in pairs for end in pair if end != (host, device)})
        what, remedy = failed[pairs[0]]
        what = f"no ping gets through to or from {peers}: {what}"
        blamed[host].append(Result(host, Level.FAIL, what, remedy, (device,)))
        for pair in pairs:
            del failed[pair]
    for ((host, device), (peer, _)), (what, remedy) in failed.items():
        blamed[host].append(Result(host, Level.FAIL, f"cannot reach {peer}'s: {what}", remedy, (device,)))
    pinged = _devices_of(tried)
    for host in facts:
        sound = tuple(sorted(pinged.get(host, set()) - {each.devices[0] for each in blamed[host]}))
        yield from blamed[host]
        if sound:
            yield Result(
                host, Level.OK, "reach all others" if needs.pings == "pairs" else "reach the next", "", sound
            )
        elif not blamed[host]:
            yield Result(host, Level.SKIP, "nothing to ping" if needs.pings != "none" else "not asked for")


def _devices_of(ends: Iterable[End]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for host, device in ends:
        found.setdefault(host, set()).add(device)
    return found


def _trouble(each: PingTry) -> tuple[str, str] | None:
    """What and remedy of a ping that did not get through."""
    try:
        ping = each.answer.read(parse_ping)
    except ToolOutputError as error:
        return error.what, error.remedy
    return (
        None
        if ping.ok
        else (f"{ping.received} of {ping.sent} packets came back from {each.address}", _REMEDY)
    )


def _guilty(
    tried: Counter[End], failed: dict[tuple[End, End], tuple[str, str]]
) -> dict[End, list[tuple[End, End]]]:
    """The devices all of whose pings fail, if there were several; those with the most come first."""
    guilty: dict[End, list[tuple[End, End]]] = {}
    left = dict.fromkeys(failed)
    while left:
        counts = Counter(end for pair in left for end in pair)
        # The hosts that are left have one ping less to each that is already guilty.
        whole = {
            end: count
            for end, count in counts.items()
            if count >= 2 and count + _shared(end, guilty) == tried[end]
        }
        if not whole:
            return guilty
        worst = max(whole, key=lambda end: whole[end])
        guilty[worst] = [pair for pair in left if worst in pair]
        left = {pair: None for pair in left if worst not in pair}
    return guilty


def _shared(end: End, guilty: dict[End, list[tuple[End, End]]]) -> int:
    return sum(end in pair for pairs in guilty.values() for pair in pairs)
