"""The evidence of a run, gathered: all its hosts are asked at once, and what they find becomes one case.

Of a host that cannot be asked stands what the run's record last knew of it, and that it is no more. Times are
corrected by the offset of each host's clock, which is measured over the same session.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.ascend.npu_smi import parse_health
from orchestrator.control.cause import was_stopped_by_hand
from orchestrator.control.logs import all_labels
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.core.ends import SCHEDULER, StopKind, label_of
from orchestrator.core.errors import AgentError, OrchestrateError, ToolOutputError
from orchestrator.core.found_evidence import ChipHealth, FoundEvidence, FoundLine
from orchestrator.core.host_answers import Label
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState
from orchestrator.diagnosis.evidence import (
    Case,
    DeviceHealth,
    DiskRoom,
    HostEvidence,
    KernelLine,
    LogLine,
    RankEvidence,
)
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["Gathered", "addresses_of", "gather", "health_of"]

_MEASURED = 3
_SECONDS = 20.0
# How far two clocks may drift apart in a second, twice: one may be corrected meanwhile.
_DRIFT = 2e-4


@dataclass(frozen=True, slots=True)
class Gathered:
    """The case, what each host found, and which hosts could not be asked."""

    case: Case
    found: Mapping[str, FoundEvidence]
    errors: Mapping[str, OrchestrateError]


@dataclass(frozen=True, slots=True)
class _Told:
    """What one host told: its clock's offset, its part of the run where it has one, and its evidence."""

    clock: ClockOffset
    status: HostStatus | None
    found: FoundEvidence
    problem: str = ""


def gather(
    record: RunRecord,
    plan: LaunchPlan,
    fleet: Fleet,
    *,
    seconds: float = _SECONDS,
    timeout: float | None = None,
    now: Callable[[], float] = time.time,
) -> Gathered:
    """Ask every host of the run for its evidence; of a host, each thing is given up after `seconds`, and all
    of it after `timeout`."""

    labels = all_labels(plan)

    def ask(agent: Agent) -> _Told:
        host = agent.host
        status, problem = None, ""
        try:
            status = agent.status(plan.run_id, world_size=max(1, record.world_size))
        except AgentError as error:
            problem = f"the run's status: {error.what}"
        devices = [place.device_id for place in plan.placements if place.host == host] if plan.ascend else []
        found = agent.evidence(
            plan.run_id,
            labels=labels.get(host, []),
            devices=sorted(set(devices)),
            seconds=seconds,
            timeout=timeout,
        )
        return _Told(_measured(agent, now), status, found, problem)

    answers = fleet.each(ask)
    views = {
        name: record.hosts.get(name, HostView()) for name in dict.fromkeys([*fleet.hosts, *record.hosts])
    }
    hosts: dict[str, HostEvidence] = {}
    ranks: list[RankEvidence] = []
    for name, view in views.items():
        told = answers.values.get(name)
        if told is None:
            hosts[name] = _unasked(name, view, answers.errors.get(name))
        else:
            clock, problem = _clock_of(view.clock, told.clock)
            view = dataclasses.replace(view, status=told.status or view.status, clock=clock)
            hosts[name] = _host(name, view, told, problem)
        ranks += _ranks(name, view, told)
        views[name] = view
    case = Case(
        ranks=tuple(sorted(ranks, key=lambda rank: rank.rank)),
        hosts=hosts,
        world_size=record.world_size,
        stopped_by_hand=was_stopped_by_hand(views),
        addresses=addresses_of(plan),
    )
    return Gathered(case, {name: told.found for name, told in answers.values.items()}, answers.errors)


