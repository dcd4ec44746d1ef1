"""A launch as data: everything that will be put on each host and started there. `--dry-run` prints it.

As a file it is what the monitor of a run, a process of its own, starts from; later commands read it, too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.agent.worker_environment import starts_by_table_alone
from orchestrator.ascend.found_devices import FoundHost
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.config.run_terms import Health, JobSource, Restart, Timeouts
from orchestrator.core.codec import DecodeError, NewerFormat, Stored, dumps, load, to_json
from orchestrator.core.errors import RunNotFound
from orchestrator.core.paths import atomic_write
from orchestrator.core.records import FIRST, Attempt, Input, Load, Manifest
from orchestrator.plan.copy_ring import CopyRing
from orchestrator.plan.placement import Placement

__all__ = ["TABLE_ALONE", "LaunchPlan", "read_plan", "unreadable", "write_plan"]

TABLE_ALONE = (
    "networking.mode legacy_rank_table starts the ranks by a rank table alone: MindSpore 2.x makes no groups"
    " so (create_group, send and receive end the program with `please use msrun to start it`)"
)


@dataclass(frozen=True)
class LaunchPlan(Stored):
    """What a launch will do. `manifests` lack only the scheduler's port where it is ours to choose.

    It is the plan of one attempt; `notes` are what of the job has no effect here. `job` is what it was made
    of, None in a plan of an earlier version. `origin` is the (attempt, step) that the attempt goes on from,
    (0, 0) where it begins anew; `loads` are, by host, the shards that are there already. `spares` are the
    hosts that stand ready, in the order in which they are taken. `found` is what the tools of the hosts have
    told of their devices: a later attempt need not ask hosts that stay. `copies`: where shards are copied to.
    `snapshot_bytes` is what copies of the shards take of a host's memory at most, see `checkpoint.async`.
    `run_yaml` is MindFormers' run YAML as this attempt has it, and `run_source` as it was read; both are for
    `task: mindformers` alone.
    """

    # 2: it lies in the folder of its attempt, and who does not know of attempts must not start from it.
    FORMAT = 2
    LARGEST = 256 << 20  # the code's files are listed once a host

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
    attempt: Attempt = FIRST
    health: Health = field(default_factory=Health)
    job: JobSource | None = None
    origin: tuple[int, int] | None = None
    loads: dict[str, tuple[Load, ...]] = field(default_factory=dict)
    restart: Restart = field(default_factory=Restart)
    spares: tuple[Host, ...] = ()
    found: dict[str, FoundHost] = field(default_factory=dict)
    copies: CopyRing | None = None
    snapshot_bytes: int = 0
    run_yaml: str = ""
    run_source: str = ""

    @cached_property
    def worker_settings(self) -> Mapping[str, Any]:
        """The workers' configuration, read; empty for a run that was found again on its hosts."""
        if not self.worker_config:
            return {}
        # Late: few of those who read a plan ask for this.
        from orchestrator.config.yaml_reader import parse_yaml

        return parse_yaml("worker.yaml", self.worker_config.encode()).data

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
    sources = {sha256: source.absolute() for sha256, source in plan.sources.items()}
    # Each manifest has the names of all hosts: of a thousand that is a million names, which are here already.
    manifests = _with_hosts(plan.manifests, _names(plan), ())
    atomic_write(path, _text_of(dataclasses.replace(plan, sources=sources), manifests))


def read_plan(path: Path) -> LaunchPlan:
    """The plan as it was written. Raises RunNotFound where it cannot be read, say by a newer version."""
    try:
        plan = load(LaunchPlan, path, path.parent)
        return dataclasses.replace(plan, manifests=_with_hosts(plan.manifests, (), _names(plan)))
    except (OSError, DecodeError) as error:
        raise unreadable(path, error) from error


def _names(plan: LaunchPlan) -> tuple[str, ...]:
    return tuple(host.name for host in plan.hosts)


def _text_of(plan: LaunchPlan, manifests: Mapping[str, Manifest]) -> str:
    """As `dumps`, with these manifests.

    Those of a thousand hosts list the same inputs, five sixths of the file: the text of each is made once. A
    key stands in JSON as it does in the texts that are put in only outside of strings, whose quotes have a
    backslash.
    """
    known: dict[int, str] = {}  # by the object, which lives as long as the plan
    lists: dict[int, str] = {}  # nearly all hosts have the same tuple

    def listed(items: tuple[Input, ...]) -> str:
        if id(items) not in lists:
            for item in items:
                if id(item) not in known:
                    known[id(item)] = json.dumps(to_json(item))
            lists[id(items)] = f'"inputs": [{", ".join([known[id(item)] for item in items])}]'
        return lists[id(items)]

    rows = []
    for name, manifest in manifests.items():
        own = json.dumps(to_json(dataclasses.replace(manifest, inputs=())))
        rows.append(f"{json.dumps(name)}: {own.replace(_NO_INPUTS, listed(manifest.inputs), 1)}")
    text = dumps(dataclasses.replace(plan, manifests={}))
    return text.replace(_NO_MANIFESTS, f'"manifests": {{{", ".join(rows)}}}', 1)


_NO_INPUTS, _NO_MANIFESTS = '"inputs": []', '"manifests": {}'


def _with_hosts(
    manifests: dict[str, Manifest], before: tuple[str, ...], after: tuple[str, ...]
) -> dict[str, Manifest]:
    """Those that name `before` as the run's hosts name `after`."""
    return {
        name: dataclasses.replace(manifest, hosts=after) if manifest.hosts == before else manifest
        for name, manifest in manifests.items()
    }


def unreadable(path: Path, error: Exception) -> RunNotFound:
    """What is said of a run whose plan or record cannot be read."""
    if isinstance(error, NewerFormat):
        remedy = "use the version of orchestrate that launched the run, or a newer one"
    else:
        remedy = "remove its directory; `orchestrate runs --rediscover` asks the hosts again"
    what = getattr(error, "strerror", None) or str(error)
    return RunNotFound(f"this run cannot be read: {what}", where=str(path), remedy=remedy)
