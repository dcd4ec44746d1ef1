"""A plan made whole by what the hosts say: addresses of devices, the rank table of them, a free port.

Planning touches no host, so it knows only what the inventory says. Before anything is put on the hosts, the
launch asks them, and their answer is what counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orchestrator.discovery import FoundHost
from orchestrator.errors import ConfigError, HostsFailed, OrchestrateError, PreflightError
from orchestrator.inventory import chip_named
from orchestrator.launch_plan import LaunchPlan
from orchestrator.plan.table import launch_table

__all__ = ["complete_plan"]


def complete_plan(plan: LaunchPlan, found: Mapping[str, FoundHost], *, port: int | None = None) -> LaunchPlan:
    """The plan with the rank table of the devices that were found, and with the scheduler's `port`.

    Raises PreflightError, of several hosts HostsFailed: HCCL would refuse the table.
    """
    if plan.chooses_port and port is not None:
        manifests = {
            name: dataclasses.replace(manifest, port=port) for name, manifest in plan.manifests.items()
        }
        plan = dataclasses.replace(plan, manifests=manifests)
    return _with_table(plan, found) if plan.uses_rank_table else plan


def _with_table(plan: LaunchPlan, found: Mapping[str, FoundHost]) -> LaunchPlan:
    placements = tuple(
        dataclasses.replace(item, device_ip=found[item.host].device(item.device_id).ip)
        for item in plan.placements
    )
    hosts = tuple(
        host.model_copy(update={"chip": host.chip or chip_named(found[host.name].chip or "")})
        for host in plan.hosts
    )
    try:
        table = launch_table(placements, hosts, found=found, intra_roce=plan.intra_roce)
    except ConfigError as error:
        raise _unfit(error) from None
    return dataclasses.replace(plan, placements=placements, hosts=hosts, rank_table=table)


def _unfit(error: ConfigError) -> OrchestrateError:
    """What is wrong with the table is wrong on the hosts, not in a file."""
    by_host: dict[str, list[str]] = {}
    remedies: dict[str, str] = {}
    for problem in error.problems:
        by_host.setdefault(problem.where, []).append(problem.what)
        remedies.setdefault(problem.where, problem.remedy)
    errors: dict[str, OrchestrateError] = {
        where: PreflightError("; ".join(found), where=where, remedy=remedies[where])
        for where, found in by_host.items()
    }
    return next(iter(errors.values())) if len(errors) == 1 else HostsFailed(errors)
