"""Check: what a launch would stumble over, found before it."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.config.inventory import Inventory
from orchestrator.config.job import Job
from orchestrator.plan.make_plan import make_plan
from orchestrator.preflight.gather_facts import look_at_hosts
from orchestrator.preflight.host_facts import Needs, Pings, needs_of
from orchestrator.preflight.pings import RING_ABOVE
from orchestrator.preflight.report import Report

__all__ = ["check", "needs_without_job"]


def check(
    inventory: Inventory,
    job: Job | None = None,
    *,
    full_mesh: bool = False,
    begun: Callable[[int], None] | None = None,
    seen: Callable[[str], None] | None = None,
) -> Report:
    """Check all hosts of the inventory, or those of a job for what it needs; nothing there is changed.

    `begun` is told how many hosts are asked now, `seen` the name of every one that has answered, from the
    thread that asked it.
    Devices ping their likes on all other hosts, above 16 hosts only on the next one unless `full_mesh`.
    Raises ConfigError for a job that cannot be planned; hosts that do not answer are rows of the report.
    """
    if job is None:
        needs = needs_without_job(inventory, _pings(len(inventory.hosts), full_mesh))
    else:
        plan = make_plan(job, inventory)
        needs = needs_of(plan, _pings(len(plan.hosts), full_mesh))
    if begun is not None:
        begun(len(needs.hosts))
    return look_at_hosts(needs, inventory.ssh, seen)


def needs_without_job(inventory: Inventory, pings: Pings = "pairs") -> Needs:
    """All devices of all hosts; whether there are NPUs is for the hosts to tell."""
    return Needs(
        hosts=inventory.hosts,
        packages=("mindspore",),
        devices={host.name: tuple(device.id for device in host.devices) for host in inventory.hosts},
        ascend=None,
        has_job=False,
        pings=pings,
    )


def _pings(host_count: int, full_mesh: bool) -> Pings:
    return "pairs" if full_mesh or host_count <= RING_ABOVE else "ring"
