"""Checks of the devices' own network: addresses, links, detection, TLS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from orchestrator.ascend.discovery import vnic_call
from orchestrator.ascend.hccn import (
    TlsSwitch,
    Vnic,
    parse_gateway,
    parse_link,
    parse_net_health,
    parse_netdetect,
    parse_tls,
    parse_vnic,
)
from orchestrator.ascend.tool_answers import hccn
from orchestrator.core.errors import ToolOutputError
from orchestrator.preflight.device_fabric import Fabric, fabric_of, kind_of
from orchestrator.preflight.host_facts import Facts, HostFacts, Needs
from orchestrator.preflight.report import Level, Result

__all__ = [
    "addresses_are_known",
    "gateways_are_set",
    "links_are_up",
    "netdetect_is_set",
    "networks_are_healthy",
    "tls_is_equal",
    "vnics_are_up",
]

T = TypeVar("T")
# Level, what, remedy of one device.
Verdict = tuple[Level, str, str]
# These are told once, by the check of the tools.
_TOLD_ELSEWHERE = ("missing", "denied")


def _each_device(
    needs: Needs,
    facts: Facts,
    command: str,
    parser: Callable[[str], T],
    judge: Callable[[T], Verdict],
    *,
    of_port: bool = True,
) -> Iterator[Result]:
    """Ask about every device, and fold those of a host that have the same verdict.

    `of_port`: it is about the RoCE port, and does not matter where that does not.
    """
    fabric = fabric_of(needs, facts)
    for host, fact in facts.items():
        verdicts: dict[Verdict, list[int]] = {}
        for device in needs.devices.get(host, ()):
            verdict = _verdict(fact, device, command, parser, judge)
            if of_port or not _is_answer(fact, device, command, parser):
                verdict = _spared(fabric, verdict)
            verdicts.setdefault(verdict, []).append(device)
        for (level, what, remedy), devices in verdicts.items():
            # A command to copy where it is about one device.
            number = str(devices[0]) if len(devices) == 1 else "N"
            told = () if what == fabric.spared else tuple(devices)
            yield Result(host, level, what, remedy.replace("{N}", number), told)


def _spared(fabric: Fabric, verdict: Verdict) -> Verdict:
    """What is left of a bad verdict where nothing goes over the port."""
    level, what, remedy = verdict
    if not fabric.spared or level is Level.OK:
        return verdict
    if Level.SKIP in (level, fabric.level):
        return Level.SKIP, fabric.spared, ""
    return Level.WARN, f"{what} ({fabric.spared})", remedy


def _verdict(
    fact: HostFacts, device: int, command: str, parser: Callable[[str], T], judge: Callable[[T], Verdict]
) -> Verdict:
    if fact.tools is None:
        return Level.SKIP, "hccn_tool was not asked", ""
    answer = fact.tools[hccn(device, command)]
    if answer.failure in _TOLD_ELSEWHERE:
        return Level.SKIP, "hccn_tool cannot be used", ""
    try:
        return judge(answer.read(parser))
    except ToolOutputError as error:
        level = Level.SKIP if answer.failure == "skipped" else Level.FAIL
        return level, error.what, error.remedy


def _is_answer(fact: HostFacts, device: int, command: str, parser: Callable[[str], T]) -> bool:
    try:
        return fact.tools is not None and fact.tools[hccn(device, command)].read(parser) is not None
    except ToolOutputError:
        return False


def links_are_up(needs: Needs, facts: Facts) -> Iterator[Result]:
    def judge(up: bool) -> Verdict:
        if up:
            return Level.OK, "up", ""
        return Level.FAIL, "link is DOWN", _MEND_LINK

    return _each_device(needs, facts, "-link", parse_link, judge)


def networks_are_healthy(needs: Needs, facts: Facts) -> Iterator[Result]:
    def judge(word: str) -> Verdict:
        if word == "Success":
            return Level.OK, "Success", ""
        if word == "Init":
            return Level.WARN, "net health is Init: no netdetect address is set", _SET_NETDETECT
        return Level.FAIL, f"net health is {word}", "check the switch port, VLAN, and the netdetect address"

    return _each_device(needs, facts, "-net_health", parse_net_health, judge)


_MEND_LINK = "check cable and optics (`hccn_tool -i {N} -optical -g`), then `hccn_tool -i {N} -cfg recovery`"
_SET_NETDETECT = "`hccn_tool -i {N} -netdetect -s address GATEWAY`"


def netdetect_is_set(needs: Needs, facts: Facts) -> Iterator[Result]:
    def judge(address: str | None) -> Verdict:
        if address is None:
            return Level.WARN, "no netdetect address is set", _SET_NETDETECT
        return Level.OK, "set", ""

    return _each_device(needs, facts, "-netdetect", parse_netdetect, judge)


def gateways_are_set(needs: Needs, facts: Facts) -> Iterator[Result]:
    """A device that has none cannot leave its segment; where all have none, all are in one segment."""
    none_at_all = not any(
        True
        for host, fact in facts.items()
        for device in needs.devices.get(host, ())
        if _verdict(fact, device, "-gateway", parse_gateway, _has)[0] is Level.OK
    )

    def judge(address: str | None) -> Verdict:
        if address is not None:
            return Level.OK, "set", ""
        if none_at_all:
            return Level.OK, "none, on any device", ""
        remedy = "`hccn_tool -i {N} -gateway -s gateway ADDRESS`, as on the others"
        return Level.FAIL, "no gateway is set, other devices have one", remedy

    return _each_device(needs, facts, "-gateway", parse_gateway, judge)


def _has(address: str | None) -> Verdict:
    return (Level.OK if address else Level.FAIL), "", ""


def tls_is_equal(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Devices that differ cannot connect (EI0016). Most of them decide what is meant; a tie is off."""
    switches: Counter[bool] = Counter()
    for host, fact in facts.items():
        for device in needs.devices.get(host, ()):
            try:
                if fact.tools is not None:
                    switches[fact.tools[hccn(device, "-tls")].read(parse_tls).on] += 1
            except ToolOutputError:
                continue
    usual = switches[True] > switches[False]

    def judge(tls: TlsSwitch) -> Verdict:
        if tls.on == usual:
            return Level.OK, "on" if usual else "off", ""
        is_on, others = ("on", "off") if tls.on else ("off", "on")
        remedy = f"`hccn_tool -i {{N}} -tls -s enable {int(usual)}`"
        return Level.FAIL, f"TLS is {is_on}, most devices have it {others}", remedy

    return _each_device(needs, facts, "-tls", parse_tls, judge, of_port=False)


