"""A launch as data: everything that will be put on each host and started there. `--dry-run` prints it.

As a file it is what the monitor of a run, a process of its own, starts from; later commands read it, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.agent.environment import starts_by_table_alone
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.config.job import Timeouts
from orchestrator.core.errors import RunNotFound
from orchestrator.core.paths import atomic_write
from orchestrator.core.records import Manifest
from orchestrator.plan.placement import Placement

__all__ = ["TABLE_ALONE", "LaunchPlan", "read_plan", "write_plan"]

TABLE_ALONE = (
    "networking.mode legacy_rank_table starts the ranks by a rank table alone: MindSpore 2.x makes no groups"
    " so (create_group, send and receive end the program with `please use msrun to start it`)"
)


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What a launch will do. `manifests` lack only the scheduler's port where it is ours to choose.

    `notes` are what of the job has no effect here.
    """

    run_id: str
    job_name: str
    task: str
    created: float
    hosts: tuple[Host, ...]
    ssh: SshOptions
    placements: tuple[Placement, ...]
    manifests: dict[str, Manifest]
    worker_config: str
    rank_table: str | None
    sources: dict[str, Path]
    packages: tuple[str, ...]
    host_paths: tuple[str, ...]
    chooses_port: bool
    ascend: bool
    uses_rank_table: bool
    timeouts: Timeouts
    notes: tuple[str, ...] = ()

    @property
    def master(self) -> Host:
        """The host of rank 0, where the scheduler runs."""
        return self.hosts[0]

    @property
    def intra_roce(self) -> bool:
        """Whether HCCL uses the devices' own network inside a host, too."""
        return self.manifests[self.master.name].workers[0].env.get("HCCL_INTRA_ROCE_ENABLE") == "1"

    @property
    def by_table_alone(self) -> bool:
        """Whether the ranks have a rank table and no scheduler."""
        return starts_by_table_alone(self.manifests[self.master.name].workers[0].env)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about the plan, one line each."""
        return (
            f"{TABLE_ALONE}; use mode rank_table unless the program needs this one",
        ) * self.by_table_alone

    @property
    def world_size(self) -> int:
        return len(self.placements)


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
        "notes": plan.notes,
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
            "notes": tuple(data.get("notes", ())),
        }
    )


def _placement(item: Placement) -> dict[str, object]:
    return {name: getattr(item, name) for name in Placement.__slots__}
