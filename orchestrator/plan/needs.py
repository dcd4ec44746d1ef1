"""What a planned launch asks of its hosts."""

from __future__ import annotations

from orchestrator.launch_plan import LaunchPlan
from orchestrator.preflight.needs import Needs, Pings

__all__ = ["needs_of"]


def needs_of(plan: LaunchPlan, pings: Pings = "ring") -> Needs:
    """The needs of a launch. Reads the sizes of the files that it will send."""
    worker = plan.manifests[plan.master.name].workers[0]
    return Needs(
        hosts=plan.hosts,
        packages=plan.packages,
        shipped_bytes=sum(path.stat().st_size for path in plan.sources.values()),
        devices={name: manifest.devices for name, manifest in plan.manifests.items()},
        ascend=plan.ascend,
        env={name: value for name, value in worker.env.items() if name.startswith("HCCL_")},
        paths=plan.host_paths,
        port=plan.manifests[plan.master.name].port,
        chooses_port=plan.chooses_port,
        pings=pings if plan.ascend else "none",
    )
