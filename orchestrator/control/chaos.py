"""Chaos: one fault injected into a real run, for people who want to see before they trust.

What is to happen is chosen and checked first (`choose_fault`), so that it can be shown before it is done
(`inject_fault`). Only workers that run are touched, and only on a host that answers; how a host does it is in
`agent/verbs_chaos.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.config.host_ranges import fold
from orchestrator.config.yaml_messages import nearest, show
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.core.errors import UsageError
from orchestrator.core.host_answers import Injected
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RankState
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["ChaosKind", "ChosenFault", "choose_fault", "inject_fault"]

ChaosKind = Literal["kill", "freeze", "fill_disk"]


@dataclass(frozen=True, slots=True)
class ChosenFault:
    """What is to happen to which rank of which host; `rank` is None where it is the host's disk.

    `seconds` None: for good, or of a disk as long as the host chooses.
    """

    kind: ChaosKind
    host: str
    rank: int | None = None
    seconds: float | None = None


def choose_fault(
    record: RunRecord,
    kind: ChaosKind,
    *,
    rank: int | None = None,
    host: str | None = None,
    seconds: float | None = None,
) -> ChosenFault:
    """The fault on the rank or the host that is named, else on the last rank that runs.

    Raises UsageError where the run is not active, or no such rank or host runs workers of it.
    """
    if record.state.is_terminal:
        raise UsageError(f"{record.run_id} has ended ({record.state}): nothing of it can be hurt any more")
    if seconds is not None and kind == "kill":
        raise UsageError("what is killed is not brought back: --for is for freeze and fill-disk")
    running = _running(record)
    if not running:
        raise UsageError(
            f"{record.run_id} has no workers that run (it is {record.phase})",
            remedy="`orchestrate status` shows when it has",
        )
    if host is not None:
        rank = _first_on(record, host, running)
    chosen = max(running) if rank is None else rank
    if chosen not in running:
        raise UsageError(
            f"rank {chosen} of {record.run_id} does not run",
            remedy=f"it has ranks 0-{record.world_size - 1}; `orchestrate status` shows their states",
        )
    return ChosenFault(kind, running[chosen], None if kind == "fill_disk" else chosen, seconds)


def _running(record: RunRecord) -> Mapping[int, str]:
    """The host of each rank that runs, as far as its host answers."""
    return {
        rank.rank: name
        for name, view in record.hosts.items()
        for rank in view.ranks()
        if rank.state is RankState.RUNNING
    }


def _first_on(record: RunRecord, host: str, running: Mapping[int, str]) -> int:
    if host not in record.hosts:
        near = nearest(host, record.hosts)
        listed = near if near.startswith("did") else f"its hosts are {fold(record.hosts)}"
        raise UsageError(f"no host {show(host)} is in {record.run_id}", remedy=listed)
    ranks = [rank for rank, name in running.items() if name == host]
    if not ranks:
        raise UsageError(f"no rank of {record.run_id} runs on {host}", remedy="choose another host")
    return min(ranks)


def inject_fault(control: ControlDir, fault: ChosenFault) -> Injected:
    """Have the host inject it; what it did. Raises TransportError, or AgentError where the host refuses."""
    plan = read_plan(control.plan)
    with fleet_of([host for host in plan.hosts if host.name == fault.host], plan.ssh) as fleet:
        fleet.address(address_of(read_record(control)))
        found = fleet.each(lambda agent: agent.inject(plan.run_id, fault.kind, fault.rank, fault.seconds))
    return found.raise_on_error()[fault.host]