def addresses_are_known(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Every device has an address of its own, and its sources agree."""
    fabric = fabric_of(needs, facts)
    owners: dict[str, list[tuple[str, int]]] = {}
    for host, fact in facts.items():
        for device in needs.devices.get(host, ()) if fact.found else ():
            if fact.found and (ip := fact.found.device(device).ip):
                owners.setdefault(ip, []).append((host, device))
    for host, fact in facts.items():
        if fact.found is None:
            yield Result(host, Level.SKIP, "no tool was asked")
            continue
        yield from _address_results(needs, host, fact, owners, fabric)


def _address_results(
    needs: Needs, host: str, fact: HostFacts, owners: dict[str, list[tuple[str, int]]], fabric: Fabric
) -> Iterator[Result]:
    assert fact.found is not None
    good: dict[str, list[int]] = {}
    bad: dict[Verdict, list[int]] = {}
    for device_id in needs.devices.get(host, ()):
        device = fact.found.device(device_id)
        if device.ip is None:
            verdict = _spared(fabric, (Level.FAIL, device.trouble, device.remedy))
            bad.setdefault(verdict, []).append(device_id)
        elif len(owners[device.ip]) > 1:
            other, number = next(owner for owner in owners[device.ip] if owner != (host, device_id))
            what = f"its IP {device.ip} is also that of {other} device {number}"
            remedy = f"`hccn_tool -i {device_id} -ip -s address A netmask M` on one of them"
            yield Result(host, Level.FAIL, what, remedy, (device_id,))
        else:
            good.setdefault(device.source, []).append(device_id)
    for (level, what, remedy), devices in bad.items():
        yield Result(host, level, what, remedy, () if what == fabric.spared else tuple(devices))
    for source, devices in good.items():
        yield Result(host, Level.OK, f"from {source}", "", tuple(devices))
    # Where an address is from is no news where none is needed.
    for warning in () if fabric.spared and fabric.level is Level.SKIP else fact.found.warnings:
        yield Result(host, Level.WARN, warning, "make them agree")


def vnics_are_up(needs: Needs, facts: Facts) -> Iterator[Result]:
    """An A3's ends of its super pod's network, which are there whether or not any RoCE port is cabled."""
    worst = Level.FAIL if fabric_of(needs, facts).hccs else Level.WARN

    def judge(vnic: Vnic) -> Verdict:
        if vnic.up and vnic.address:
            return Level.OK, "up", ""
        what = "the super pod's port is DOWN" if not vnic.up else "the super pod's port has no address"
        return worst, what, "see `hccn_tool -i {N} -vnic -g` on the host; restart it, or reset the device"

    for host, fact in facts.items():
        asked = [device for device in needs.devices.get(host, ()) if _was_asked(fact, device)]
        if kind_of(needs, host, fact) != "910_93" or not asked:
            yield Result(host, Level.SKIP, "in no super pod")
            continue
        verdicts: dict[Verdict, list[int]] = {}
        for device in asked:
            verdicts.setdefault(_verdict(fact, device, "-vnic", parse_vnic, judge), []).append(device)
        for (level, what, remedy), devices in verdicts.items():
            number = str(devices[0]) if len(devices) == 1 else "N"
            yield Result(host, level, what, remedy.replace("{N}", number), tuple(devices))


def _was_asked(fact: HostFacts, device: int) -> bool:
    return fact.tools is not None and vnic_call(device) in fact.tools
