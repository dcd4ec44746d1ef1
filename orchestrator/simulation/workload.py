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

from orchestrator.simulation.timeline import Event
from orchestrator.simulation.virtual_time import World

__all__ = ["Gang", "Workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """What every rank does, in seconds; `steps` None: until it is stopped.

    `reports`: its steps are seen in its metrics. After SIGTERM a rank ends within `term`, or, where it is
    `deaf`, not at all. `peer_timeout` is how long a rank waits for one that does not come, before it fails;
    the scheduler misses a rank after `heartbeat`. `spread`: ends of the same cause lie so far apart.
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


class Gang:
    """Where all ranks of a run are. Times are true; `on_milestone` is told `save`, `saved` or `done`.

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
        self._milestone: Event | None = None
        self._minds_saves = True
        self.is_done = False
        self.saves = 0  # that were lived through

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
        """The last step that all ranks have made; 0 before the first."""
        return self._steps(self._work())

    @property
    def saved(self) -> int:
        """The step of the last save that all ranks have finished; 0 before the first."""
        every, work = self.workload.save_every, self._work()
        if every is None:
            return 0
        last = self._steps(work) // every * every
        is_whole = last and work >= self._work_at(last) + self.workload.save - 1e-6
        return last if is_whole else max(0, last - every)

    def progress(self, clock: float) -> dict[str, Any]:
        """The newest line of a rank's metrics, `clock` being its host's time; {} before the first step."""
        work = self._work()
        step = self._steps(work)
        if not step or not self.workload.reports:
            return {}
        seconds = self.seconds_of_step()
        return {
            "step": step,
            "total_steps": self.workload.steps or step,
            "loss": round(2.0 + 9.0 / (1.0 + step / 50.0), 4),
            "lr": 1e-4,
            "tokens_per_s": round(self.workload.tokens_per_step / seconds, 1),
            "step_time_s": round(seconds, 4),
            "time": round(clock - max(0.0, work - self._work_at(step)) * self._factor, 3),
            "grad_norm": 0.5,
        }

    def _work(self) -> float:
        if self._since is None:
            return self._moved
        return self._moved + (self._world.true_now - self._since) / self._factor

    def _steps(self, work: float) -> int:
        """As many as fit: the first takes longer, and after every so many there is a save."""
        load, work = self.workload, work - self.workload.first_step + 1e-6
        if work < 0:
            return 0
        if load.save_every is None:
            made = 1 + int(work / load.step)
        else:
            # Step s ends at (s - 1) steps and as many saves as were made before it.
            period = load.save_every * load.step + load.save
            work += load.step
            whole, rest = divmod(work, period)
            made = int(whole) * load.save_every + min(load.save_every, int(rest / load.step))
        return made if load.steps is None else min(made, load.steps)

    def _work_at(self, step: int) -> float:
        """The work that is done when a step has just been made."""
        load = self.workload
        saves = 0 if load.save_every is None else (step - 1) // load.save_every
        return load.first_step + (step - 1) * load.step + saves * load.save

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
        load = self.workload
        step = self._steps(self._moved)
        found: list[tuple[float, str]] = []
        if load.steps is not None:
            found.append((self._work_at(load.steps), "done"))
        if load.save_every is not None and self._minds_saves:
            last = step // load.save_every * load.save_every
            if last and self._moved < self._work_at(last) + load.save - 1e-6:
                found.append((self._work_at(last) + load.save, "saved"))
            found.append((self._work_at(last + load.save_every), "save"))
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
        self.saves += what == "saved"
        self.is_done = self.is_done or what == "done"
        for told in list(self.on_milestone):
            told(what)
        self._change()
