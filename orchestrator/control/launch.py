"""Launch: from two files to a run whose monitor is at work."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.control.monitor_process import cannot_write, spawn_monitor
from orchestrator.control.runs import interrupt_launch, make_control_dir
from orchestrator.core.paths import ControlDir, state_root
from orchestrator.plan.complete_plan import complete_plan
from orchestrator.plan.fewer_hosts import require_min_hosts
from orchestrator.plan.hosts_here import require_what_is_here
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.needed_hosts import inventory_for

__all__ = ["discover_devices", "launch", "plan_launch"]


def plan_launch(
    job_path: Path,
    inventory_path: Path | None,
    overrides: Sequence[str] = (),
    *,
    accept_new_host_keys: bool = False,
) -> tuple[Job, LaunchPlan]:
    """Read both files and plan; touches no host. Raises ConfigError with every problem found.

    PreflightError, or HostsFailed: hosts that are this machine lack what they need.
    """
    job = load_job(job_path, overrides)
    inventory = inventory_for(job, inventory_path)
    if accept_new_host_keys:
        inventory = inventory.accepting_new_host_keys()
    plan = make_plan(job, inventory, now=time.time(), mtbf=_mtbf(job))
    require_min_hosts(job, inventory)
    require_what_is_here(plan)
    return job, plan


def _mtbf(job: Job) -> float | None:
    """How often this job's earlier runs failed, where its workers reckon with that."""
    if job.checkpoint.save_every != "auto":
        return None
    # Late: no other launch reads the records of runs.
    from orchestrator.control.past_saves import past_saves

    return past_saves(job.name).mtbf(job.parallel.world_size)


def discover_devices(plan: LaunchPlan) -> LaunchPlan:
    """The plan with the rank table that a launch would make now: the hosts' tools are asked.

    Raises TransportError, PreflightError, or HostsFailed of both.
    """
    # Late: a launch leaves the hosts to its monitor.
    from orchestrator.ascend.discovery import discover
    from orchestrator.hosts.allocation import StaticAllocation

    with StaticAllocation(plan.hosts, plan.ssh).fleet() as fleet:
        devices = {name: manifest.devices for name, manifest in plan.manifests.items()}
        return complete_plan(plan, discover(fleet, devices).raise_on_error())


def launch(plan: LaunchPlan) -> ControlDir:
    """Hand the plan to a monitor of its own; the record in the returned directory tells how it goes.

    Raises PreflightError, and nothing is started, where the state directory takes no more.
    """
    control = ControlDir(state_root() / "runs" / plan.run_id)
    try:
        control = make_control_dir(plan)
        spawn_monitor(control)
    except OSError as error:
        # Its name is of this second and random: what is there of it is ours.
        shutil.rmtree(control.root, ignore_errors=True)
        raise cannot_write(control, error) from error
    except KeyboardInterrupt:
        # Ctrl-C before the monitor was told to begin: else the run would be `preparing` for a while.
        if control.record.exists():
            interrupt_launch(control, begun=False)
        raise
    return control
