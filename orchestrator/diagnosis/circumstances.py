"""The circumstances of a failure: faults of devices, of kernels and of disks that touch a run. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from orchestrator.core.states import RankState
from orchestrator.diagnosis.device_codes import fault_of
from orchestrator.diagnosis.evidence import Certainty, Culprit, DiskRoom, HostEvidence, Proof
from orchestrator.diagnosis.finding import Finding
from orchestrator.diagnosis.kernel_signatures import KernelFault
from orchestrator.diagnosis.scene import Scene

__all__ = ["disk_proof", "faults_around", "full_disks", "fullest_disk", "kernel_proof", "with_device_fault"]


# Disks.

_LEAST_FREE = 16 * 1024 * 1024


def _is_full(disk: DiskRoom) -> bool:
    return disk.total > 0 and (disk.free < min(_LEAST_FREE, disk.total // 100) or disk.free_inodes == 0)


def _is_image(disk: DiskRoom) -> bool:
    """An image of a package is always full."""
    return disk.path.startswith(("/snap/", "/rofs", "/cdrom")) or disk.path.startswith("/dev/shm")


def full_disks(host: HostEvidence) -> list[DiskRoom]:
    """Those on which nothing can be written; images of packages and shared memory are not among them."""
    return [disk for disk in host.disks if _is_full(disk) and not _is_image(disk)]


def fullest_disk(host: HostEvidence, text: str, in_memory: bool) -> DiskRoom | None:
    disks = [disk for disk in host.disks if disk.path.startswith("/dev/shm") == in_memory]
    named = [disk for disk in disks if disk.path in text]
    full = [disk for disk in disks if _is_full(disk) and (in_memory or not _is_image(disk))]
    longest = sorted(named, key=lambda disk: -len(disk.path))
    return next(iter([*longest, *full, *disks]), None)


def disk_proof(host: str, disk: DiskRoom) -> Proof:
    inodes = "" if disk.free_inodes is None else f", {disk.free_inodes} inodes free"
    return Proof(host, None, "disk", f"{disk.path}: {_size(disk.free)} of {_size(disk.total)} free{inodes}")


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 10**9 else f"{nbytes / 1e6:,.1f} MB"


# Devices and kernels.


def faults_around(scene: Scene) -> list[Finding]:
    """Faults of devices that the run uses, and what kernels tell of its processes and hosts."""
    found = list(_device_faults(scene))
    for name in scene.case.hosts:
        for fault in scene.faults[name]:
            finding = _of_fault(scene, name, fault)
            if finding is not None and all(finding.culprit != other.culprit for other in found):
                found.append(finding)
    return found


def _device_faults(scene: Scene) -> Iterator[Finding]:
    for name, host in scene.case.hosts.items():
        for device in host.devices:
            fault = fault_of(device)
            rank = scene.by_place.get((name, device.device))
            if fault is None or rank is None or scene.ranks[rank].state is RankState.SUCCEEDED:
                continue
            text = " ".join(filter(None, [device.status, *device.codes, device.text]))
            proof = Proof(name, rank, "npu-smi", f"device {device.device}: {text}")
            kind, code = fault
            certainty = Certainty.LIKELY if kind == "network_port_down" else Certainty.SURE
            culprit = Culprit(name, rank, device.device)
            yield Finding(kind, culprit, (proof,), certainty=certainty, code=code)


def _of_fault(scene: Scene, host: str, fault: KernelFault) -> Finding | None:
    """A kernel's fault, where it touches a rank: its device or process, or a host that has gone quiet."""
    ranks = scene.by_host[host]
    proofs = (kernel_proof(host, fault),)
    if fault.device is not None:
        rank = scene.by_place.get((host, fault.device))
        return None if rank is None else Finding(fault.kind, scene.culprit(rank), proofs)
    own = [rank.rank for rank in ranks if fault.pid is not None and rank.pid == fault.pid]
    if own:
        return Finding(fault.kind, scene.culprit(own[0]), proofs)
    is_quiet = any(rank.rank in scene.silent or scene.told[rank.rank].meaning is None for rank in ranks)
    if not is_quiet or (fault.kind == "blocked_in_kernel" and not fault.name.startswith("python")):
        return None
    return Finding(fault.kind, Culprit(host), proofs, certainty=Certainty.LIKELY)


def kernel_proof(host: str, fault: KernelFault) -> Proof:
    return Proof(host, None, "kernel", fault.line.text.strip())


# Kinds of a rank's failure that a fault of its device explains.
_EXPLAINED = frozenset(
    [
        "device_task_failed",
        "device_lost",
        "device_unavailable",
        "device_memory_fault",
        "crashed",
        "exited",
        "rank_stuck",
        "rank_lost",
        "rank_missing",
        "rank_late",
        "link_fault",
        "network_port_down",
    ]
)


def with_device_fault(scene: Scene, finding: Finding) -> Finding:
    """The finding, as what its device or that device's health says of it."""
    if finding.culprit is None or finding.kind not in _EXPLAINED:
        return finding
    same = (finding.culprit.host, finding.culprit.device)
    for fault in faults_around(scene):
        place = fault.culprit
        if place is None or place.device is None or (place.host, place.device) != same:
            continue
        is_finer = fault.kind != "device_fault" or finding.kind != "device_memory_fault"
        kind = fault.kind if is_finer else finding.kind
        return dataclasses.replace(
            finding, kind=kind, proofs=(*fault.proofs, *finding.proofs), code=fault.code or finding.code
        )
    return finding
