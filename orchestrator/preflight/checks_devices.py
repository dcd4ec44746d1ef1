"""Checks of the devices: they are there, sound, and nobody else's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from orchestrator.ascend.discovery import info_of
from orchestrator.ascend.npu_smi import parse_ecc, parse_health
from orchestrator.ascend.npu_table import Chip, ChipProcess, parse_info
from orchestrator.ascend.tool_answers import hccn, smi
from orchestrator.core.errors import ToolOutputError
from orchestrator.preflight.device_fabric import fabric_of
from orchestrator.preflight.host_facts import Facts, HostFacts, Needs, ecc_call, health_call, npus_of
from orchestrator.preflight.report import Level, Result, agree, device_list

__all__ = ["chips_are_as_said", "devices_are_free", "devices_are_healthy", "memory_is_sound", "tools_answer"]

_NO_TABLE = "npu-smi gives no table"


def tools_answer(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Both tools are there and know the devices of the inventory."""
    some_have = any(fact.has_tools for fact in facts.values())
    ports_matter = not fabric_of(needs, facts).spared
    for host, fact in facts.items():
        troubles = list(_tool_troubles(needs, host, fact, some_have, ports_matter))
        yield from troubles or [Result(host, Level.OK, f"{len(needs.devices.get(host, ()))} devices")]


def _tool_troubles(
    needs: Needs, host: str, fact: HostFacts, some_have: bool, ports_matter: bool
) -> Iterator[Result]:
    ids = needs.devices.get(host, ())
    if fact.tools is None:
        return
    # Without it nothing is known but what the inventory says. That can be enough.
    addressed = fact.found is not None and all(fact.found.device(device).ip for device in ids)
    absent = Level.FAIL if some_have or not addressed else Level.WARN
    for device in ids[:1] if ports_matter else ():
        answer = fact.tools[hccn(device, "-ip")]
        if answer.failure in ("missing", "denied"):
            try:
                answer.read(str)
            except ToolOutputError as error:
                yield Result(host, absent, error.what, error.remedy)
    try:
        there = {chip.id for chip in fact.tools[smi()].read(parse_info).chips}
    except ToolOutputError as error:
        is_absent = fact.tools[smi()].failure in ("missing", "denied")
        yield Result(host, absent if is_absent else Level.FAIL, error.what, error.remedy)
        return
    if not_there := [device for device in ids if device not in there]:
        what = f"npu-smi lists only {device_list(sorted(there))}"
        yield Result(
            host, Level.FAIL, what, "correct `devices:`, or look for the device (lspci)", tuple(not_there)
        )


def _chips(needs: Needs, host: str, fact: HostFacts) -> list[Chip]:
    """The chips of the devices that are meant; none where there is no table."""
    info = info_of(fact.tools) if fact.tools else None
    ids = needs.devices.get(host, ())
    return [chip for chip in info.chips if chip.id in ids] if info else []


def chips_are_as_said(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Of the kind that the inventory names, by whose rules a rank table is made; one kind for all hosts."""
    kinds: dict[str, str | None] = {}
    for host, fact in facts.items():
        name = fact.found.chip if fact.found else None
        kinds[host] = fact.found.kind if fact.found else None
        said = needs.host(host).chip
        if said and kinds[host] and kinds[host] != said:
            what = f"its chip is {name} by npu-smi, {said} by the inventory"
            yield Result(host, Level.FAIL, what, f"correct `chip:`: {kinds[host]}")
    unknown = Result("", Level.SKIP, "npu-smi names no kind that is known")
    for result in agree("chip", kinds, "give a job hosts of one kind", unknown):
        is_bad = result.level is Level.FAIL and not needs.has_job
        # Without a job nobody has said that they are to work together.
        yield dataclasses.replace(result, level=Level.WARN) if is_bad else result


def devices_are_healthy(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        chips = _chips(needs, host, fact)
        sound = tuple(chip.id for chip in chips if chip.health == "OK")
        if sound:
            yield Result(host, Level.OK, "OK", "", sound)
        for chip in chips:
            if chip.health != "OK":
                yield _ill(host, fact, chip)
        if not chips:
            yield Result(host, Level.SKIP, _NO_TABLE)


def _ill(host: str, fact: HostFacts, chip: Chip) -> Result:
    codes = ""
    try:
        health = fact.tools[health_call(chip)].read(parse_health) if fact.tools else None
        codes = f" ({', '.join(health.codes)})" if health and health.codes else ""
    except ToolOutputError:
        pass  # the table has said that it is ill
    level = Level.WARN if chip.health == "Warning" else Level.FAIL
    where = f"-i {chip.npu}" + (f" -c {chip.chip}" if chip.by_chip else "")
    remedy = f"look the code up, reset it (`npu-smi set -t reset {where}`), or leave it out"
    return Result(host, level, f"health is {chip.health}{codes}", remedy, (chip.id,))


def memory_is_sound(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Double-bit errors since start cannot be corrected; pages that were put out of use are a warning."""
    for host, fact in facts.items():
        ids = {(chip.npu, chip.chip): chip.id for chip in _chips(needs, host, fact)}
        sound = []
        for npu in npus_of(fact):
            try:
                counts = fact.tools[ecc_call(npu)].read(parse_ecc) if fact.tools else ()
            except ToolOutputError as error:
                yield Result(host, Level.WARN, error.what, error.remedy, (npu,))
                continue
            for ecc in counts:
                device = ids.get((npu, ecc.chip))
                if device is None:
                    continue
                if ecc.double_bit:
                    what = f"{ecc.double_bit} double-bit memory errors"
                    yield Result(
                        host, Level.FAIL, what, "reset the device; if they come back, replace it", (device,)
                    )
                elif ecc.isolated_pages:
                    what = f"{ecc.isolated_pages} memory pages are out of use"
                    yield Result(host, Level.WARN, what, "have the device looked at", (device,))
                else:
                    sound.append(device)
        if sound:
            yield Result(host, Level.OK, "no errors", "", tuple(sound))
        elif not ids:
            yield Result(host, Level.SKIP, _NO_TABLE)


def devices_are_free(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Neither held by a run of ours nor used by any process."""
    for host, fact in facts.items():
        locked = tuple(fact.probe.busy_devices)
        if locked:
            yield Result(host, Level.FAIL, "in use by another run", "see `orchestrate runs`", locked)
        ids = needs.devices.get(host, ())
        info = info_of(fact.tools) if fact.tools else None
        used = [each for each in info.processes if each.id in ids and each.id not in locked] if info else []
        yield from (_used(host, each) for each in used)
        if fact.has_tools and info is None:
            # Not seeing is not knowing: only our own runs are known not to hold any.
            yield Result(host, Level.SKIP, _NO_TABLE)
        elif not locked and not used:
            yield Result(host, Level.OK)


def _used(host: str, process: ChipProcess) -> Result:
    """A container's process, of which the host's number is not told, ends with its container."""
    if process.pid is None:
        remedy = "end its container, or use other devices"
        return Result(host, Level.FAIL, f"in use by a process ({process.name})", remedy, (process.id,))
    remedy = f"end it there (`kill {process.pid}`), or use other devices"
    what = f"in use by process {process.pid} ({process.name})"
    return Result(host, Level.FAIL, what, remedy, (process.id,))
