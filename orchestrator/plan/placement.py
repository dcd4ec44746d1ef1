"""Which rank runs on which device of which host."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.config.host_ranges import RangeError, fold, split_list
from orchestrator.config.inventory import RING, Device, Host, Inventory
from orchestrator.core.errors import ConfigError, Problem

if TYPE_CHECKING:  # a plan that is read again has no job, and takes no time for how one is read
    from orchestrator.config.job import Job, JobParallel

__all__ = [
    "Placement",
    "choose_devices",
    "degree_problems",
    "groups_between_hosts",
    "hosts_of",
    "place",
    "seated",
    "spares_left_out",
    "spread_problems",
]


@dataclass(frozen=True, slots=True)
class Placement:
    """One rank: its device, and its place (`dp`, `mp`, `pp`) in the parallel layout."""

    rank: int
    host: str
    local_rank: int
    device_id: int
    device_ip: str | None
    dp: int
    mp: int
    pp: int


def place(job: Job, inventory: Inventory) -> tuple[Placement, ...]:
    """All ranks in order: hosts as the job names them, on each `devices_per_host` devices that fit together.

    rank = stage*(dp*mp) + dp_index*mp + mp_index. So model-parallel groups stay inside a host (one that is
    larger fills whole hosts), and pipeline stages, which talk least, go across hosts. With `replicas: spread`
    the hosts are filled replica by replica instead, so that all stages of one are together.
    Raises ConfigError: unknown hosts, too few hosts or devices, devices that a 910A cannot join, and what
    `degree_problems` tells.
    """
    hosts = hosts_of(job, inventory)
    job = job.with_replicas(len(hosts) * job.devices_per_host)
    problems = [*_too_few_devices(job, hosts), *degree_problems(job, len(hosts))]
    if problems:
        raise ConfigError(problems)
    return tuple(_placements(job, hosts))


def choose_devices(host: Host, count: int, busy: Collection[int] = ()) -> tuple[Device, ...] | None:
    """The devices of a host for `count` ranks, None where none will do; `busy` are the ids not to take.

    Up to four ranks share an HCCS ring, the fullest that has room, so that the other stays whole; on a 910A
    they must, elsewhere there is no harm in it.
    """
    free = [device for device in host.devices if device.id not in busy]
    if len(free) < count:
        return None
    if count <= RING and host.chip in (None, "910A"):
        rings: dict[int, list[Device]] = {}
        for device in free:
            rings.setdefault(device.id // RING, []).append(device)
        fitting = [ring for _, ring in sorted(rings.items()) if len(ring) >= count]
        if fitting:
            return tuple(min(fitting, key=len)[:count])
        if host.chip == "910A":
            return None
    return tuple(free[:count])


def hosts_of(job: Job, inventory: Inventory) -> tuple[Host, ...]:
    """The hosts that the job names; `all` does not mean its spares. Raises ConfigError at its `hosts`."""
    words = (*job.hosts, f"!@{_spare_group(job)}") if spares_left_out(job, inventory) else job.hosts
    try:
        return inventory.select(words, job.host_count)
    except ConfigError as error:
        where = job.where("hosts")
        shown = str(inventory.path)
        found = [Problem(where, f"{problem.what} in {shown}", problem.remedy) for problem in error.problems]
        raise ConfigError(found) from None


def degree_problems(job: Job, host_count: int) -> Iterator[Problem]:
    """What keeps the degrees of a job from so many hosts: a product that is not the world size, groups that
    hosts would cut, replicas that cannot be on different hosts."""
    yield from _wrong_product(job, host_count)
    yield from _cut_groups(job, host_count)
    yield from spread_problems(job, host_count)


def spares_left_out(job: Job, inventory: Inventory) -> tuple[str, ...]:
    """The hosts that `all` does not mean because they are the job's spares; () where `all` is not said."""
    members = inventory.groups.get(_spare_group(job), ())
    try:
        words = [word for item in job.hosts for word in split_list(item)] if members else ["none"]
    except RangeError:
        return ()  # whoever selects them says what is wrong
    means_all = {"all", "@all"} & set(words) or all(word.startswith("!") for word in words)
    own = {word.removeprefix("@") for word in words}
    return () if not means_all or {_spare_group(job), *members} & own else members


def _spare_group(job: Job) -> str:
    return (job.restart.spares or "").removeprefix("@")


def _too_few_devices(job: Job, hosts: tuple[Host, ...]) -> Iterator[Problem]:
    wanted = job.devices_per_host
    short: dict[int, list[str]] = {}
    for host in hosts:
        if len(host.devices) < wanted:
            short.setdefault(len(host.devices), []).append(host.name)
    for count, names in short.items():
        text = f"{wanted} ranks wanted on {fold(names)}, which has {count} devices"
        yield Problem(job.where("devices_per_host"), text, "lower it, or choose other hosts")
    cut = [h.name for h in hosts if len(h.devices) >= wanted and choose_devices(h, wanted) is None]
    if cut:
        text = (
            f"{wanted} ranks wanted on {fold(cut)}, where no HCCS ring (devices 0-3, 4-7) has as many devices"
        )
        yield Problem(job.where("devices_per_host"), text, "lower it, or list more `devices:` of one ring")


