"""The ranks of a simulated gang that wait for others which do not come: they give up some time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.core.ends import SCHEDULER
from orchestrator.simulation.workload import Gang

if TYPE_CHECKING:
    from orchestrator.simulation.cluster import Cluster

__all__ = ["Waiting"]

_NEAR = 1e-6


class Waiting:
    """What ranks do that wait for others: they give up after a time, and so does the scheduler."""

    def __init__(self, cluster: Cluster, gang: Gang, run_id: str) -> None:
        self._cluster = cluster
        self._gang = gang
        self._run_id = run_id
        self._since: float | None = None  # by the world's clock; None while nobody waits
        self._timed: set[Callable[[], None]] = set()

    def begin(self) -> None:
        """Count from now on: with each rank that ends, of thousands, the others wait anew."""
        self._since = None if self._gang.is_done else self._cluster.world.now
        load = self._cluster.workload
        self._mind(self._give_up, load.peer_timeout)
        self._mind(self._miss, load.heartbeat)

    def end(self) -> None:
        self._since = None

    def _mind(self, act: Callable[[], None], seconds: float) -> None:
        """Have this done once they have waited so long; one timer for it is enough."""
        if act in self._timed or self._since is None:
            return
        self._timed.add(act)

        def look() -> None:
            self._timed.discard(act)
            if self._since is None:
                return
            if world.now < self._since + seconds - _NEAR:
                self._mind(act, seconds)
            else:
                act()

        world = self._cluster.world
        world.after(self._since + seconds - world.now, look)

    def _give_up(self) -> None:
        """Each rank that still waits fails, and says for whom it has waited."""
        missing = self._missing()
        if not missing:
            return
        world, load = self._cluster.world, self._cluster.workload
        lines = self._cluster.victim_lines(missing[0])
        for there, process in self._cluster.members(self._run_id, self._gang):
            waits = process.rank != SCHEDULER and process.is_running and process.rank not in missing
            if waits and there.is_on:
                late = world.random.random() * load.spread
                world.after(late, lambda each=process: each.exit(1, lines))  # type: ignore[misc]

    def _miss(self) -> None:
        """The scheduler hears no heartbeat of ranks that are dead or stopped; one that hangs has one."""
        silent = self._missing(hung=False)
        if not silent:
            return
        for there, process in self._cluster.members(self._run_id, self._gang):
            if process.rank == SCHEDULER and process.is_running and there.is_on:
                named = f"The node: {silent[0]} is timed out. It may exit with exception, "
                process.exit(1, (named + "please check this node's log.",))

    def _missing(self, *, hung: bool = True) -> list[int]:
        """The ranks that do not take part."""
        members = {process.rank: process for _, process in self._cluster.members(self._run_id, self._gang)}
        return [
            rank
            for rank in self._gang.absent
            if hung or rank not in members or not members[rank].is_hung or not members[rank].is_running
        ]
