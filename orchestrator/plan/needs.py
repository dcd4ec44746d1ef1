"""What a planned launch asks of its hosts."""

from __future__ import annotations

from orchestrator.agent.environ import SCHEDULER_HOST
from orchestrator.launch_plan import LaunchPlan
from orchestrator.preflight.needs import Needs, Pings
from orchestrator.records import WorkerSpec
from orchestrator.transport import ssh_name

__all__ = ["needs_of"]

# What HCCL, CANN and Python look at; the rest of a job's environment, secrets too, is not asked about.
_PREFIXES = ("HCCL_", "ASCEND_")
_NAMES = ("PYTHONPATH", "LD_LIBRARY_PATH", "PATH", "TOOLCHAIN_HOME")


def needs_of(plan: LaunchPlan, pings: Pings = "ring") -> Needs:
    """The needs of a launch. Reads the sizes of the files that it will send."""
    worker = plan.manifests[plan.master.name].workers[0]
    return Needs(
        hosts=plan.hosts,
        packages=plan.packages,
        shipped_bytes=sum(path.stat().st_size for path in plan.sources.values()),
        devices={name: manifest.devices for name, manifest in plan.manifests.items()},
        ascend=plan.ascend,
        env={
            name: value for name, value in worker.env.items() if name.startswith(_PREFIXES) or name in _NAMES
        },
        mindspore=_is_mindspore(plan, worker),
        paths=plan.host_paths,
        port=plan.manifests[plan.master.name].port,
        chooses_port=plan.chooses_port,
        scheduler=_scheduler_names(plan),
        by_table_alone=plan.by_table_alone,
        pings=pings if plan.ascend else "none",
    )


def _is_mindspore(plan: LaunchPlan, worker: WorkerSpec) -> bool:
    """A command may be anything, but only MindSpore starts by a scheduler without a rank table."""
    return plan.task != "command" or ("MS_ROLE" in worker.env and "RANK_TABLE_FILE" not in worker.env)


def _scheduler_names(plan: LaunchPlan) -> tuple[str, ...]:
    """Where the scheduler listens: at an IP address, or at what these names mean; () where there is none."""
    scheduler = plan.manifests[plan.master.name].scheduler
    if scheduler is None:
        return ()
    if (address := scheduler.env["MS_SCHED_HOST"]) != SCHEDULER_HOST:
        return (address,)
    return tuple(dict.fromkeys((plan.master.address, ssh_name(plan.master, plan.ssh))))
