"""What the fault codes of devices ask for when an attempt has ended: the same device again, another, no more.

Levels and repeats are those of `diagnosis/device_codes`, which are MindCluster's. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.control.decisions import DeviceFault, Level
from orchestrator.diagnosis import device_codes
from orchestrator.diagnosis.device_codes import PORT_DOWN, level_together, plain, repeats_of
from orchestrator.diagnosis.evidence import DeviceHealth, HostEvidence

__all__ = ["asked_by", "counted", "faults_in", "faults_of"]

_ASKED = {
    device_codes.Level.NOTED: Level.NOTED,
    device_codes.Level.SUB_HEALTHY: Level.NOTED,
    device_codes.Level.REQUEST: Level.AGAIN,
    device_codes.Level.RUN: Level.AGAIN,
    device_codes.Level.FREE_RESET: Level.OTHER_DEVICE,
    device_codes.Level.RESET: Level.OTHER_DEVICE,
    device_codes.Level.AVOID: Level.OTHER_DEVICE,
    device_codes.Level.REPLACE: Level.DRAIN,
}
# What several devices of a job tell within so many seconds is not their hardware's.
_TOGETHER = 30.0


def faults_of(host: str, devices: Iterable[DeviceHealth], now: float) -> tuple[DeviceFault, ...]:
    """The faults that a host's devices tell, each code of each device once.

    One in alarm without a code, or with one that nobody knows, is not used before somebody has looked at it.
    """
    found: dict[tuple[int, str], DeviceFault] = {}
    for device in devices:
        codes = [plain(code) for code in device.codes]
        for code in codes or ([""] if device_codes.is_bad(device) else []):
            level = _level_of(code, codes, is_bad=device_codes.is_bad(device))
            found[device.device, code] = DeviceFault(host, device.device, code, level, time=now)
    return tuple(found.values())


def faults_in(hosts: Mapping[str, HostEvidence], now: float) -> tuple[DeviceFault, ...]:
    """The faults that the devices of all hosts tell, as `gather_evidence` has them."""
    return tuple(fault for name, host in hosts.items() for fault in faults_of(name, host.devices, now))


def _level_of(code: str, others: Sequence[str], *, is_bad: bool) -> Level:
    known = level_together(code, others) if code else None
    if known is None:
        return Level.OTHER_DEVICE if is_bad else Level.NOTED
    # A port that is down now: links cannot be made until it is up again.
    return max(_ASKED[known], Level.AGAIN) if code == PORT_DOWN else _ASKED[known]


def counted(faults: Sequence[DeviceFault], history: Sequence[DeviceFault]) -> tuple[DeviceFault, ...]:
    """The faults with how often each came before on its device, within the window of its code.

    What several devices told at once counts nowhere: it was no fault of their hardware.
    """
    alone = [each for each in history if not _is_common(each, history)]
    return tuple(
        each if _is_common(each, faults) else dataclasses.replace(each, repeats=_before(each, alone))
        for each in faults
    )


def _is_common(fault: DeviceFault, told: Sequence[DeviceFault]) -> bool:
    """Whether another device told of the same within a short time."""
    return any(
        other.code == fault.code
        and (other.host, other.device) != (fault.host, fault.device)
        and abs(other.time - fault.time) <= _TOGETHER
        for other in told
    )


def _before(fault: DeviceFault, history: Sequence[DeviceFault]) -> int:
    rule = repeats_of(fault.code)
    place = (fault.host, fault.device, fault.code)
    return sum(
        rule is not None
        and (each.host, each.device, each.code) == place
        and 0 <= fault.time - each.time <= rule.window
        for each in history
    )


def asked_by(fault: DeviceFault) -> DeviceFault:
    """The fault at the level that it asks for by how often it has come.

    `released` is when its device may be used again, where the code's rule says so.
    """
    rule = repeats_of(fault.code)
    if rule is None or fault.repeats + 1 < rule.times:
        return fault
    released = None if rule.released is None else fault.time + rule.released
    level = max(fault.level, Level.OTHER_DEVICE)
    return dataclasses.replace(fault, level=level, released=None if level > Level.OTHER_DEVICE else released)
