"""The signatures of kernel logs: who was killed for want of memory; which processor, disk or device failed.

Wordings are those of Linux 4 to 6 and of Ascend's driver, as MindCluster's FaultDiag knows them
(component/ascend-faultdiag, kg-config.json, entries OS*).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.diagnosis.evidence import KernelLine

__all__ = ["KernelFault", "OomKill", "kernel_faults", "oom_kills"]


@dataclass(frozen=True, slots=True)
class OomKill:
    """The kernel killed a process for want of memory; `in_cgroup`: of its cgroup, and not of the host."""

    pid: int
    name: str
    in_cgroup: bool
    line: KernelLine


@dataclass(frozen=True, slots=True)
class KernelFault:
    """A fault that the kernel tells of, of one device or of one process where it says so."""

    kind: str
    line: KernelLine
    device: int | None = None
    pid: int | None = None
    name: str = ""


_KILLED = re.compile(
    r"(?P<cgroup>[Mm]emory cgroup )?[Oo]ut of memory: Kill(?:ed)? process (?P<pid>\d{1,9})"
    r"(?: \((?P<name>[^)]{0,64})\))?|"
    r"\boom-kill:constraint=(?P<memcg>CONSTRAINT_MEMCG\b)?.{0,400}?"
    r"\btask=(?P<task>[^,]{0,64}),pid=(?P<id>\d{1,9})"
)
_BLOCKED = re.compile(r"\btask (?P<name>\S{1,64}):(?P<pid>\d{1,9}) blocked for more than \d+ seconds")
_DEVICE = re.compile(r"\b(?:device|dev_?id|devid|logicDevid)[ =:\[(]{1,3}(\d{1,3})\b")
# What Ascend's driver says of a device that no longer answers.
_DEVICE_LOST = re.compile(
    r"\bHeartbeat lost!|\bDevice irq not resp|\bDevice is abnormal\b|\bpcivnic_net_timeout\b"
)
_HOST = re.compile(
    r"\bhard LOCKUP\b|\bself-detected stall on CPU\b|\bUE memory (?:scrubbing|read|write) error\b|"
    r"\bbegin to process userspace SEA exception\b|\bARM processor error\b|"
    r"\bUncorrected (?:hardware )?(?:memory )?error\b|"
    r"PCIe Bus Error: severity=Uncorrected|\bMachine [Cc]heck [Ee]xception\b|\bKernel panic\b|"
    r"\berror_type: 16\b"
)
_DISK = re.compile(
    r"\b(?:EXT[234]-fs|XFS|BTRFS) ?(?:\([^)]{0,40}\))?:? ?(?:error|critical|Corruption)|\bI/O error\b|"
    r"\bRemounting filesystem read-only\b|\bnfs: server \S{1,128} not responding\b"
)


def oom_kills(lines: Sequence[KernelLine]) -> tuple[OomKill, ...]:
    """Who was killed for want of memory, each process once."""
    found: dict[int, OomKill] = {}
    for line in lines:
        match = _KILLED.search(line.text[:2000])
        if match is not None:
            pid = int(match["pid"] or match["id"])
            in_cgroup = bool(match["cgroup"] or match["memcg"]) or (pid in found and found[pid].in_cgroup)
            found[pid] = OomKill(pid, match["name"] or match["task"] or "", in_cgroup, line)
    return tuple(found.values())


def kernel_faults(lines: Sequence[KernelLine]) -> Iterator[KernelFault]:
    """Every fault that can end or stop a process; errors that were corrected are none."""
    for line in lines:
        text = line.text[:2000]
        blocked = _BLOCKED.search(text)
        if blocked is not None:
            yield KernelFault("blocked_in_kernel", line, pid=int(blocked["pid"]), name=blocked["name"])
        elif "[ascend]" in text and _DEVICE_LOST.search(text):
            device = _DEVICE.search(text)
            yield KernelFault("device_lost", line, device=int(device[1]) if device is not None else None)
        elif _HOST.search(text):
            yield KernelFault("host_fault", line)
        elif _DISK.search(text):
            yield KernelFault("disk_fault", line)
