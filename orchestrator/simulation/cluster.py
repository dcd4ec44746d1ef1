"""A simulated cluster: the hosts of an inventory, what their gangs do, and the faults that befall them."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from orchestrator.config.inventory import Device, Host, Inventory, SshOptions
from orchestrator.core.ends import SCHEDULER, StopKind, StopReason
from orchestrator.core.records import Manifest
from orchestrator.hosts.allocation import AllocationState
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.scheduling import Scheduling
from orchestrator.simulation.sim_host import SimHost
from orchestrator.simulation.sim_process import SimProcess
from orchestrator.simulation.sim_session import DirectFleet, SimFleet
from orchestrator.simulation.sim_transport import SimTransport, Traffic
from orchestrator.simulation.virtual_time import World
from orchestrator.simulation.waiting_ranks import Waiting
from orchestrator.simulation.workload import Gang, Workload

__all__ = ["Cluster", "Misfortune", "SimAllocation", "synthetic_inventory"]


class Misfortune(Protocol):
    """One fault, as `faults.Fault` has it; what its kinds mean is said there."""

    @property
    def kind(self) -> str: ...
    @property
    def host(self) -> str | None: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def lasts(self) -> float | None: ...
    @property
    def code(self) -> int: ...
    @property
    def lines(self) -> Sequence[str]: ...
    @property
    def delay(self) -> float: ...
    @property
    def factor(self) -> float: ...
    @property
    def jump(self) -> float: ...
    @property
    def lie(self) -> str: ...
    @property
    def scope(self) -> str: ...


_PER_BLOCK = 250


def synthetic_inventory(like: Inventory, count: int, devices: int) -> Inventory:
    """As many hosts as are asked for, each as the inventory's first one but for its name and addresses."""
    first = like.hosts[0]
    hosts = []
    for index in range(count):
        block, place = divmod(index, _PER_BLOCK)
        own = tuple(
            Device(id=number, ip=f"10.{block + 20}.{place}.{number + 1}") for number in range(devices)
        )
        address = f"10.{block + 120}.{place}.1"
        name = f"node{index + 1:04d}"
        hosts.append(
            dataclasses.replace(
                first, name=name, address=address, transport="ssh", devices=own, env_script=None
            )
        )
    # No configuration of this machine says anything of them.
    ssh = SshOptions(config_file="/dev/null", known_hosts=("/dev/null",))
    return Inventory(path=like.path, hosts=tuple(hosts), groups={}, ssh=ssh)


