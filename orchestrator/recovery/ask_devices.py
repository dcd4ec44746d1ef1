"""What hosts tell when an attempt has ended, asked within a hard limit of time.

That is how their devices are; where it is not sure who failed, all that a diagnosis looks at.

A host that does not answer, or whose tool hangs, tells nothing: the decision is made without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from orchestrator.control.decisions import DeviceFault
from orchestrator.control.gather_evidence import gather, health_of
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.found_evidence import FoundEvidence
from orchestrator.diagnosis.evidence import Case
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.recovery.device_levels import faults_of

__all__ = ["ask_devices", "ask_for_evidence"]

log = logging.getLogger(__name__)
# Seconds that a host has for its tools, and that are waited for all hosts together.
_OF_A_HOST, _IN_ALL = 8.0, 15.0
_LOOK = 0.05


def ask_devices(
    fleet: Fleet, plan: LaunchPlan, names: Iterable[str], now: float, *, limit: float = _IN_ALL
) -> tuple[DeviceFault, ...]:
    """The faults of the devices that these hosts have in the plan; `now` is when they tell."""
    devices = {name: plan.manifests[name].devices for name in names if name in plan.manifests}

    def ask(agent: Agent) -> FoundEvidence:
        own = devices[agent.host]
        return agent.evidence(plan.run_id, devices=own, only=("chips",), seconds=_OF_A_HOST, timeout=limit)

    asked = {name: fleet.begin(ask, name) for name, own in devices.items() if own}
    scheduling = fleet.scheduling
    until = scheduling.monotonic() + limit
    while scheduling.monotonic() < until and not all(future.done() for future in asked.values()):
        scheduling.sleep(_LOOK)
    found: list[DeviceFault] = []
    for name, future in asked.items():
        if not future.done() or future.cancelled():
            future.cancel()
            log.warning("%s: its devices did not tell how they are within %g s", name, limit)
            continue
        answer: FoundEvidence | None
        error: OrchestrateError | BaseException | None
        try:
            answer, error = future.result()
        except Exception as broken:
            answer, error = None, broken
        if answer is None:
            log.warning("%s: its devices cannot be asked how they are: %s", name, error)
            continue
        health, problems = health_of(answer.chips)
        for problem in (*answer.unread, *problems):
            log.warning("%s: %s", name, problem)
        found += faults_of(name, health, now)
    return tuple(found)


def ask_for_evidence(
    fleet: Fleet, record: RunRecord, plan: LaunchPlan, names: Iterable[str], *, limit: float = _IN_ALL
) -> Case:
    """The evidence of these hosts; of the others stands what the record knows of them."""
    with fleet.part(names) as part:
        gathered = gather(
            record, plan, part, seconds=min(_OF_A_HOST, limit), timeout=limit, now=fleet.scheduling.time
        )
    for name, error in gathered.errors.items():
        log.warning("%s: it cannot be asked for its evidence: %s", name, error)
    return gathered.case
