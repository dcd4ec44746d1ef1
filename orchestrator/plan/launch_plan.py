"""A launch as data: everything that will be put on each host and started there. `--dry-run` prints it.

As a file it is what the monitor of a run, a process of its own, starts from; later commands read it, too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.agent.worker_environment import starts_by_table_alone
from orchestrator.ascend.found_devices import FoundHost
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.config.run_terms import Health, JobSource, Restart, Timeouts
from orchestrator.config.schema import Section
from orchestrator.core.codec import DecodeError, NewerFormat, Stored, from_json, to_json, unpacked
from orchestrator.core.errors import RunNotFound
from orchestrator.core.paths import atomic_write
from orchestrator.core.records import FIRST, Attempt, Load, Manifest
from orchestrator.core.safe_open import read_safely
from orchestrator.plan.copy_ring import CopyRing
from orchestrator.plan.placement import Placement
from orchestrator.plan.record_table import lists_of, lists_read, records_read, table_of
from orchestrator.plan.section_limits import require_limits

__all__ = [
    "TABLE_ALONE",
    "LaunchPlan",
    "PlannedHosts",
    "read_hosts",
    "read_outline",
    "read_plan",
    "unreadable",
    "write_plan",
]

T = TypeVar("T")

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
    # 3: what there is of each host and rank is in tables, see plan/record_table.py.
    FORMAT = 3
    LARGEST = 256 << 20  # format 2 lists the code's files once a host

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


@dataclass(frozen=True)
class PlannedHosts:
    """The hosts of an attempt, and how they are reached."""

    hosts: tuple[Host, ...]
    ssh: SshOptions


# What there is of each host or rank, by the field of a plan: lists of records, and records by a host's name.
_TABLES: dict[str, type] = {"hosts": Host, "spares": Host, "placements": Placement}
_BY_NAME: dict[str, type] = {"manifests": Manifest, "found": FoundHost}
_APART: dict[str, Any] = {**dict.fromkeys(_TABLES, ()), **{name: {} for name in (*_BY_NAME, "loads")}}
_WITH_TABLES = 3


def write_plan(path: Path, plan: LaunchPlan) -> None:
    """Write with mode 0600: a job's environment may hold secrets."""
    sources = {sha256: source.absolute() for sha256, source in plan.sources.items()}
    small = dataclasses.replace(plan, sources=sources, **_APART)
    data = {"format": plan.FORMAT, **to_json(small)}
    for name, kind in _TABLES.items():
        data[name] = table_of(kind, getattr(plan, name))
    for name, kind in _BY_NAME.items():
        records = getattr(plan, name)
        data[name] = {"names": list(records), **table_of(kind, list(records.values()))}
    data["loads"] = {"names": list(plan.loads), **lists_of(Load, list(plan.loads.values()))}
    atomic_write(path, json.dumps(data))


def read_plan(path: Path) -> LaunchPlan:
    """The plan as it was written. Raises RunNotFound where it cannot be read, say by a newer version."""
    return _read(path, lambda data: _plan_of(data, ()))


def read_outline(path: Path) -> LaunchPlan:
    """The plan without what each host was started with: `manifests` is empty. Raises RunNotFound."""
    return _read(path, lambda data: _plan_of(data, ("manifests",)))


def read_hosts(path: Path) -> PlannedHosts:
    """The hosts of a plan alone, a small part of what it says. Raises RunNotFound."""
    return _read(path, _hosts_of)


def _read(path: Path, decode: Callable[[dict[str, Any]], T]) -> T:
    try:
        return decode(unpacked(LaunchPlan, read_safely(path, path.parent, LaunchPlan.LARGEST)))
    except (OSError, DecodeError) as error:
        raise unreadable(path, error) from error


def _hosts_of(data: dict[str, Any]) -> PlannedHosts:
    if data.get("format", 1) < _WITH_TABLES:
        hosts = from_json(PlannedHosts, data)
    else:
        hosts = dataclasses.replace(
            from_json(PlannedHosts, {**data, "hosts": ()}), hosts=_table(Host, data, "hosts")
        )
    _require_limits(hosts)
    return hosts


def _plan_of(data: dict[str, Any], left_out: tuple[str, ...]) -> LaunchPlan:
    apart: dict[str, Any] = {name: {} for name in left_out}
    if data.get("format", 1) < _WITH_TABLES:
        plan = from_json(LaunchPlan, {**data, **apart})
        # Each manifest is without the names of all hosts, which are there already.
        plan = dataclasses.replace(plan, manifests=_with_names(plan))
    else:
        apart |= {name: _table(kind, data, name) for name, kind in _TABLES.items()}
        apart |= {name: _by_name(data, name) for name in (*_BY_NAME, "loads") if name not in apart}
        plan = from_json(LaunchPlan, {**data, **_APART})
        plan = dataclasses.replace(plan, **apart)
    _require_limits(plan)
    return plan


def _table(kind: type[T], data: Mapping[str, Any], name: str) -> tuple[T, ...]:
    try:
        return tuple(records_read(kind, data.get(name, {})))
    except DecodeError as error:
        raise error.within(f".{name}") from None


def _by_name(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Records, or for `loads` lists of them, by the names of hosts."""
    try:
        table = from_json(dict, data.get(name, {}))
        names = _names(table)
        values = records_read(_BY_NAME[name], table) if name in _BY_NAME else lists_read(Load, table)
        if len(values) != len(names):
            raise DecodeError(f"{len(names)} names, and {len(values)} of what they name")
    except DecodeError as error:
        raise error.within(f".{name}") from None
    return dict(zip(names, values, strict=True))


def _names(table: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return from_json(tuple[str, ...], table.get("names", ()))
    except DecodeError as error:
        raise error.within(".names") from None


def _with_names(plan: LaunchPlan) -> dict[str, Manifest]:
    names = tuple(host.name for host in plan.hosts)
    return {
        name: manifest if manifest.hosts else dataclasses.replace(manifest, hosts=names)
        for name, manifest in plan.manifests.items()
    }


def _require_limits(read: LaunchPlan | PlannedHosts) -> None:
    """Raise DecodeError for a number that no job and no inventory may have."""
    for each in dataclasses.fields(read):
        value = getattr(read, each.name)
        is_list = isinstance(value, tuple) and bool(value) and isinstance(value[0], Section)
        if is_list or isinstance(value, Section):
            try:
                require_limits(value if is_list else (value,))
            except DecodeError as error:
                place = error.place if is_list else error.place.removeprefix("[0]")
                raise DecodeError(error.what, f".{each.name}{place}") from None


def unreadable(path: Path, error: Exception) -> RunNotFound:
    """What is said of a run whose plan or record cannot be read."""
    if isinstance(error, NewerFormat):
        remedy = "use the version of orchestrate that launched the run, or a newer one"
    else:
        remedy = "remove its directory; `orchestrate runs --rediscover` asks the hosts again"
    what = getattr(error, "strerror", None) or str(error)
    return RunNotFound(f"this run cannot be read: {what}", where=str(path), remedy=remedy)