class Cluster:
    """All simulated hosts of one world. `noted` is told what happens there, as host, rank and text.

    `direct`: sessions pass values, and no bytes; see `sim_session`.
    """

    def __init__(
        self,
        world: World,
        hosts: Iterable[Host],
        workload: Workload,
        *,
        ascend: bool,
        noted: Callable[[str, str, int | None], None] = lambda what, host, rank: None,
        direct: bool = False,
    ) -> None:
        self.world = world
        self._fleet: type[Fleet] = DirectFleet if direct else SimFleet
        self.workload = workload
        self.traffic = Traffic()
        self.gangs: dict[str, Gang] = {}  # in the order in which they were made
        self.newest: dict[str, tuple[Manifest, Gang]] = {}  # of each run the attempt that was made last
        self._inventory = tuple(hosts)
        self._ascend = ascend
        self._noted = noted
        self.hosts: dict[str, SimHost] = {}
        for index, host in enumerate(self._inventory):
            there = SimHost(world, host, index, self.gangs, self._new_gang, ascend=ascend)
            self.hosts[host.name] = there
        self._endings: dict[str, list[Callable[[], None]]] = {}

    def fleet(self, scheduling: Scheduling, *, timeout: float) -> Fleet:
        """The real fleet, over the simulated network."""
        transports = {
            name: SimTransport(there, self.traffic, timeout=timeout) for name, there in self.hosts.items()
        }
        return self._fleet(self._inventory, transports, scheduling=scheduling)

    def warm(self, contents: Mapping[str, int]) -> None:
        """Every host has these contents, by their hashes, from a launch before."""
        for there in self.hosts.values():
            there.store.update(contents)

    @property
    def processes(self) -> list[tuple[SimHost, SimProcess]]:
        """All workers and schedulers that run."""
        return [
            (there, process)
            for there in self.hosts.values()
            for run in there.runs.values()
            if run.supervisor is not None
            for process in run.supervisor.processes.values()
            if process.is_running
        ]

    @property
    def is_calm(self) -> bool:
        """Whether the newest gang of every run makes steps, and each of its hosts says what it has to say.

        That one does not is seen only after a while, and until then nothing else tells of it.
        """
        if not self.newest or not all(gang.is_moving for _, gang in self.newest.values()):
            return False
        theirs = (self.hosts[name] for manifest, _ in self.newest.values() for name in manifest.hosts)
        return not any(there.link.is_silent or there.lie for there in theirs)

    def gang_of(self, number: int) -> Gang | None:
        """That of the last attempt with this number, of the first run."""
        found = [gang for name, gang in self.gangs.items() if name.split("/")[-2] == str(number)]
        return found[-1] if found else None

    # The gang: who waits for one that does not come gives up some time.

    def _new_gang(self, manifest: Manifest) -> Gang:
        ranks = manifest.world_size or sum(len(manifest.workers) for _ in manifest.hosts)
        gang = Gang(self.world, self.workload, ranks)
        self.newest[manifest.run_id] = (manifest, gang)
        watch = Waiting(self, gang, manifest.run_id)
        gang.on_stall.append(watch.begin)
        gang.on_leave.append(watch.begin)
        gang.on_move.append(watch.end)
        return gang

    def members(self, run_id: str, gang: Gang | None = None) -> list[tuple[SimHost, SimProcess]]:
        """The processes of a run, or of one attempt (`gang`), living or not, that were started."""
        found = []
        for there in self.hosts.values():
            run = there.runs.get(run_id)
            is_meant = run is not None and (gang is None or run.gang is gang)
            if run is not None and is_meant and run.supervisor is not None:
                found += [(there, process) for process in run.supervisor.processes.values()]
        return found

    def victim_lines(self, missing: int) -> tuple[str, ...]:
        """What the log of a rank says that has waited in vain, as HCCL 8.3 and MindSpore 2.4 write it."""
        if self._ascend:
            return (
                "EI0002: A timeout occurs when the Notify register waits for execution. "
                f"Waiting peer rank: {missing}; task information: streamID:[90], taskID[686], "
                "taskType[Notify Wait], tag[AllReduce_1]",
                "RuntimeError: Exec graph failed",
            )
        return (f"RuntimeError: connection to rank {missing} lost",)

    # What happens to it.

    def apply(self, fault: Misfortune) -> None:
        """Have it happen now. What befalls a rank that does not run, or a host that is off, is nothing."""
        self._noted(f"fault {fault.kind}", fault.host or "", fault.rank)
        if fault.rank is not None:
            self._to_rank(fault)
        elif fault.host is not None:
            self._to_host(fault, self.hosts[fault.host])

    def _to_rank(self, fault: Misfortune) -> None:
        found = ((there, there.process(fault.rank or 0)) for there in self.hosts.values())
        there, process = next(((t, p) for t, p in found if p is not None and t.is_on), (None, None))
        if there is None or process is None:
            return
        if fault.kind == "kill":
            process.signal(signal.SIGKILL)
        elif fault.kind == "exit":
            process.exit(fault.code, fault.lines)
        elif fault.kind == "freeze":
            process.freeze()
            self._lasting(there, fault, process.thaw)
        elif fault.kind == "hang":
            process.hang()
            self._lasting(there, fault, process.go_on)
        else:
            raise ValueError(f"no fault of a rank: {fault.kind}")

    def _to_host(self, fault: Misfortune, there: SimHost) -> None:
        begin = _HOST_FAULTS.get(fault.kind)
        if fault.kind == "return":
            for ending in self._endings.pop(there.name, []):
                ending()
            there.power_on()
        elif begin is None:
            raise ValueError(f"no fault of a host: {fault.kind}")
        else:
            self._lasting(there, fault, begin(self, there, fault))

    def _lasting(self, there: SimHost, fault: Misfortune, end: Callable[[], None] | None) -> None:
        """Have the fault end once: when its time is over, or when its host returns."""
        if end is None:
            return
        endings = self._endings.setdefault(there.name, [])
        endings.append(end)

        def over() -> None:
            if end in self._endings.get(there.name, []):
                self._endings[there.name].remove(end)
                self._noted(f"end of {fault.kind}", there.name, fault.rank)
                end()

        if fault.lasts is not None:
            self.world.at(self.world.true_now + fault.lasts, over)

    def _held(self, there: SimHost) -> Callable[[], None]:
        """No rank of this host takes part any more where others wait for it; what undoes that."""
        held = [
            (run.gang, process.rank)
            for run in there.runs.values()
            if run.supervisor is not None and run.supervisor.is_alive and len(run.manifest.hosts) > 1
            for process in run.supervisor.processes.values()
            if process.rank != SCHEDULER and process.is_running
        ]
        for gang, rank in held:
            gang.hold(rank)

        def release() -> None:
            for gang, rank in held:
                gang.release(rank)

        return release


