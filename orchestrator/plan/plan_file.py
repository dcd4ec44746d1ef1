"""The plan on disk: what the monitor of a run, a process of its own, starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.errors import RunNotFound
from orchestrator.inventory import Host, SshOptions
from orchestrator.job import Timeouts
from orchestrator.layout import atomic_write
from orchestrator.placement import Placement
from orchestrator.plan.plan import LaunchPlan
from orchestrator.records import Manifest

__all__ = ["read_plan", "write_plan"]


def write_plan(path: Path, plan: LaunchPlan) -> None:
    """Write with mode 0600: a job's environment may hold secrets."""
    data = {
        "run_id": plan.run_id,
        "job_name": plan.job_name,
        "task": plan.task,
        "created": plan.created,
        "hosts": [host.model_dump(mode="json") for host in plan.hosts],
        "ssh": plan.ssh.model_dump(mode="json"),
        "placements": [_placement(item) for item in plan.placements],
        "manifests": {name: manifest.to_json() for name, manifest in plan.manifests.items()},
        "worker_config": plan.worker_config,
        "rank_table": plan.rank_table,
        "sources": {sha256: str(source.absolute()) for sha256, source in plan.sources.items()},
        "packages": plan.packages,
        "host_paths": plan.host_paths,
        "chooses_port": plan.chooses_port,
        "ascend": plan.ascend,
        "uses_rank_table": plan.uses_rank_table,
        "timeouts": plan.timeouts.model_dump(mode="json"),
    }
    atomic_write(path, json.dumps(data))


def read_plan(path: Path) -> LaunchPlan:
    """The plan as it was written. Raises RunNotFound where it cannot be read, say by a newer version."""
    try:
        return _from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunNotFound(
            f"the plan of this run cannot be read ({type(error).__name__})",
            where=str(path),
            remedy="remove its directory; `orchestrate runs --rediscover` asks the hosts again",
        ) from error


def _from_json(data: dict[str, Any]) -> LaunchPlan:
    return LaunchPlan(
        **{
            **data,
            "hosts": tuple(Host.model_validate(host) for host in data["hosts"]),
            "ssh": SshOptions.model_validate(data["ssh"]),
            "placements": tuple(Placement(**item) for item in data["placements"]),
            "manifests": {name: Manifest.from_json(item) for name, item in data["manifests"].items()},
            "sources": {sha256: Path(source) for sha256, source in data["sources"].items()},
            "packages": tuple(data["packages"]),
            "host_paths": tuple(data["host_paths"]),
            "timeouts": Timeouts.model_validate(data["timeouts"]),
        }
    )


def _placement(item: Placement) -> dict[str, object]:
    return {name: getattr(item, name) for name in Placement.__slots__}
