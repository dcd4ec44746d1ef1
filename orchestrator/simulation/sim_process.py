"""A simulated host's run and its processes: what was sent and written, and workers that are numbers.

A worker waits, makes steps with its gang, and ends, by itself or by a signal.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.agent.stop_grace import SAVE
from orchestrator.agent.supervisor_state import Exit
from orchestrator.core.claims import NO_CLAIM
from orchestrator.core.ends import SCHEDULER, label_of
from orchestrator.core.log_signatures import telling_lines
from orchestrator.core.records import HostStatus, Manifest
from orchestrator.simulation.workload import Gang

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost
    from orchestrator.simulation.sim_supervisor import SimSupervisor

__all__ = ["TICK", "SimProcess", "SimRun"]

TICK = 1.0  # of seconds between two looks of a supervisor
_TAIL_LINES = 20
_KILLED = 0.01


class SimRun:
    """A run's folder on a simulated host: what was sent, what the supervisor wrote, and the logs."""

    def __init__(
        self, manifest: Manifest, hashes: Mapping[str, str], gang: Gang, worker_config: str = ""
    ) -> None:
        self.manifest = manifest
        self.gang = gang
        self.hashes = hashes  # of the files that were sent
        self.worker_config = worker_config
        self.status: HostStatus | None = None
        self.supervisor: SimSupervisor | None = None
        self.before: SimRun | None = None  # the attempt in whose place this one is
        self.claim = NO_CLAIM  # on which it was begun
        self.logs: dict[str, list[str]] = {}
        self.metrics: dict[int, list[str]] = {}
        self.unsaved: set[int] = set()  # steps for whose shards there was no room here
        self.oldest_kept = (0, 0)  # (attempt, step): what is older has been removed

    def log(self, label: str) -> bytes:
        return "".join(line + "\n" for line in self.logs.get(label, ())).encode()


class SimProcess:
    """A worker or the scheduler: it waits, makes steps with its gang, and ends."""

    def __init__(self, host: SimHost, run: SimRun, rank: int, ended: Callable[[SimProcess], None]) -> None:
        self.rank = rank
        self.identity = host.new_process()
        self.end: Exit | None = None
        self._ended: Callable[[SimProcess], None] | None = ended
        self.is_frozen = self.is_hung = self.is_ending = self.is_gone = False
        self._host = host
        self._run = run
        self._kept: list[int] = []  # signals that a stopped process gets when it goes on
        if rank != SCHEDULER:
            load = run.gang.workload
            host.world.after(load.imports + host.world.random.random() * load.spread, self._import)

    @property
    def is_running(self) -> bool:
        return self.end is None and not self.is_gone

    def signal(self, number: int) -> bool:
        """Whether there was a process to signal."""
        if not self.is_running:
            return False
        if number == signal.SIGKILL:
            self._host.world.after(_KILLED, lambda: self.exit(-signal.SIGKILL))
        elif self.is_frozen:
            self._kept.append(number)
        elif not self._run.gang.workload.is_deaf and not self.is_ending:
            self.is_ending = True
            if (
                self.rank != SCHEDULER
                and SAVE in self._run.gang.workload.can
                and self._run.gang.leave_with_save()
            ):
                return True  # it ends with all others, when they have saved
            load = self._run.gang.workload
            self._host.world.after(load.term, lambda: self.exit(-number))
        return True

    def freeze(self) -> None:
        """As SIGSTOP."""
        if self.is_running and not self.is_frozen:
            self.is_frozen = True
            self._hold()
            self._be_looked_at(TICK, 2 * TICK)

    def thaw(self) -> None:
        """As SIGCONT."""
        if self.is_frozen:
            self.is_frozen = False
            self._release()
            self._be_looked_at(TICK)
            kept, self._kept = self._kept, []
            for number in kept:
                self.signal(number)

    def _be_looked_at(self, *seconds: float) -> None:
        """Its supervisor looks at the states of processes once a second."""
        for late in seconds:
            self._host.world.after(late, self._looked_at)

    def _looked_at(self) -> None:
        if self._run.supervisor is not None:
            self._run.supervisor.step()

    def hang(self) -> None:
        """It makes no step any more, and ends by signals as before."""
        if self.is_running and not self.is_hung:
            self.is_hung = True
            self._hold()

    def go_on(self) -> None:
        if self.is_hung:
            self.is_hung = False
            self._release()

    def exit(self, code: int, lines: Sequence[str] = (), *, was_done: bool = False) -> None:
        """The process ends, its log with these lines."""
        if not self.is_running or (self.is_frozen and code != -signal.SIGKILL):
            return
        log = self._run.logs.setdefault(label_of(self.rank), [])
        if not self._host.is_full:  # its last words find no room either
            log.extend(lines)
        self.end = Exit(
            self.rank,
            code,
            self._host.time(),
            was_done=was_done,
            tail=tuple(log[-_TAIL_LINES:]) if code else (),
            evidence=telling_lines("\n".join(log)) if code else (),
        )
        ended = self._ended
        self.vanish()
        if ended is not None:
            ended(self)

    def vanish(self) -> None:
        """It is gone, with nobody to note that: its host has no power."""
        if self.rank != SCHEDULER:
            self._run.gang.leave(self.rank)
            for is_held in (self.is_frozen, self.is_hung):
                if is_held:
                    self._run.gang.release(self.rank)
        self.is_frozen = self.is_hung = False
        self.is_gone = True
        self._ended = None  # no ring of references: months are simulated without a collection of garbage

    def _import(self) -> None:
        if self.is_running:
            self._run.gang.join(self.rank)

    def _hold(self) -> None:
        if self.rank != SCHEDULER:
            self._run.gang.hold(self.rank)

    def _release(self) -> None:
        if self.rank != SCHEDULER:
            self._run.gang.release(self.rank)
