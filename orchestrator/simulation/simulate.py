"""A simulated run: the real monitor, watch and verdicts over a simulated cluster, in virtual time.

The plan is a real one, of a real job and an inventory; the run's record is written to a real folder.
Stretches in which the gang makes steps, every host answers and nothing else is due are jumped over.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config.inventory import Host
from orchestrator.control.monitor import Monitor
from orchestrator.control.monitor_lock import LivingMonitor
from orchestrator.control.run_record import AttemptRecord, Cause, RunRecord
from orchestrator.control.runs import make_control_dir
from orchestrator.control.stop import Ways
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RankState, RunState
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.host_link import digest_seconds
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.recovery.run_recovery import recovery_of
from orchestrator.simulation.cluster import Cluster, Misfortune, SimAllocation
from orchestrator.simulation.sim_outcome import AttemptSeen, Cost, Happening, Outcome
from orchestrator.simulation.sim_shards import keep_passed_over
from orchestrator.simulation.timeline import EPOCH
from orchestrator.simulation.verb_line import VerbLine
from orchestrator.simulation.virtual_scheduling import VirtualScheduling
from orchestrator.simulation.virtual_time import Process, World
from orchestrator.simulation.workload import Workload

__all__ = ["AttemptSeen", "Cost", "Happening", "Outcome", "Simulation", "simulate"]

_HOUR = 3600.0
_LOOK = 5.0  # so often it is looked whether there is anything but steps
_LEAST_JUMP = 30.0
_SAVES = 2
_MANY = 1000
# Faults that are seen in themselves, whatever was known of the pace of the ranks.
_AT_ONCE = frozenset({"kill", "exit", "kill_supervisor", "kill_guardian", "reboot", "power_off", "return"})
_SHORT = 45.0  # no hang is seen before 60 s
_BEFORE = 2.0  # a jump ends so long before what is due


class Timed(Misfortune, Protocol):
    """A fault with its time, in seconds since the launch."""

    @property
    def time(self) -> float: ...


class Simulation:
    """One run of a plan on simulated hosts, with faults. `run` is called once.

    `folder` takes the state directory. `hours` is how much is simulated at most; it ends `after` seconds
    after the run and its monitor. `jumps`: whether stretches without news are passed over. `limit` is in
    seconds of real time. `told` hears each record of the monitor, in the middle of its work. `direct`: values
    pass between control node and hosts, and no bytes, which takes a third of the time; no host lies then.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        folder: Path,
        *,
        workload: Workload | None = None,
        faults: Iterable[Timed] = (),
        hours: float = 24.0,
        seed: int = 0,
        jumps: bool = True,
        after: float = 60.0,
        limit: float = 600.0,
        told: Callable[[RunRecord], None] = lambda record: None,
        direct: bool = False,
    ) -> None:
        self.world = World(seed=seed, limit=limit)
        self.scheduling = VirtualScheduling(self.world)
        self.happenings: list[Happening] = []
        self.record: RunRecord | None = None
        self.cluster = Cluster(
            self.world,
            (*plan.hosts, *plan.spares),
            workload or Workload(),
            ascend=plan.ascend,
            noted=self._note,
            direct=direct,
        )
        self.cluster.warm({sha256: path.stat().st_size for sha256, path in plan.sources.items()})
        self._plan = plan
        self._folder = folder
        self._faults = tuple(faults)
        self._seconds = hours * _HOUR
        self._jumps = jumps
        # After anything that had a date every host tells of its steps before a stretch is passed over: once,
        # and where it matters how long a step takes once more.
        self._digest = digest_seconds(len(plan.hosts))
        self._after = after
        self._told_too = told
        self._control: ControlDir | None = None
        self._monitor: Process | None = None
        self._verbs: list[tuple[float, Callable[[ControlDir, Ways], None]]] = []
        self.line: VerbLine | None = None
        self._ended = self.scheduling.signal()
        self._begun_at: dict[int, float] = {}  # of attempts
        self._ended_at: dict[int, float] = {}
        self._running: float | None = None
        self._last_news = 0.0
        self._begun = (0.0, 0.0)
        self._first_fault = 0.0  # real time
        self._at_running: tuple[float, float] | None = None  # the controller's CPU, and the clock

    def run(self) -> Outcome:
        """The run from its launch to its end, or as far as the hours go."""
        self._begun = _clocks()
        self.world.run(self._live)
        assert self.record is not None
        controller, spent = self._controller(), time.process_time() - self._begun[1]
        launch, watch = None, None
        if self._at_running is not None:
            launch, since = self._at_running
            watch = (controller - launch) / max(1.0, self.world.now - since)
        cost = Cost(
            seconds=time.perf_counter() - self._begun[0],
            controller=controller,
            hosts=spent - controller,
            launch=launch,
            watch=watch,
            told=self._seconds_until_told(),
            memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            events=self.world.events_done,
            jumped=self.world.jumped,
        )
        newest = self.cluster.newest.values()
        return Outcome(
            record=self.record,
            seconds=self.world.true_now,
            running=self._running,
            ended=None if self.record.ended is None else self._since_launch(self.record.ended),
            saved=max((max(gang.saved, gang.begun_at) for _, gang in newest), default=0),
            steps=max((gang.step() for _, gang in newest), default=0),
            happenings=tuple(self.happenings),
            orphans=tuple(sorted(process.rank for _, process in self.cluster.processes)),
            traffic=self.cluster.traffic,
            cost=cost,
            attempts=tuple(map(self._seen, self.record.attempts)),
        )

    def _seen(self, attempt: AttemptRecord) -> AttemptSeen:
        gang = self.cluster.gang_of(attempt.number)
        begun = self._begun_at.get(attempt.number, 0.0)
        ended = self._ended_at.get(attempt.number)
        if gang is None:
            return AttemptSeen(attempt.number, begun, ended=ended, decision=attempt.decision)
        steps, saved = gang.step(), gang.saved
        every = self.cluster.workload.save_every
        return AttemptSeen(
            number=attempt.number,
            begun=begun,
            resumed=gang.begun_at,
            told=gang.told_at,
            first=gang.first_at,
            broke=gang.broke_at,
            ended=ended,
            steps=steps,
            saved=saved,
            saves=0 if not every else max(0, saved // every - gang.begun_at // every),
            decision=attempt.decision,
        )

    def _controller(self) -> float:
        """Its CPU until now."""
        seconds, spent = (now - begun for now, begun in zip(_clocks(), self._begun, strict=True))
        return spent * (1.0 - min(1.0, self.world.events_seconds / seconds))

    def _seconds_until_told(self) -> float | None:
        told = [there.told for there in self.cluster.hosts.values() if there.told is not None]
        return max(told) - self._first_fault if told and self._first_fault else None

    def _live(self) -> None:
        self._control = make_control_dir(self._plan, self._folder)
        for fault in self._faults:
            self.world.at(fault.time, lambda each=fault: self._befall(each))  # type: ignore[misc]
        over = self.scheduling.signal()
        self.world.at(self._seconds, over.set)
        if self._jumps:
            self.world.after(_LOOK, self._look)
        for date, verb in self._verbs:
            self.world.at(date, lambda each=verb: self._give(each))  # type: ignore[misc]
        self._watch(watch_only=False)
        self.world.after(0.0, lambda: self._when_ended(over))
        over.wait()

    def _when_ended(self, over: Any) -> None:
        """The simulation is over some time after the monitor has nothing more to do."""

        def wait() -> None:
            self._ended.wait()
            self.scheduling.sleep(self._after)
            over.set()

        self.world.spawn("end", wait, Process("end"))

    # The monitor.

    def _watch(self, *, watch_only: bool) -> None:
        process = Process("monitor")
        self._monitor = process
        self.line = line = VerbLine(self._plan.timeouts)
        process.on_kill.append(line.close)
        scheduling = VirtualScheduling(self.world, process)
        allocation = SimAllocation(self.cluster, scheduling, self._plan.ssh.connect_timeout)

        def live() -> None:
            assert self._control is not None
            monitor = Monitor(
                self._control,
                allocation,
                scheduling=scheduling,
                verbs=line,
                told=self._told,
                fleet_of=lambda hosts, ssh: self._fleet_of(hosts, scheduling),
                recovery_of=recovery_of,
            )
            monitor.run(watch_only=watch_only)
            self._ended.set()

        self.world.spawn("monitor", live, process)

    def _fleet_of(self, hosts: Sequence[Host], scheduling: VirtualScheduling) -> Fleet:
        fleet = self.cluster.fleet(scheduling, timeout=self._plan.ssh.connect_timeout)
        return fleet.part(host.name for host in hosts)

    def _befall(self, fault: Timed) -> None:
        self._last_news = self.world.true_now
        self._first_fault = self._first_fault or time.perf_counter()
        if fault.kind != "monitor_kill":
            self.cluster.apply(fault)
            return
        self._note("fault monitor_kill", "", None)
        if self._monitor is not None and self._monitor.is_alive and not self._ended.is_set():
            self.world.kill(self._monitor)
            if fault.lasts is not None:
                self.world.at(self.world.true_now + fault.lasts, lambda: self._watch(watch_only=True))

    # What people do.

    def at(self, time: float, verb: Callable[[ControlDir, Ways], None]) -> None:
        """Have somebody give a verb so many seconds after the launch. What it raises ends the simulation."""
        self._verbs.append((time, verb))

    def _give(self, verb: Callable[[ControlDir, Ways], None]) -> None:
        self._last_news = self.world.true_now
        process = Process("verb")
        scheduling = VirtualScheduling(self.world, process)
        timeout = self._plan.ssh.connect_timeout
        ways = Ways(
            living=lambda control: LivingMonitor(1) if self.line is not None and self.line.is_open else None,
            newest=lambda control: self.line.newest() if self.line is not None else None,
            by_monitor=lambda control, reason: self.line.stop(reason, scheduling) if self.line else None,
            fleet=lambda plan: self.cluster.fleet(scheduling, timeout=timeout),
            watched_again=self._watched_again,
            scheduling=scheduling,
        )

        def live() -> None:
            assert self._control is not None
            verb(self._control, ways)

        self.world.spawn("verb", live, process)

    def _watched_again(self, control: ControlDir, record: RunRecord, *, at_once: bool = False) -> RunRecord:
        lives = self._monitor is not None and self._monitor.is_alive and not self._ended.is_set()
        if record.needs_monitor_at(self.scheduling.time()) and not lives:
            self._watch(watch_only=True)
        return record

    # What happens.

    def _since_launch(self, clock: float) -> float:
        """True seconds since the launch when the control node's clock showed this."""
        return self.world.true_time(clock - EPOCH)

    def _note(self, what: str, host: str, rank: int | None) -> None:
        self.happenings.append(Happening(round(self.world.true_now, 3), what, host, rank))

    def _told(self, record: RunRecord) -> None:
        """The monitor has a new record: what is new in it."""
        before, self.record = self.record, record
        number = record.attempts[-1].number
        if number not in self._begun_at:
            self._begun_at[number] = self.world.true_now
            self._note(f"attempt {number} is begun", "", None)
        if record.state.is_terminal or record.state is RunState.RESTARTING:
            self._ended_at.setdefault(number, self.world.true_now)
        if before is None or before.phase != record.phase or before.state is not record.state:
            self._note(f"{record.state}: {record.phase}", "", None)
        cause = record.cause
        if cause is not None and _named(cause) != _named(before.cause if before is not None else None):
            sure = "" if cause.sure else ", not sure"
            self._note(f"the cause is {cause.end.kind.value}{sure}", cause.host, cause.rank)
        if self._running is None and record.state is RunState.RUNNING:
            ranks = (rank for view in record.hosts.values() for rank in view.ranks())
            all_run = all(rank.state is RankState.RUNNING for rank in ranks)
            if all_run:
                self._running = self.world.true_now
                self._at_running = (self._controller(), self.world.now)
        self._note_views(record, before)
        self._told_too(record)

    def _note_views(self, record: RunRecord, before: RunRecord | None) -> None:
        known = before.hosts if before is not None else {}
        for name, view in record.hosts.items():
            old = known.get(name)
            if view is old:
                continue
            if old is not None and (bool(view.error), view.lost) != (bool(old.error), old.lost):
                self._note("lost" if view.lost else "unreachable" if view.error else "answers", name, None)
            ended = {rank.rank for rank in old.ranks() if rank.end} if old is not None else set()
            for rank in view.ranks():
                if rank.end is not None and rank.rank not in ended and self._is_told(rank.state):
                    self._note(f"{rank.state} ({rank.end.kind.value})", name, rank.rank)

    def _is_told(self, state: RankState) -> bool:
        """Of thousands that are stopped because one has failed nothing is noted."""
        return state is not RankState.STOPPED or (self.record is not None and self.record.world_size < _MANY)

    # Stretches without news.

    def _look(self) -> None:
        self.world.after(_LOOK, self._look)
        record, date = self.record, self.world.next_date()
        calm = record is not None and record.state is RunState.RUNNING and record.cause is None
        if not calm or not self.cluster.is_calm or self._any_error():
            self._last_news = self.world.true_now
            return
        since = max(self._last_news, self.world.last_date)
        if date is not None and self.world.true_now - since >= self._settling(date):
            self._jump()

    def _any_error(self) -> bool:
        return self.record is not None and any(view.error for view in self.record.hosts.values())

    def _settling(self, date: float) -> float:
        """Seconds until it is passed over to what is due then."""
        coming = {fault.kind for fault in self._faults if abs(fault.time - date) < 1.0}
        rounds = 1.0 if coming and coming <= _AT_ONCE else 2.0
        return 10.0 + rounds * self._digest

    def _jump(self) -> None:
        """To just before what is due next; over saves, too, once the monitor has seen how long they take.

        Those that are shorter than any hang need not be seen.
        """
        is_short = self.cluster.workload.longest_pause < _SHORT
        gangs = [gang for _, gang in self.cluster.newest.values()]
        known = [gang for gang in gangs if is_short or gang.saves >= _SAVES]
        is_roomy = not any(there.is_full for there in self.cluster.hosts.values())
        passed = known if is_roomy else []
        for gang in passed:
            gang.mind_saves(False)
        date = self.world.next_date()
        seconds = (date or 0.0) - self.world.true_now - _BEFORE
        if seconds > _LEAST_JUMP:
            self.world.jump(seconds)
        for gang in passed:
            gang.mind_saves(True)
            keep_passed_over(self.cluster.hosts.values(), gang)


def _clocks() -> tuple[float, float]:
    """Real time, and this process's CPU."""
    return time.perf_counter(), time.process_time()


def _named(cause: Cause | None) -> object:
    """What of a cause is news; its time and words become more exact all the while."""
    return cause and (cause.host, cause.rank, cause.end.kind, cause.sure)


def simulate(plan: LaunchPlan, folder: Path, **options: Any) -> Outcome:
    """One run of a plan on simulated hosts; `options` are those of `Simulation`."""
    return Simulation(plan, folder, **options).run()
