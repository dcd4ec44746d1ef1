"""Findings: what can be the cause by itself, of ranks that failed, of hosts, devices and kernels. Pure.

A finding has a time, give or take an error; two of the same host are told apart by its clock alone.
"""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.core.ends import EndKind
from orchestrator.core.log_signatures import Meaning
from orchestrator.core.states import RankState
from orchestrator.diagnosis.device_codes import fault_of
from orchestrator.diagnosis.evidence import Certainty, Culprit, DiskRoom, HostEvidence, Proof, RankEvidence
from orchestrator.diagnosis.kernel_signatures import KernelFault, OomKill, kernel_faults, oom_kills
from orchestrator.diagnosis.scene import Scene, Told, code_in, ended_by, lines_of

__all__ = [
    "Finding",
    "Weight",
    "culprits_of",
    "doubted",
    "earliest",
    "faults_around",
    "first_of",
    "host_losses",
    "own_failures",
    "place_of",
    "rank_of",
    "with_device_fault",
]


class Weight:
    """How much an own failure says: the lower, the more."""

    PLAIN = 0  # its kernel, its log or a signal says outright what happened
    SOFT = 1  # it says so, but it may follow from another's failure
    VAGUE = 2  # it ended, and nothing says why


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that can be the cause. `culprit` is None where it is one of the `suspects`."""

    kind: str
    culprit: Culprit | None
    proofs: tuple[Proof, ...] = ()
    time: float | None = None
    error: float = 0.0
    weight: int = Weight.PLAIN
    certainty: Certainty = Certainty.SURE
    suspects: tuple[Culprit, ...] = ()
    code: str = ""

    def is_before(self, other: Finding) -> bool:
        """Whether it surely was earlier, as far as the clocks are known."""
        if self.time is None or other.time is None:
            return False
        is_one_clock = (
            self.culprit is not None and other.culprit is not None and self.culprit.host == other.culprit.host
        )
        return other.time - self.time > (0.0 if is_one_clock else self.error + other.error)


def earliest(findings: Sequence[Finding]) -> list[Finding]:
    """Those of which none was surely before."""
    # Of a host whose clock is one only the first count, so that this takes hosts and not ranks squared.
    firsts: dict[str, float] = {}
    for each in findings:
        if each.culprit is not None and each.time is not None:
            firsts[each.culprit.host] = min(each.time, firsts.get(each.culprit.host, each.time))
    near = [each for each in findings if each.time is None or each.culprit is None or each.time <= firsts[each.culprit.host]]
    leaders = list({(each.culprit.host, each.time): each for each in near if each.culprit is not None}.values())
    return [each for each in near if not any(other.is_before(each) for other in leaders)]


def rank_of(found: Finding) -> int:
    assert found.culprit is not None and found.culprit.rank is not None
    return found.culprit.rank


def first_of(findings: Sequence[Finding]) -> Finding | None:
    """The earliest. Several that may be the earliest, of which none says more: suspects, and nobody is named,
    unless they say the same: what fails alike everywhere has one cause."""
    near = earliest(findings)
    if not near:
        return None
    first = min(near, key=lambda each: (each.time is None, each.time or 0.0, place_of(each.culprit)))
    if len(near) == 1:
        return first
    others = [each for each in near if each is not first]
    if all(each.kind == first.kind and _text(each) == _text(first) for each in others) and _text(first):
        return dataclasses.replace(first, suspects=culprits_of(others))
    if len({each.culprit.host for each in near if each.culprit is not None}) == 1:
        return dataclasses.replace(doubted(first), suspects=culprits_of(others))
    kinds = {each.kind for each in near}
    return Finding(
        kinds.pop() if len(kinds) == 1 else "unknown",
        None,
        tuple(proof for each in near for proof in each.proofs),
        certainty=Certainty.UNKNOWN,
        suspects=culprits_of(near),
    )


def place_of(culprit: Culprit | None) -> tuple[int, str]:
    return (-1, "") if culprit is None else (-1 if culprit.rank is None else culprit.rank, culprit.host)


def _text(found: Finding) -> str:
    """What it says, without its numbers; empty where it is only an end."""
    said = [proof.text for proof in found.proofs if proof.source != "end"]
    return re.sub(r"[\d.:]+", "", said[0]) if said else ""


def culprits_of(findings: Sequence[Finding]) -> tuple[Culprit, ...]:
    return tuple(each.culprit for each in findings if each.culprit is not None)


def doubted(found: Finding) -> Finding:
    return dataclasses.replace(found, certainty=Certainty.LIKELY) if found.certainty is Certainty.SURE else found


# Ranks.


def own_failures(scene: Scene) -> list[Finding]:
    """Every rank, and the scheduler, that failed by itself by all that is known of it; victims are left out."""
    return [found for rank in scene.ranks.values() if (found := _own(scene, rank)) is not None]


def _own(scene: Scene, rank: RankEvidence) -> Finding | None:
    if rank.state is not RankState.FAILED:
        return None
    told = scene.told[rank.rank]
    host = scene.host(rank.host)
    found = _killed_for_memory(scene, rank, host) or _said(scene, rank, told)
    if found is None and ended_by(rank) == signal.SIGKILL:
        found = _killed(scene, rank, host)
    if found is None and told.meaning is None:
        found = _without_a_word(scene, rank)
    if found is None and scene.is_alone and told.line is not None:
        found = _finding(scene, rank, "exited", told.line.text, Weight.VAGUE, told)
    return found


def _said(scene: Scene, rank: RankEvidence, told: Told) -> Finding | None:
    """What it says outright of itself."""
    if rank.end is not None and rank.end.kind is EndKind.NOT_STARTED:
        return _finding(scene, rank, "not_started", "", Weight.PLAIN, Told(None))
    if told.row is None or told.line is None or told.meaning is not Meaning.CULPRIT:
        return None
    weight = Weight.SOFT if told.row.is_soft else Weight.PLAIN
    found = _finding(scene, rank, told.row.kind, told.line.text, weight, told)
    if told.row.kind in ("disk_full", "shared_memory_full"):
        disk = _fullest(scene.host(rank.host), told.line.text, told.row.kind == "shared_memory_full")
        return found if disk is None else dataclasses.replace(found, proofs=(*found.proofs, _of_disk(rank.host, disk)))
    return found


def _finding(scene: Scene, rank: RankEvidence, kind: str, text: str, weight: int, told: Told) -> Finding:
    proofs = scene.proof(rank.rank, told.line)
    time = rank.time if told.time is None else told.time
    return Finding(
        kind, scene.culprit(rank.rank), proofs, time, rank.error, weight=weight, code=code_in(text)
    )


def _killed_for_memory(scene: Scene, rank: RankEvidence, host: HostEvidence) -> Finding | None:
    """Its process, or one of its own of which its log tells, was killed by the kernel for want of memory."""
    kills = oom_kills(host.kernel)
    own = [kill for kill in kills if kill.pid == rank.pid and ended_by(rank) in (signal.SIGKILL, None)]
    if not own and kills:
        text = "\n".join(line.text for line in lines_of(rank) if "pid" in line.text)
        own = [kill for kill in kills if f"pid {kill.pid})" in text or f"pid={kill.pid}" in text]
    return _memory_finding(scene, rank, own[0], Certainty.SURE) if own else None


def _memory_finding(scene: Scene, rank: RankEvidence, kill: OomKill, certainty: Certainty) -> Finding:
    kind = "cgroup_out_of_memory" if kill.in_cgroup else "host_out_of_memory"
    proof = Proof(rank.host, rank.rank, "kernel", kill.line.text.strip())
    culprit = scene.culprit(rank.rank)
    return Finding(kind, culprit, (proof,), rank.time, rank.error, certainty=certainty)


def _killed(scene: Scene, rank: RankEvidence, host: HostEvidence) -> Finding:
    """SIGKILL: of memory where its cgroup says so, or its kernel of a process that may be this one."""
    killed = [other for other in scene.ranks.values() if other.host == rank.host and ended_by(other) == signal.SIGKILL]
    kills = oom_kills(host.kernel)
    known = {other.pid for other in scene.ranks.values() if other.host == rank.host}
    if host.oom_kills and not any(kill.pid in known for kill in kills):
        limit = "" if host.memory_limit is None else f", limit {host.memory_limit} bytes"
        proof = Proof(rank.host, rank.rank, "cgroup", f"oom_kill {host.oom_kills}{limit}")
        certainty = Certainty.SURE if len(killed) == 1 else Certainty.LIKELY
        culprit = scene.culprit(rank.rank)
        return Finding(
            "cgroup_out_of_memory", culprit, (proof,), rank.time, rank.error, certainty=certainty
        )
    # In a container a process has another number than the kernel tells.
    strangers = [kill for kill in kills if kill.pid not in known and kill.name.startswith("python")]
    if strangers and len(killed) == 1:
        return _memory_finding(scene, rank, strangers[0], Certainty.LIKELY)
    return _finding(scene, rank, "killed", "", Weight.PLAIN, Told(None))


def _without_a_word(scene: Scene, rank: RankEvidence) -> Finding:
    number = ended_by(rank)
    if number == signal.SIGBUS and any(fault.kind == "host_fault" for fault in _faults(scene, rank.host)):
        fault = next(fault for fault in _faults(scene, rank.host) if fault.kind == "host_fault")
        found = _finding(scene, rank, "host_fault", "", Weight.PLAIN, Told(None))
        return dataclasses.replace(found, proofs=(_of_kernel(rank.host, fault), *found.proofs))
    if number is None or number == signal.SIGINT:
        return _finding(scene, rank, "exited", "", Weight.VAGUE, Told(None))
    if number == signal.SIGTERM:
        return _finding(scene, rank, "terminated", "", Weight.VAGUE, Told(None))
    weight = Weight.VAGUE if number == signal.SIGABRT else Weight.PLAIN
    return _finding(scene, rank, "crashed", "", weight, Told(None))


# Hosts.


def host_losses(scene: Scene) -> list[Finding]:
    """Hosts that are gone, were restarted, or lost their supervisor; why, where the host tells of it."""
    found = []
    for name in sorted({rank.host for rank in scene.ranks.values()} | set(scene.case.hosts)):
        host = scene.host(name)
        ranks = [rank for rank in scene.ranks.values() if rank.host == name]
        orphans = [rank for rank in ranks if rank.state is RankState.LOST]
        kind = _loss(host, bool(orphans))
        if kind is None:
            continue
        times = [rank.time for rank in orphans or ranks if rank.time is not None]
        error = max((rank.error for rank in ranks), default=0.0)
        proof = Proof(name, None, "host", _LOSS_TEXT[kind])
        loss = Finding(kind, Culprit(name), (proof,), max(times, default=None), error)
        found.append(_explained(scene, loss, host) if kind == "supervisor_gone" else loss)
    return found


_LOSS_TEXT = {
    "host_lost": "no answer for longer than the run waits",
    "host_rebooted": "its boot is another than at the launch",
    "supervisor_gone": "its supervisor is gone without a word",
}


def _loss(host: HostEvidence, has_orphans: bool) -> str | None:
    if host.rebooted:
        return "host_rebooted"
    if host.lost:
        return "host_lost"
    return "supervisor_gone" if host.supervisor_gone or (has_orphans and host.reachable) else None


def _explained(scene: Scene, loss: Finding, host: HostEvidence) -> Finding:
    """Why a supervisor is gone: the disk is full, or it was killed for want of memory with the rest."""
    full = [disk for disk in host.disks if _is_full(disk) and not _is_image(disk)]
    if full:
        proofs = (_of_disk(host.name, full[0]), *loss.proofs)
        return dataclasses.replace(loss, kind="disk_full", proofs=proofs)
    kills = oom_kills(host.kernel)
    if kills:
        kind = "cgroup_out_of_memory" if kills[0].in_cgroup else "host_out_of_memory"
        proof = Proof(host.name, None, "kernel", kills[0].line.text.strip())
        return dataclasses.replace(loss, kind=kind, proofs=(proof, *loss.proofs), certainty=Certainty.LIKELY)
    return loss


# Disks.

_LEAST_FREE = 16 * 1024 * 1024


def _is_full(disk: DiskRoom) -> bool:
    return disk.total > 0 and (disk.free < min(_LEAST_FREE, disk.total // 100) or disk.free_inodes == 0)


def _is_image(disk: DiskRoom) -> bool:
    """An image of a package is always full."""
    return disk.path.startswith(("/snap/", "/rofs", "/cdrom")) or disk.path.startswith("/dev/shm")


def _fullest(host: HostEvidence, text: str, in_memory: bool) -> DiskRoom | None:
    disks = [disk for disk in host.disks if disk.path.startswith("/dev/shm") == in_memory]
    named = [disk for disk in disks if disk.path in text]
    full = [disk for disk in disks if _is_full(disk) and (in_memory or not _is_image(disk))]
    longest = sorted(named, key=lambda disk: -len(disk.path))
    return next(iter([*longest, *full, *disks]), None)


def _of_disk(host: str, disk: DiskRoom) -> Proof:
    inodes = "" if disk.free_inodes is None else f", {disk.free_inodes} inodes free"
    return Proof(host, None, "disk", f"{disk.path}: {disk.free} of {disk.total} bytes free{inodes}")


# Devices and kernels.


def faults_around(scene: Scene) -> list[Finding]:
    """Faults of devices that the run uses, and what kernels tell of its processes and hosts."""
    found = list(_device_faults(scene))
    for name in scene.case.hosts:
        for fault in _faults(scene, name):
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


def _faults(scene: Scene, host: str) -> list[KernelFault]:
    return list(kernel_faults(scene.host(host).kernel))


def _of_fault(scene: Scene, host: str, fault: KernelFault) -> Finding | None:
    """A kernel's fault, where it touches a rank: a device or a process of the run, or a host that has gone quiet."""
    ranks = [rank for rank in scene.ranks.values() if rank.host == host]
    proofs = (_of_kernel(host, fault),)
    if fault.device is not None:
        rank = scene.by_place.get((host, fault.device))
        return None if rank is None else Finding(fault.kind, scene.culprit(rank), proofs)
    own = [rank.rank for rank in ranks if fault.pid is not None and rank.pid == fault.pid]
    if own:
        return Finding(fault.kind, scene.culprit(own[0]), proofs)
    is_quiet = any(rank.rank in scene.silent() or scene.told[rank.rank].meaning is None for rank in ranks)
    if not is_quiet or (fault.kind == "blocked_in_kernel" and not fault.name.startswith("python")):
        return None
    return Finding(fault.kind, Culprit(host), proofs, certainty=Certainty.LIKELY)


def _of_kernel(host: str, fault: KernelFault) -> Proof:
    return Proof(host, None, "kernel", fault.line.text.strip())


# Kinds of a rank's failure that a fault of its device explains.
_EXPLAINED = frozenset(
    "device_task_failed device_lost device_unavailable device_memory_fault crashed exited rank_stuck rank_lost "
    "rank_missing rank_late link_fault network_port_down".split()
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