def _kill_supervisor(cluster: Cluster, there: SimHost, fault: Misfortune) -> None:
    for supervisor in there.supervisors:
        supervisor.die()


def _kill_guardian(cluster: Cluster, there: SimHost, fault: Misfortune) -> None:
    for supervisor in there.supervisors:
        supervisor.stop(StopReason(StopKind.GUARDIAN_ENDED))


def _fill_disk(cluster: Cluster, there: SimHost, fault: Misfortune) -> Callable[[], None]:
    there.is_full = True
    return lambda: setattr(there, "is_full", False)


def _reboot(cluster: Cluster, there: SimHost, fault: Misfortune) -> Callable[[], None]:
    there.power_off()
    return there.power_on


def _partition(cluster: Cluster, there: SimHost, fault: Misfortune) -> Callable[[], None]:
    there.silence(1)
    release = cluster._held(there) if fault.scope == "all" else lambda: None

    def end() -> None:
        there.silence(-1)
        release()

    return end


def _refuse_login(cluster: Cluster, there: SimHost, fault: Misfortune) -> Callable[[], None]:
    there.link.refuses_login = True
    return lambda: setattr(there.link, "refuses_login", False)


def _slow(cluster: Cluster, there: SimHost, fault: Misfortune) -> Callable[[], None]:
    def become(delay: float, factor: float) -> None:
        there.answers_late = delay
        for gang in cluster.gangs.values():
            gang.slow(there.name, factor)

    become(fault.delay, fault.factor)
    return lambda: become(0.0, 1.0)


def _clock_jump(cluster: Cluster, there: SimHost, fault: Misfortune) -> None:
    there.offset += fault.jump


def _lie(cluster: Cluster, there: SimHost, fault: Misfortune) -> Callable[[], None]:
    there.lie = fault.lie
    return lambda: setattr(there, "lie", None)


_HOST_FAULTS: Mapping[str, Callable[[Cluster, SimHost, Misfortune], Callable[[], None] | None]] = {
    "kill_supervisor": _kill_supervisor,
    "kill_guardian": _kill_guardian,
    "fill_disk": _fill_disk,
    "reboot": _reboot,
    "power_off": _reboot,
    "partition": _partition,
    "refuse_login": _refuse_login,
    "slow": _slow,
    "clock_jump": _clock_jump,
    "lie": _lie,
}


@dataclasses.dataclass(frozen=True)
class SimAllocation:
    """The hosts of a simulated cluster, as a monitor asks for them."""

    cluster: Cluster
    scheduling: Scheduling
    timeout: float
    state: AllocationState = AllocationState.GRANTED
    until: float | None = None

    def hosts(self) -> tuple[Host, ...]:
        return self.cluster._inventory

    def fleet(self) -> Fleet:
        return self.cluster.fleet(self.scheduling, timeout=self.timeout)

    def release(self) -> None:
        pass