def _degrees(job: Job, world_size: int) -> tuple[int, int, int]:
    parallel = job.parallel
    if job.task in ("command", "mindformers") and parallel.world_size == 1:
        return world_size, 1, 1  # a script of any kind: its ranks are replicas unless the job says otherwise
    return parallel.data_parallel, parallel.model_parallel, parallel.pipeline_stage


def _wrong_product(job: Job, host_count: int) -> Iterator[Problem]:
    world_size = host_count * job.devices_per_host
    dp, mp, pp = _degrees(job, world_size)
    if dp * mp * pp != world_size:
        text = (
            f"data_parallel {dp} × model_parallel {mp} × pipeline_stage {pp} = {dp * mp * pp}, but "
            f"{host_count} hosts × {job.devices_per_host} devices_per_host = {world_size}"
        )
        yield Problem(job.where("parallel"), text, "both sides must be equal")
    if world_size > 1 and job.networking.mode == "none" and job.task != "command":
        text = f"mode none cannot join {world_size} ranks"
        yield Problem(job.where("networking", "mode"), text, "use dynamic or rank_table")


def _cut_groups(job: Job, host_count: int) -> Iterator[Problem]:
    per_host = job.devices_per_host
    _, mp, _ = _degrees(job, host_count * per_host)
    if host_count > 1 and per_host % mp and mp % per_host:
        text = (
            f"model_parallel {mp} on {per_host} devices_per_host: hosts would cut the model-parallel groups"
        )
        remedy = "let one of the two divide the other"
        yield Problem(job.where("parallel", "model_parallel"), text, remedy)


def spread_problems(job: Job, host_count: int) -> Iterator[Problem]:
    """Why the replicas of a job that asks for it cannot be on different hosts."""
    if not job.parallel.is_spread:
        return
    where = job.where("parallel", "replicas")
    per_host = job.devices_per_host
    dp, mp, pp = _degrees(job, host_count * per_host)
    if host_count < 2:
        yield Problem(
            where, "spread needs two hosts, and the job has one", "write packed, or give it more hosts"
        )
    elif dp < 2:
        what = f"spread needs replicas, and there are none: data_parallel is {dp}"
        yield Problem(where, what, "raise data_parallel, or keep copies with checkpoint.copies")
    elif job.parallel.optimizer_shard:
        what = "spread doubles no optimizer state: with optimizer_shard each replica has a part of its own"
        yield Problem(where, what, "set optimizer_shard to false, or keep copies with checkpoint.copies")
    elif job.networking.has_table and pp > 1 and per_host > mp:
        what = "spread puts all stages of a replica together, so that ranks of one server come between those "
        remedy = "use networking: {mode: dynamic}, or keep copies with checkpoint.copies"
        yield Problem(where, what + "of another, which a rank table must not have", remedy)


def groups_between_hosts(parallel: JobParallel, per_host: int, *, spread: bool) -> tuple[bool, bool]:
    """Whether a data group, and whether two stages that follow each other, are on several hosts."""
    dp, mp, pp = parallel.data_parallel, parallel.model_parallel, parallel.pipeline_stage

    def host(stage: int, replica: int, part: int) -> int:
        return _seat((stage * dp + replica) * mp + part, (dp, mp, pp), spread=spread) // per_host

    data = any(host(stage, 0, m) != host(stage, dp - 1, m) for stage in range(pp) for m in range(mp))
    pairs = ((stage, replica) for stage in range(pp - 1) for replica in range(dp))
    return data, any(host(stage, replica, 0) != host(stage + 1, replica, 0) for stage, replica in pairs)


def _seat(rank: int, degrees: tuple[int, int, int], *, spread: bool) -> int:
    """The place of a rank in the row of all devices, host by host."""
    if not spread:
        return rank
    dp, mp, pp = degrees
    stage, within = divmod(rank, dp * mp)
    replica, part = divmod(within, mp)
    return (replica * pp + stage) * mp + part


def seated(placements: Sequence[Placement], degrees: Mapping[str, Any]) -> tuple[Placement, ...]:
    """The same ranks with their places by other degrees; parts of a context count as replicas do.

    As MindSpore lays out its ranks, and MindFormers' parallel_core/training_graph/communication.py: stages
    outermost, then replicas, then parts of a context, then of a layer.
    """
    mp, pp = degrees["model_parallel"], degrees["pipeline_stage"]
    block = max(1, len(placements) // pp)
    return tuple(
        replace(item, pp=item.rank // block, dp=item.rank % block // mp, mp=item.rank % mp)
        for item in placements
    )


def _placements(job: Job, hosts: tuple[Host, ...]) -> Iterator[Placement]:
    per_host = job.devices_per_host
    world_size = len(hosts) * per_host
    dp, mp, pp = _degrees(job, world_size)
    devices = [choose_devices(host, per_host) or () for host in hosts]
    taken = [0] * len(hosts)  # on each host, in the order of the ranks, as MindSpore counts local ranks
    for rank in range(world_size):
        index = _seat(rank, (dp, mp, pp), spread=job.parallel.is_spread) // per_host
        local_rank, taken[index] = taken[index], taken[index] + 1
        device = devices[index][local_rank]
        yield Placement(
            rank=rank,
            host=hosts[index].name,
            local_rank=local_rank,
            device_id=device.id,
            device_ip=device.ip,
            dp=rank // mp % dp,
            mp=rank % mp,
            pp=rank // (dp * mp),
        )
