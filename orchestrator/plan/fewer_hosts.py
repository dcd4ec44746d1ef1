"""A job on other hosts than it asks for: its layout on so many, with the global batch that the run has had.

Nothing here touches a host. With the same global batch, step for step the same records make the same update.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.config.inventory import Chip, Host, Inventory
from orchestrator.config.job import Job, JobParallel
from orchestrator.config.job_network import network_of
from orchestrator.config.worker_config import TRAINING, Train, broken_training_rules
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.plan.placement import degree_problems, hosts_of
from orchestrator.sizing.device_memory import HBM
from orchestrator.sizing.estimate import estimate, size_of
from orchestrator.sizing.step_workload import Workload, workload_of
from orchestrator.sizing.suggest import fitting, suggest

__all__ = [
    "Layout",
    "fitting_counts",
    "fitting_layouts",
    "global_batch",
    "global_batch_of",
    "job_on",
    "on_names",
    "require_min_hosts",
]

_NO_LIMIT = 1 << 62
# What a layout changes of a job, as it is written on the command line.
_PARALLEL = ("data_parallel", "model_parallel", "pipeline_stage", "micro_batch_num", "optimizer_shard")
_TRAIN = ("batch_size", "gradient_accumulation", "recompute")


@dataclass(frozen=True, slots=True)
class Layout:
    """The degrees of a training, and the batch of a replica with its parts."""

    parallel: JobParallel
    train: Train

    def words(self, before: Layout) -> tuple[str, ...]:
        """What it changes of another one, as `--set` takes it."""
        pairs: list[tuple[str, str, object, object]] = [
            ("parallel", key, self.parallel, before.parallel) for key in _PARALLEL
        ]
        pairs += [("train", key, self.train, before.train) for key in _TRAIN]
        return tuple(
            f"{section}.{key}={str(getattr(now, key)).lower()}"
            for section, key, now, was in pairs
            if getattr(now, key) != getattr(was, key)
        )


def global_batch(settings: Mapping[str, Any]) -> int | None:
    """The records of a step over all replicas, by the configuration of the workers; None: no training."""
    train, parallel = settings.get("train") or {}, settings.get("parallel") or {}
    if not train.get("batch_size") or not parallel.get("data_parallel"):
        return None
    return int(train["batch_size"]) * int(parallel["data_parallel"])


def global_batch_of(job: Job, ranks: int) -> int | None:
    """The same of a job on so many ranks, by its own layout."""
    if job.train is None or job.task not in TRAINING:
        return None
    return job.train.batch_size * job.with_replicas(ranks).parallel.data_parallel


def on_names(job: Job, hosts: Sequence[Host]) -> Job:
    """The job on these very hosts: groups and counts of its inventory mean nothing any more."""
    return job.model_copy(update={"hosts": tuple(host.name for host in hosts), "host_count": None})


def job_on(job: Job, hosts: Sequence[Host], batch: int | None) -> Job:
    """The job on these hosts, with `batch` records a step over all replicas; None: as many as it says.

    Where its own layout fits these hosts, it stays. Else a training gets the layout that `plan --suggest`
    ranks first, where the job says what a device has; or else the same cut of the model with other replicas.
    Its source stays what was written, so that on other hosts again its own layout counts. Raises ConfigError:
    no layout fits.
    """
    found = _laid_out(job, hosts, batch)
    if found is None:
        where = job.where("parallel")
        raise ConfigError([Problem(where, _lacking(job, len(hosts), batch), "take other hosts")])
    return on_names(found, hosts)


def fitting_counts(job: Job, inventory: Inventory) -> tuple[int, ...]:
    """The numbers of hosts on which the job can run, from `restart.min_hosts` to all that it asks for.

    Of fewer hosts the first so many are taken. Raises ConfigError at its `hosts`.
    """
    hosts = hosts_of(job, inventory)
    return _counts(job, hosts, job.restart.min_hosts or len(hosts))


def require_min_hosts(job: Job, inventory: Inventory) -> None:
    """Raise ConfigError where a run is to go on with `restart.min_hosts`, and cannot."""
    least = job.restart.min_hosts
    if not job.restart.max or least is None:
        return
    hosts, where = hosts_of(job, inventory), job.where("restart", "min_hosts")
    if least > len(hosts):
        what = f"must be at most {len(hosts)}, the hosts of the job, got {least}"
        raise ConfigError([Problem(where, what, "null: only with all of them")])
    batch = global_batch_of(job, len(hosts) * job.devices_per_host)
    if _laid_out(job, hosts[:least], batch) is None:
        counts = fold_numbers(_counts(job, hosts, 1))
        what = f"{least}: {_lacking(job, least, batch)}"
        raise ConfigError([Problem(where, what, f"these numbers of hosts would do: {counts}")])


def _counts(job: Job, hosts: Sequence[Host], least: int) -> tuple[int, ...]:
    batch = global_batch_of(job, len(hosts) * job.devices_per_host)
    fewer = range(least, len(hosts))
    return (*(n for n in fewer if _laid_out(job, hosts[:n], batch, first=True) is not None), len(hosts))


def _lacking(job: Job, count: int, batch: int | None) -> str:
    ranks = count * job.devices_per_host
    if batch is not None:
        return f"no layout of {ranks} ranks keeps the global batch of {batch} records and fits"
    parallel = job.parallel
    degrees = f"model_parallel {parallel.model_parallel} × pipeline_stage {parallel.pipeline_stage}"
    if job.task == "chat":
        return f"a chat has one replica, of {degrees} ranks, and not {ranks}"
    return f"{degrees} do not divide {ranks} ranks"


def _laid_out(job: Job, hosts: Sequence[Host], batch: int | None, *, first: bool = False) -> Job | None:
    """The job in a layout for these hosts. With `first` any that fits will do, and the quickest is found."""
    world = len(hosts) * job.devices_per_host
    if batch is None or job.train is None:
        return _with_other_replicas(job, len(hosts), world)
    own = job.with_replicas(world)
    if own.parallel.world_size == world and global_batch_of(own, world) == batch:
        return own
    ranked = bool(job.max_device_memory) and not first
    for layout in fitting_layouts(own, hosts, batch, ranked=ranked, sort=not first):
        return own.model_copy(update={"parallel": layout.parallel, "train": layout.train})
    return None


def _with_other_replicas(job: Job, count: int, world: int) -> Job | None:
    """A job that does not train: only the number of its replicas changes."""
    if job.task in ("command", "mindformers") and job.parallel.world_size == 1:
        return job  # its ranks are replicas, as many as there are
    replicas, rest = divmod(world, job.parallel.model_parallel * job.parallel.pipeline_stage)
    if rest or not replicas or (job.task == "chat" and replicas > 1):
        return None
    found = job.model_copy(update={"parallel": replace(job.parallel, data_parallel=replicas)})
    return None if list(degree_problems(found, count)) else found


def fitting_layouts(
    job: Job,
    hosts: Sequence[Host],
    batch: int,
    *,
    ranked: bool = False,
    fixed: bool = False,
    sort: bool = True,
) -> Iterator[Layout]:
    """Layouts of a training on these hosts that keep its global batch and that devices have room for.

    The same cut of the model with other replicas comes first, then what `plan --suggest` ranks, best first;
    with `ranked` the other way round. `fixed`: the degrees are not changed, but for the replicas. Without
    `sort` they come in no order, the first one soon.
    """
    world = len(hosts) * job.devices_per_host
    same, other = _same_cut(job, world, batch), () if fixed else _suggested(job, world, batch, hosts, sort)
    for layout in chain(other, same) if ranked else chain(same, other):
        found = job.model_copy(update={"parallel": layout.parallel, "train": layout.train})
        broken = [*broken_training_rules(layout.train, layout.parallel), *degree_problems(found, len(hosts))]
        if not broken and _fits(found, hosts):
            yield layout


def _same_cut(job: Job, world: int, batch: int) -> Iterator[Layout]:
    """The model cut as it is. What a rank computes at a time stays as it was, if that can be."""
    parallel, train = job.parallel, job.train
    assert train is not None
    dp, rest = divmod(world, parallel.model_parallel * parallel.pipeline_stage)
    if rest or not dp or batch % dp:
        return
    degrees = replace(parallel, data_parallel=dp)
    size = batch // dp
    times = size // train.batch_size if size % train.batch_size == 0 else 1
    parts = dict.fromkeys((train.gradient_accumulation * times, train.gradient_accumulation, 1))
    for accumulation in parts:
        yield Layout(degrees, replace(train, batch_size=size, gradient_accumulation=accumulation))


def _suggested(job: Job, world: int, batch: int, hosts: Sequence[Host], sort: bool) -> Iterator[Layout]:
    try:
        network, workload = network_of(job), workload_of(job, _chips(hosts))
    except ConfigError:
        return  # a network that only the hosts know
    # All of the batch on one replica: how it is shared out is what is asked for.
    whole = replace(workload, cut=NetworkCut(network.family, 1, world, 1), batch_size=batch)
    limit = size_of(job.max_device_memory) if job.max_device_memory else _NO_LIMIT
    hbm = _device_memory(hosts)
    if sort:
        yield from (_layout_of(job, one.workload) for one in suggest(network, whole, limit, hbm=hbm))
    else:
        yield from (_layout_of(job, one) for one, _ in fitting(network, whole, limit, hbm))


def _layout_of(job: Job, workload: Workload) -> Layout:
    train, cut = job.train, workload.cut
    assert train is not None
    degrees = replace(
        job.parallel,
        data_parallel=cut.data_parallel,
        model_parallel=cut.model_parallel,
        pipeline_stage=cut.pipeline_stage,
        micro_batch_num=workload.micro_batch_num,
        optimizer_shard=cut.optimizer_shard and not job.parallel.is_spread,
    )
    size, again = workload.batch_size, workload.recompute
    return Layout(degrees, replace(train, batch_size=size, gradient_accumulation=1, recompute=again))


def _fits(job: Job, hosts: Sequence[Host]) -> bool:
    """Whether the network can be cut so, and a device has room, as far as anything says how much that is."""
    try:
        network, workload = network_of(job), workload_of(job, _chips(hosts))
    except ConfigError:
        return True  # a network that only the hosts know
    if list(workload.problems(network)):
        return False
    limit, hbm = size_of(job.max_device_memory) if job.max_device_memory else None, _device_memory(hosts)
    return (limit is None and hbm is None) or estimate(network, workload).fits(limit, hbm)


def _chips(hosts: Sequence[Host]) -> Collection[Chip]:
    return {host.chip for host in hosts if host.chip is not None}


def _device_memory(hosts: Sequence[Host]) -> int | None:
    return min((HBM[host.chip] for host in hosts if host.chip in HBM), default=None)