def addresses_of(plan: LaunchPlan) -> dict[str, tuple[str, int | None]]:
    """To whom the addresses in logs belong: to hosts, and to devices by the plan and its rank table.

    One that several have, as loopback, belongs to nobody.
    """
    owners: dict[str, set[tuple[str, int | None]]] = {}
    for host in plan.hosts:
        known = {host.name, host.address}
        if (manifest := plan.manifests.get(host.name)) is not None and manifest.address:
            known.add(manifest.address)
        for address in known:
            owners.setdefault(address, set()).add((host.name, None))
    by_rank = {place.rank: place for place in plan.placements}
    for place in plan.placements:
        if place.device_ip:
            owners.setdefault(place.device_ip, set()).add((place.host, place.device_id))
    for server, devices in _servers(plan.rank_table):
        for rank, address in devices:
            if (found := by_rank.get(rank)) is not None:
                owners.setdefault(server, set()).add((found.host, None))
                if address:
                    owners.setdefault(address, set()).add((found.host, found.device_id))
    return {address: next(iter(who)) for address, who in owners.items() if len(who) == 1 and address}


def _servers(table: str | None) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Each server of a rank table with the rank and the address of its devices; of all versions alike."""
    try:
        data: Any = json.loads(table) if table else {}
        listed: list[Any] = list(data.get("server_list", ()))
        for server in listed:
            devices = [
                (int(device["rank_id"]), str(device.get("device_ip", "")).split(",")[0])
                for device in server.get("device", ())
            ]
            yield str(server.get("server_id", "")), devices
    except (ValueError, TypeError, KeyError, AttributeError):
        return  # a person's own table, of a form that is not known: only its addresses are missed


def _measured(agent: Agent, now: Callable[[], float]) -> ClockOffset:
    """The most exact of a few measurements."""
    best: ClockOffset | None = None
    for _ in range(_MEASURED):
        before = now()
        there = agent.clock()
        latest = ClockOffset.of(before, there, now())
        best = latest if best is None or latest.error < best.error else best
    assert best is not None
    return best


# One host.


def _clock_of(recorded: ClockOffset | None, now: ClockOffset) -> tuple[ClockOffset, str]:
    """The offset for what has happened: the more exact one, or that of before a clock was set."""
    if recorded is None:
        return now, ""
    since = max(0.0, now.measured - recorded.measured)
    moved = now.seconds - recorded.seconds
    if abs(moved) > now.error + recorded.error + _DRIFT * since:
        return recorded, f"its clock was set since, by {moved:+.1f} s: times are by what it showed before"
    return recorded.or_newer(now), ""


def _host(name: str, view: HostView, told: _Told, problem: str) -> HostEvidence:
    found, clock = told.found, told.clock
    booted = bool(found.boot_id and found.launched_boot_id and found.boot_id != found.launched_boot_id)
    kernel = [KernelLine(line.text, _ours(line, clock)) for line in found.kernel]
    if note := _kills_note(found):
        kernel.append(KernelLine(note))
    devices, problems = health_of(found.chips)
    return HostEvidence(
        name=name,
        lost=view.lost,
        rebooted=booted,
        supervisor_gone=_supervisor_is_gone(view.status, found),
        kernel=tuple(kernel),
        oom_kills=found.kills_in_groups,
        memory_limit=found.memory_limit,
        disks=tuple(DiskRoom(disk.path, disk.free, disk.total, disk.free_inodes) for disk in found.disks),
        devices=devices,
        unread=(*filter(None, [told.problem, problem]), *found.unread, *problems),
    )


def _kills_note(found: FoundEvidence) -> str:
    """Kills for want of memory somewhere on the host of which nothing else tells: of whom, nobody knows."""
    on_host, in_groups = found.kills_on_host or 0, found.kills_in_groups or 0
    if on_host <= in_groups or any("Killed process" in line.text for line in found.kernel):
        return ""
    return f"/proc/vmstat: oom_kill has grown by {on_host} since the launch, anywhere on the host"


def _supervisor_is_gone(status: HostStatus | None, found: FoundEvidence) -> bool:
    if status is None or found.supervisor_lives:
        return False
    return not status.is_over or (status.stop is not None and status.stop.kind is StopKind.SUPERVISOR_GONE)


def health_of(chips: Sequence[ChipHealth]) -> tuple[tuple[DeviceHealth, ...], list[str]]:
    """What the devices of a host tell, and of which nothing could be learnt: a line each."""
    devices, problems = [], []
    for chip in chips:
        if chip.failure:
            problems.append(f"device {chip.device}: npu-smi: {_tool_failure(chip.failure)}")
            continue
        try:
            health = parse_health("\n".join(chip.lines))
        except ToolOutputError as error:
            problems.append(f"device {chip.device}: {error.what}")
            continue
        devices.append(DeviceHealth(chip.device, health.status, health.codes, health.information))
    return tuple(devices), problems


def _tool_failure(failure: str) -> str:
    words = {
        "timeout": "no answer in time (the driver or the device hangs)",
        "skipped": "not asked after that",
    }
    return words.get(failure, failure)


def _unasked(name: str, view: HostView, error: OrchestrateError | None) -> HostEvidence:
    """What is left of a host that cannot be asked."""
    why = view.error if error is None else str(error)
    since = "never" if not view.last_contact else time.strftime("%F %T", time.localtime(view.last_contact))
    gone = view.status is not None and view.status.stop is not None
    return HostEvidence(
        name=name,
        reachable=False,
        lost=view.lost,
        supervisor_gone=bool(
            gone and view.status and view.status.stop and view.status.stop.kind is StopKind.SUPERVISOR_GONE
        ),
        unread=(f"it cannot be asked ({why}); what is told of it is of the last contact: {since}",),
    )


# Its ranks.


def _ranks(name: str, view: HostView, told: _Told | None) -> Iterator[RankEvidence]:
    """The ranks of a host and the scheduler, where that is there."""
    if view.status is None:
        return
    states = {rank.rank: rank.state for rank in (view.status.ranks if told is not None else view.ranks())}
    for rank in view.status.everyone():
        state = states.get(rank.rank, rank.state)
        yield _rank(name, view, rank, state, told)


def _rank(name: str, view: HostView, rank: RankStatus, state: RankState, told: _Told | None) -> RankEvidence:
    clock, end = view.clock, rank.end
    heard = _last_heard(rank, view.status)
    moment = end.time if end is not None and end.time is not None else heard
    lines = tuple(_lines(rank, told.found, clock or told.clock)) if told is not None else ()
    step = rank.progress.get("step")
    return RankEvidence(
        rank=rank.rank,
        host=name,
        device=rank.device_id if rank.rank != SCHEDULER else None,
        state=state,
        end=end,
        time=None if moment is None else view.ours(moment),
        error=math.inf if clock is None else clock.error,
        pid=rank.process.pid if rank.process is not None else None,
        phase=str(rank.phase or (end.phase if end is not None else "") or ""),
        step=step if isinstance(step, int) else (end.step if end is not None else None),
        lines=lines or tuple(_recorded(rank)),
    )


def _last_heard(rank: RankStatus, status: HostStatus | None) -> float | None:
    """When a rank that runs last showed that it goes on, by its host's clock."""
    if rank.stalled_since is not None:
        return rank.stalled_since
    told = rank.progress.get("time")
    if isinstance(told, (int, float)) and not isinstance(told, bool):
        return float(told)
    return rank.phase_since or rank.started or (status.updated if status is not None else None)


def _lines(rank: RankStatus, found: FoundEvidence, clock: ClockOffset) -> Iterator[LogLine]:
    for line in found.logs.get(Label(label_of(rank.rank)), ()):
        yield LogLine(line.source, line.text, _ours(line, clock))


def _recorded(rank: RankStatus) -> Iterator[LogLine]:
    """What the record has of a rank's log: the lines that tell, then the last ones."""
    source = "scheduler" if rank.rank == SCHEDULER else "worker"
    if rank.end is not None:
        for text in dict.fromkeys((*rank.end.evidence, *rank.end.tail)):
            yield LogLine(source, text)


def _ours(line: FoundLine, clock: ClockOffset) -> float | None:
    return None if line.time is None else clock.ours(line.time)
