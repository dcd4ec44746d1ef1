"""The workload of a simulated run, and its gang: steps that all ranks make together, computed and not stored.

A rank that is dead or stands still holds up all others, as a collective does. How far the gang is at any time
is a formula of the seconds in which it moved; only its milestones (a save begins or ends, the last step is
made) are events, at true times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.core.records import Phase
from orchestrator.simulation.timeline import Event
from orchestrator.simulation.timetable import Timetable
from orchestrator.simulation.virtual_time import World

__all__ = ["Gang", "Workload"]

_KEPT = 2  # saves of an attempt, of which older ones are removed


@dataclass(frozen=True, slots=True)
class Workload:
    """What every rank does, in seconds; `steps` None: until it is stopped.

    `reports`: its steps are seen in its metrics, each or (`report_every`) one of so many. After SIGTERM a
    rank ends within `term`, or, where it is `deaf`, not at all. `peer_timeout` is how long a rank waits for
    one that does not come, before it fails; the scheduler misses a rank after `heartbeat`. `spread`: ends of
    the same cause lie so far apart.

    A save holds up all ranks for `save`; it is whole `write` later, while steps go on. A rank's shard has
    `shard_bytes`, of which `move_rate` a second come from host to host. `tells_saved`: each rank tells of its
    last whole save, though of no phases. `replica`: so many ranks together hold all, and the others hold it
    once more; None: as the job says.

    `has_phases`: it tells of its phases, too; until its first step is made it compiles. After a step whose
    number `save_every` divides it saves, then, if `evaluate_every` does, it evaluates, then, behind step
    `recompile_at`, it compiles again. `can` is what it announces: who announces `save` answers SIGTERM, once
    it has made a step, by a checkpoint of all ranks at the next one. `compute` of the seconds of a step are a
    rank's own.
    """

    imports: float = 8.0
    first_step: float = 20.0
    step: float = 2.0
    steps: int | None = None
    save_every: int | None = None
    save: float = 20.0
    term: float = 0.2
    is_deaf: bool = False
    peer_timeout: float = 600.0
    heartbeat: float = 60.0
    spread: float = 0.3
    reports: bool = True
    tokens_per_step: int = 1 << 20
    report_every: int = 1
    has_phases: bool = False
    can: tuple[str, ...] = ()
    evaluate_every: int | None = None
    evaluate: float = 60.0
    recompile_at: int | None = None
    recompile: float = 60.0
    compute: float | None = None
    write: float = 0.0
    shard_bytes: float = 1e9
    move_rate: float = 1e8
    tells_saved: bool = False
    replica: int | None = None

    @property
    def longest_pause(self) -> float:
        """The most seconds between two steps, but for the first."""
        saves = 0.0 if self.save_every is None else self.save
        evaluates = 0.0 if self.evaluate_every is None else self.evaluate
        return self.step + saves + evaluates + (0.0 if self.recompile_at is None else self.recompile)


class Gang:
    """Where all ranks of a run are. Times are true.

    `on_milestone` is told `first` (the first step is made), `save`, `saved`, `left` (all have saved because
    they were told to end) or `done`, and `stage` where the ranks tell of phases and another one has begun.

    `on_stall` is told once when the ranks begin to wait, `on_leave` of every rank that ends while they do;
    `stalled` is the clock at the last of either.
    """

    def __init__(self, world: World, workload: Workload, ranks: int) -> None:
        self.workload = workload
        self.on_milestone: list[Callable[[str], None]] = []
        self.on_stall: list[Callable[[], None]] = []
        self.on_leave: list[Callable[[], None]] = []
        self.stalled = -math.inf
        self._is_stall_told = False
        self.on_move: list[Callable[[], None]] = []
        self._world = world
        self._ranks = ranks
        self._joined: set[int] = set()
        self._held: dict[int, int] = {}
        self._factors: dict[str, float] = {}
        self._factor = 1.0
        self._moved = 0.0  # seconds of work that are done, up to `_since`
        self._since: float | None = None
        self._stood_since = 0.0
        self._milestone: Event | None = None
        self._minds_saves = True
        self.is_done = False
        self.saves = 0  # that were lived through
        self._timetable = Timetable(workload)
        self.has_left = False
        # True times: when a host was last told to start, the first step was made, and a rank first ended.
        self.told_at: float | None = None
        self.first_at: float | None = None
        self.broke_at: float | None = None

    def begin_at(self, step: int) -> None:
        """The ranks go on behind this step, which an attempt before has saved; before they have begun."""
        if not self.has_begun:
            self._timetable.begin = step

    @property
    def begun_at(self) -> int:
        """The step behind which it began; 0: anew."""
        return self._timetable.begin

    @property
    def is_moving(self) -> bool:
        return self._since is not None

    @property
    def has_begun(self) -> bool:
        """Whether all ranks were there at any time."""
        return self._moved > 0 or self.is_moving

    @property
    def absent(self) -> list[int]:
        """The ranks that the others wait for."""
        return [rank for rank in range(self._ranks) if rank not in self._joined or rank in self._held]

    def join(self, rank: int) -> None:
        """This rank has imported everything and waits for the others."""
        self._joined.add(rank)
        self._change()

    def leave(self, rank: int) -> None:
        """This rank has ended."""
        if self.broke_at is None and not self.is_done:
            self.broke_at = self._world.true_now
        self._joined.discard(rank)
        if not self.is_moving and not self.is_done:
            # Who waits for the first step waits in vain from now on; who knows that already looks himself.
            self._stall(self.on_leave if self._is_stall_told else self.on_stall)
        self._change()

    def hold(self, rank: int) -> None:
        """This rank stands still, for one reason more."""
        self._held[rank] = self._held.get(rank, 0) + 1
        self._change()

    def release(self, rank: int) -> None:
        self._held[rank] = self._held.get(rank, 1) - 1
        if self._held[rank] <= 0:
            del self._held[rank]
        self._change()

    def slow(self, host: str, factor: float) -> None:
        """A step takes `factor` times as long while this host is slow; the slowest one counts."""
        self._factors[host] = factor
        self._change()

    def seconds_of_step(self) -> float:
        return self.workload.step * self._factor

    def step(self) -> int:
        """The last step that all ranks have made; before its first that of which it goes on."""
        return self._timetable.steps(self._work())

    @property
    def saved(self) -> int:
        """The step of the last save that all ranks have finished; 0 before the first."""
        return max(self.kept_steps, default=0)

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """The steps of its last saves that are whole, at most `_KEPT`, in their order."""
        load, work, begin = self.workload, self._work(), self._timetable.begin
        step = self.step()
        found = [step] if self.has_left and step > begin else []
        last = 0 if load.save_every is None else step // load.save_every * load.save_every
        while load.save_every is not None and last > begin and len(found) < _KEPT:
            seconds = load.save + load.write
            if last != step or not self.has_left:
                found += [last] if work >= self._timetable.work_at(last) + seconds - 1e-6 else []
            last -= load.save_every
        return tuple(reversed(found))

    def leave_with_save(self) -> bool:
        """Have all ranks save behind the next step and end; False where none has been made yet."""
        step = self.step()
        if step == self.begun_at or self.is_done:
            return False
        if self._timetable.leave_at is None:
            self._timetable.leave_at = step + 1
            self._change()
        return True

    def progress(self, clock: float, host: str = "") -> dict[str, Any]:
        """The newest line of a rank's metrics that has a step; {} before the first one.

        `clock` is the time of its host.
        """
        load = self.workload
        step = self.step()
        step -= step % load.report_every if step != load.steps else 0
        if step <= self.begun_at or not load.reports:
            return {}
        seconds = self.seconds_of_step()
        line = {
            "step": step,
            "total_steps": load.steps or step,
            "loss": round(2.0 + 9.0 / (1.0 + step / 50.0), 4),
            "lr": 1e-4,
            "tokens_per_s": round(load.tokens_per_step / seconds, 1),
            "step_time_s": round(seconds, 4),
            "time": round(clock - self._age(self._timetable.work_at(step)), 3),
            "grad_norm": 0.5,
        }
        if load.compute is not None:
            line["compute_s"] = round(load.compute * self._factors.get(host, 1.0), 4)
        return line

    def phase(self, rank: int, clock: float) -> dict[str, Any]:
        """The newest line of a rank's metrics that has a phase; {} where it tells of none."""
        load = self.workload
        if not load.has_phases:
            return {}
        line: dict[str, Any] = {"time": round(clock, 3), "can": list(load.can)}
        if not self.has_begun:
            return {**line, "phase": str(Phase.INIT if rank in self._joined else Phase.IMPORT)}
        place = self._timetable.place(self._work())
        line["time"] = round(clock - self._age(place.since), 3)
        if place.phase in (Phase.SAVE, Phase.EVALUATE):
            line["step"] = place.step
        if saved := self.saved:
            line["saved"] = saved
        return {**line, "phase": str(Phase.STEP if self.has_left else place.phase)}

    def _work(self) -> float:
        if self._since is None:
            return self._moved
        return self._moved + (self._world.true_now - self._since) / self._factor

    def _age(self, work: float) -> float:
        """The seconds since so much work was done."""
        stood = 0.0 if self.is_moving else self._world.true_now - self._stood_since
        return max(0.0, self._work() - work) * self._factor + stood

    def _change(self) -> None:
        """Go on, or stand still, from now on as what has changed demands."""
        self._moved = self._work()
        self._factor = max([1.0, *self._factors.values()])
        moves = len(self._joined) == self._ranks and not self._held and not self.is_done
        was_moving = self.is_moving
        self._since = self._world.true_now if moves else None
        if self._milestone is not None:
            self._milestone.cancel()
            self._milestone = None
        if moves:
            self._plan()
        if moves != was_moving:
            if not moves:
                self._stood_since = self._world.true_now
                self._stall(self.on_stall)
                return
            self._is_stall_told = False
            for told in list(self.on_move):
                told()

    def _stall(self, whom: list[Callable[[], None]]) -> None:
        self.stalled, self._is_stall_told = self._world.now, True
        for told in list(whom):
            told()

    def _plan(self) -> None:
        """Have the next milestone happen."""
        load, table = self.workload, self._timetable
        step = table.steps(self._moved)
        found: list[tuple[float, str]] = []
        if step == table.begin:
            found.append((load.first_step, "first"))
        if load.steps is not None:
            found.append((table.work_at(load.steps), "done"))
        if table.leave_at is not None:
            found.append((table.work_at(table.leave_at) + load.save, "left"))
        if load.save_every is not None and self._minds_saves:
            last = step // load.save_every * load.save_every
            if last > table.begin and self._moved < table.work_at(last) + load.save - 1e-6:
                found.append((table.work_at(last) + load.save, "saved"))
            if table.leave_at is None or last + load.save_every <= table.leave_at:
                found.append((table.work_at(last + load.save_every), "save"))
        if load.has_phases and self._minds_saves and (begins := table.next_phase(self._moved)) is not None:
            found.append((begins, "stage"))
        if found:
            work, what = min(found)
            due = self._world.true_now + (work - self._moved) * self._factor
            self._milestone = self._world.at(due, lambda: self._reach(what))

    def mind_saves(self, does: bool) -> None:
        """Whether saves are milestones: while nothing else happens, each is as the one before."""
        self._minds_saves = does
        self._change()

    def _reach(self, what: str) -> None:
        self._milestone = None
        self.first_at = self._world.true_now if what == "first" else self.first_at
        self.saves += what == "saved"
        self.has_left = self.has_left or what == "left"
        self.is_done = self.is_done or what in ("done", "left")
        for told in list(self.on_milestone):
            told(what)
        self._change()
