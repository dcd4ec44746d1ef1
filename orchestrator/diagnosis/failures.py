"""Failures: what can be the cause by itself, of ranks that failed and of hosts that are gone. Pure."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Sequence

from orchestrator.core.ends import SAVED_EXIT, UNASKED, EndKind, StopKind
from orchestrator.core.log_signatures import Meaning
from orchestrator.core.states import RankState
from orchestrator.diagnosis.circumstances import disk_proof, full_disks, fullest_disk, kernel_proof
from orchestrator.diagnosis.evidence import Certainty, Culprit, HostEvidence, Proof, RankEvidence
from orchestrator.diagnosis.finding import Finding, Weight
from orchestrator.diagnosis.kernel_signatures import OomKill
from orchestrator.diagnosis.scene import Scene, Told, code_in, ended_by, lines_of

__all__ = ["host_losses", "own_failures"]


# Ranks.


def own_failures(scene: Scene) -> list[Finding]:
    """Every rank, and the scheduler, that failed by itself, by all that is known of it."""
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
    if told.row.kind == "program_error" and ended_by(rank) == signal.SIGKILL:
        return None  # no exception ends a process like that: it was caught, and told
    weight = Weight.SOFT if told.row.is_soft else Weight.PLAIN
    found = _finding(scene, rank, told.row.kind, told.line.text, weight, told)
    if told.row.kind in ("disk_full", "shared_memory_full"):
        disk = fullest_disk(scene.host(rank.host), told.line.text, told.row.kind == "shared_memory_full")
        return (
            found
            if disk is None
            else dataclasses.replace(found, proofs=(*found.proofs, disk_proof(rank.host, disk)))
        )
    return found


def _finding(scene: Scene, rank: RankEvidence, kind: str, text: str, weight: int, told: Told) -> Finding:
    proofs = scene.proof(rank.rank, told.line)
    time = rank.time if told.time is None else told.time
    return Finding(
        kind, scene.culprit(rank.rank), proofs, time, rank.error, weight=weight, code=code_in(text)
    )


def _killed_for_memory(scene: Scene, rank: RankEvidence, host: HostEvidence) -> Finding | None:
    """Its process, or one of its own of which its log tells, was killed by the kernel for want of memory."""
    kills = scene.kills.get(rank.host, ())
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
    beside = scene.by_host[rank.host]
    killed = [other for other in beside if ended_by(other) == signal.SIGKILL]
    kills = scene.kills.get(rank.host, ())
    known = {other.pid for other in beside}
    if host.oom_kills and not any(kill.pid in known for kill in kills):
        limit = "" if host.memory_limit is None else f", limit {host.memory_limit} bytes"
        proof = Proof(rank.host, rank.rank, "cgroup", f"oom_kill {host.oom_kills}{limit}")
        certainty = Certainty.SURE if len(killed) == 1 else Certainty.LIKELY
        culprit = scene.culprit(rank.rank)
        return Finding("cgroup_out_of_memory", culprit, (proof,), rank.time, rank.error, certainty=certainty)
    # In a container a process has another number than the kernel tells.
    strangers = [kill for kill in kills if kill.pid not in known and kill.name.startswith("python")]
    if strangers and len(killed) == 1:
        return _memory_finding(scene, rank, strangers[0], Certainty.LIKELY)
    return _finding(scene, rank, "killed", "", Weight.PLAIN, Told(None))


def _without_a_word(scene: Scene, rank: RankEvidence) -> Finding:
    number = ended_by(rank)
    faults = scene.faults.get(rank.host, ()) if number == signal.SIGBUS else ()
    fault = next((fault for fault in faults if fault.kind == "host_fault"), None)
    if fault is not None:
        found = _finding(scene, rank, "host_fault", "", Weight.PLAIN, Told(None))
        return dataclasses.replace(found, proofs=(kernel_proof(rank.host, fault), *found.proofs))
    if rank.end is not None and rank.end.exit_code == SAVED_EXIT:
        return _finding(scene, rank, "terminated", "", Weight.VAGUE, Told(None))
    if number is None or number == signal.SIGINT:
        return _raised(scene, rank)
    if number == signal.SIGTERM:
        return _finding(scene, rank, "terminated", "", Weight.VAGUE, Told(None))
    weight = Weight.VAGUE if number == signal.SIGABRT else Weight.PLAIN
    return _finding(scene, rank, "crashed", "", weight, Told(None))


# The library and not the program has raised what speaks of these.
_OF_LIBRARIES = re.compile(r"(?i)hccl|\bacl|NPU function error|ascend|kernel_graph|DistBackendError")


def _raised(scene: Scene, rank: RankEvidence) -> Finding:
    """An end by an exception of which the table knows nothing, or by an exit code alone."""
    line = scene.told[rank.rank].exception
    kind = "exited" if line is None or _OF_LIBRARIES.search(line.text) else "program_error"
    found = _finding(scene, rank, kind, "", Weight.VAGUE, Told(None, line))
    full = full_disks(scene.host(rank.host))
    if line is not None or not full:
        return found
    # What it had to say found no room in its log either.
    proofs = (disk_proof(rank.host, full[0]), *found.proofs)
    return dataclasses.replace(found, kind="disk_full", proofs=proofs, certainty=Certainty.LIKELY)


# Hosts.


def host_losses(scene: Scene) -> list[Finding]:
    """Hosts that are gone, were restarted, or lost their supervisor; why, where the host tells of it."""
    found = []
    for name, ranks in sorted(scene.by_host.items()):
        host = scene.host(name)
        orphans = [rank for rank in ranks if rank.state is RankState.LOST]
        unasked = _unasked(ranks)
        kind = _loss(host, bool(orphans)) or _UNASKED_KINDS.get(
            unasked, "supervisor_gone" if unasked else None
        )
        if kind is None:
            continue
        times = [rank.time for rank in orphans or ranks if rank.time is not None]
        error = max((rank.error for rank in ranks), default=0.0)
        proof = Proof(name, None, "host", str(unasked) if unasked is not None else _LOSS_TEXT[kind])
        loss = Finding(kind, Culprit(name), (proof,), max(times, default=None), error)
        found.append(_explained(scene, loss, host) if kind == "supervisor_gone" else loss)
    return found


_LOSS_TEXT = {
    "host_lost": "no answer for longer than the run waits",
    "host_rebooted": "its boot is another than at the launch",
    "supervisor_gone": "its supervisor is gone without a word",
}


_UNASKED_KINDS: dict[StopKind | None, str] = {
    StopKind.LAUNCH_LAPSED: "launch_lapsed",
    StopKind.RUN_DIRECTORY_REMOVED: "run_directory_removed",
}


def _unasked(ranks: Sequence[RankEvidence]) -> StopKind | None:
    """Why the workers of a host were ended there first, though nobody asked for it."""
    for rank in ranks:
        reason = rank.end.reason if rank.end is not None and rank.state is RankState.STOPPED else None
        if reason is not None and reason.kind in UNASKED and not reason.host:
            return reason.kind
    return None


def _loss(host: HostEvidence, has_orphans: bool) -> str | None:
    if host.rebooted:
        return "host_rebooted"
    if host.lost:
        return "host_lost"
    return "supervisor_gone" if host.supervisor_gone or (has_orphans and host.reachable) else None


def _explained(scene: Scene, loss: Finding, host: HostEvidence) -> Finding:
    """Why a supervisor is gone: the disk is full, or it was killed for want of memory with the rest."""
    full = full_disks(host)
    if full:
        proofs = (disk_proof(host.name, full[0]), *loss.proofs)
        return dataclasses.replace(loss, kind="disk_full", proofs=proofs)
    kills = scene.kills.get(host.name, ())
    if kills:
        kind = "cgroup_out_of_memory" if kills[0].in_cgroup else "host_out_of_memory"
        proof = Proof(host.name, None, "kernel", kills[0].line.text.strip())
        return dataclasses.replace(loss, kind=kind, proofs=(proof, *loss.proofs), certainty=Certainty.LIKELY)
    return loss
