"""The plan of an attempt that was decided on: which step it goes on from, and what its hosts lack of it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from orchestrator.config.inventory import Host
from orchestrator.control.resume import counts_that_fit, job_for_hosts
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import CheckpointError
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.transfer.plan_resume import plan_next
from orchestrator.transfer.resume_run import brought

__all__ = ["counts_that_fit", "planned"]

log = logging.getLogger(__name__)


def planned(
    control: ControlDir, record: RunRecord, before: LaunchPlan, hosts: Sequence[Host], fleet: Fleet
) -> LaunchPlan:
    """The plan of the attempt after `before` on these hosts, whose shards are there when it returns.

    `fleet` are the hosts that answer. Where no step is whole any more the run begins anew, which is said.
    Raises OrchestrateError.
    """
    wanted = job_for_hosts(before, hosts)
    try:
        found = plan_next(control, record, before, wanted, fleet=fleet)
    except CheckpointError as error:
        log.warning("the run begins anew: %s", error)
        found = plan_next(control, record, before, wanted, step=0, fleet=fleet)
    for note in found.notes:
        log.info("%s", note)
    return dataclasses.replace(brought(fleet, found), found=before.found)
