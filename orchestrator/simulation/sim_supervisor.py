"""A simulated host's supervisor: the real decisions of `SupervisorState`, over processes that are numbers.

It does what agent/supervisor.py does with sockets, processes and files: carries actions out, notes ends and
progress, minds the deadlines once a second, and writes the status as far as the disk takes it. Its guardian
ends what is left when it goes.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.agent.daemon import obituary
from orchestrator.agent.status_feed import StatusFeed
from orchestrator.agent.supervisor import INTERVAL
from orchestrator.agent.supervisor_state import Action, Exit, Start, SupervisorState
from orchestrator.core.claims import NO_CLAIM
from orchestrator.core.ends import SCHEDULER, End, EndKind, StopKind, StopReason, label_of
from orchestrator.core.log_signatures import telling_lines
from orchestrator.core.records import HostStatus, Manifest
from orchestrator.core.states import RankState
from orchestrator.simulation.timeline import Event
from orchestrator.simulation.workload import Gang

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost

__all__ = ["SimProcess", "SimRun", "SimSupervisor"]

_TICK = 1.0
_TAIL_LINES = 20
_REAPED = 0.005  # from the end of a process until its parent has noted it
_KILLED = 0.01
_STALL_LOOK = 5.0
_FULL = ("Traceback (most recent call last):", "OSError: [Errno 28] No space left on device")


class SimRun:
    """A run's folder on a simulated host: what was sent, what the supervisor wrote, and the logs."""

    def __init__(self, manifest: Manifest, hashes: Mapping[str, str], gang: Gang) -> None:
        self.manifest = manifest
        self.gang = gang
        self.hashes = hashes  # of the files that were sent
        self.status: HostStatus | None = None
        self.supervisor: SimSupervisor | None = None
        self.before: SimRun | None = None  # the attempt in whose place this one is
        self.claim = NO_CLAIM  # on which it was begun
        self.logs: dict[str, list[str]] = {}
        self.metrics: dict[int, list[str]] = {}

    def log(self, label: str) -> bytes:
        return "".join(line + "\n" for line in self.logs.get(label, ())).encode()


class SimProcess:
    """A worker or the scheduler: it waits, makes steps with its gang, and ends."""

    def __init__(self, host: SimHost, run: SimRun, rank: int, ended: Callable[[SimProcess], None]) -> None:
        self.rank = rank
        self.identity = host.new_process()
        self.end: Exit | None = None
        self.is_frozen = self.is_hung = self.is_ending = self.is_gone = False
        self._host = host
        self._run = run
        self._ended = ended
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
            load = self._run.gang.workload
            self._host.world.after(load.term, lambda: self.exit(-number))
        return True

    def freeze(self) -> None:
        """As SIGSTOP."""
        if self.is_running and not self.is_frozen:
            self.is_frozen = True
            self._hold()

    def thaw(self) -> None:
        """As SIGCONT."""
        if self.is_frozen:
            self.is_frozen = False
            self._release()
            kept, self._kept = self._kept, []
            for number in kept:
                self.signal(number)

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
        self.vanish()
        self._ended(self)

    def vanish(self) -> None:
        """It is gone, with nobody to note that: its host has no power."""
        if self.rank != SCHEDULER:
            self._run.gang.leave(self.rank)
            for is_held in (self.is_frozen, self.is_hung):
                if is_held:
                    self._run.gang.release(self.rank)
        self.is_frozen = self.is_hung = False
        self.is_gone = True

    def _import(self) -> None:
        if self.is_running:
            self._run.gang.join(self.rank)

    def _hold(self) -> None:
        if self.rank != SCHEDULER:
            self._run.gang.hold(self.rank)

    def _release(self) -> None:
        if self.rank != SCHEDULER:
            self._run.gang.release(self.rank)


class SimSupervisor:
    """The parent of a host's workers; `is_alive` until nothing of them is left."""

    def __init__(self, host: SimHost, run: SimRun) -> None:
        self.state = SupervisorState(run.manifest, host.world.now)
        self.identity = host.new_process()
        self.guardian = host.new_process()
        self.processes: dict[int, SimProcess] = {}
        self.is_alive = True
        self.on_change: list[Callable[[], None]] = []
        self._host = host
        self._run = run
        self._ended: list[SimProcess] = []
        self._phase = ""
        self._woken = host.world.now
        self._read = -_TICK
        self._deadline: Event | None = None
        self._stall: Event | None = None
        self.feed = StatusFeed(self.identity, self._status())
        run.gang.on_milestone.append(self._on_milestone)
        run.gang.on_stall.append(self._mind_stall)
        self.step()

    # What it is told.

    def start(self) -> None:
        self._woken = self._host.world.now
        self._carry_out(self.state.start(self._woken))
        self.step()

    def commit(self) -> None:
        self.state.commit()
        self.step()

    def stop(self, reason: StopReason, *, now: bool = False) -> None:
        self._carry_out(self.state.stop(reason, self._host.world.now))
        if now:
            self._carry_out(self.state.kill())
        self.step()

    def undo(self) -> None:
        self._carry_out(self.state.undo())
        self.step()

    def answer(self) -> dict[str, Any]:
        failed = [status for status in self.state.workers.values() if status.state is RankState.FAILED]
        message = failed[0].end.message if failed and failed[0].end else ""
        first = self.state.failed_first
        label = "" if first is None else label_of(first)
        return {"phase": self.state.phase, "failed_first": label, "reason": message}

    # What it does.

    def step(self) -> None:
        """One turn: note ends and progress, mind the deadline, write the status."""
        if not self.is_alive:
            return
        now = self._host.world.now
        self._woken = now
        ended, self._ended = self._ended, []
        self._read_progress()
        self._carry_out(self.state.exited([each.end for each in ended if each.end is not None], now))
        self._carry_out(self.state.tick(now, self._host.time()))
        self._note_phase()
        self._publish()
        if self.state.has_ended:
            self._finish()
        for told in list(self.on_change):
            told()

    def refresh(self) -> None:
        """As if the turns had been made that happen once a second, in which nothing but steps is new."""
        now = self._host.world.now
        if self.is_alive and now - self._read >= _TICK:
            self._read_progress()
            self._read = now - (now - self._woken) % _TICK
            self._carry_out(self.state.tick(now, self._host.time()))
            self._publish()

    def _publish(self) -> None:
        """Tell the feed, and write the status, which finds its place on a full disk, too."""
        if self.state.phase == "undone":
            return
        status = self._status()
        # Over means that the devices are free: the agent tells that, when the guardian is gone.
        told = dataclasses.replace(status, phase="stopping") if status.is_over else status
        self.feed.observe(told, self.state.step_seconds)
        self._run.status = status

    def _status(self) -> HostStatus:
        return dataclasses.replace(
            self.state.status(self._host.time()),
            supervisor=self.identity,
            guardian=self.guardian,
            interval=INTERVAL,
        )

    def _mind_stall(self) -> None:
        """A stall is seen by looking every second; here as often as is needed to see it in time."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        gang, now = self._run.gang, self._host.world.now
        if self.is_alive and not gang.is_moving and not gang.is_done:
            since = gang.stalled if now < gang.stalled + _STALL_LOOK else now
            self._stall = self._host.world.after(since + _STALL_LOOK - now, self._look_at_stall)

    def _look_at_stall(self) -> None:
        if self._host.world.now + 1e-6 < self._run.gang.stalled + _STALL_LOOK:
            self._mind_stall()  # another rank has ended meanwhile
            return
        self.step()
        self._mind_stall()

    def vanish(self) -> None:
        """The host has lost its power: nobody writes anything any more."""
        self._leave()
        for process in self.processes.values():
            if process.is_running:
                process.vanish()

    def die(self) -> None:
        """It is killed: its guardian ends the workers, and says in its place what has become of them."""
        self.vanish()
        end = End(EndKind.SIGNALLED, self._host.time(), signal=signal.SIGKILL)
        reason = StopReason(StopKind.SUPERVISOR_ENDED, self._run.manifest.host, end=end)
        if self._run.status is not None:
            self._run.status = obituary(self._run.status, reason, self._host.time())
        for told in list(self.on_change):
            told()

    def _leave(self) -> None:
        self.is_alive = False
        for event in (self._deadline, self._stall):
            if event is not None:
                event.cancel()
        self._run.gang.on_milestone.remove(self._on_milestone)
        self._run.gang.on_stall.remove(self._mind_stall)

    def _read_progress(self) -> None:
        """Of every rank that runs; those of one host make the same steps, each writes its own file."""
        self._read = now = self._host.world.now
        for rank, process in self.processes.items():
            if process.is_running:
                self.state.report_process(rank, "T" if process.is_frozen else "S", now)
        progress = self._run.gang.progress(self._host.time())
        if progress:
            for rank in self.state.workers:
                if rank != SCHEDULER and self.state.is_running(rank):
                    self.state.report_progress(rank, dict(progress))

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                if self.state.may_start(action.rank):
                    process = SimProcess(self._host, self._run, action.rank, self._on_end)
                    self.processes[action.rank] = process
                    self.state.started(action.rank, process.identity, self._host.time())
            elif self.processes[action.rank].signal(action.number):
                self.state.signalled(action.rank)

    def _on_end(self, process: SimProcess) -> None:
        self._ended.append(process)
        if len(self._ended) == 1:
            self._host.world.after(_REAPED, self.step)

    def _on_milestone(self, what: str) -> None:
        """The gang has come to a save, or to its end."""
        load, world = self._run.gang.workload, self._host.world
        for rank, process in self.processes.items():
            late = world.random.random() * load.spread
            if what == "done" and rank == SCHEDULER:
                world.after(2 * load.spread, lambda p=process: p.exit(0, was_done=True))  # type: ignore[misc]
            elif what == "done":
                world.after(late, lambda p=process: p.exit(0, was_done=True))  # type: ignore[misc]
            elif what == "saved" and self._host.is_full and rank != SCHEDULER:
                world.after(late, lambda p=process: p.exit(1, _FULL))  # type: ignore[misc]

    def _note_phase(self) -> None:
        """A new phase has a new deadline, which a turn of once a second finds."""
        if self.state.phase == self._phase:
            return
        self._phase = self.state.phase
        if self._deadline is not None:
            self._deadline.cancel()
        manifest = self._run.manifest
        limits = {"prepared": manifest.lease, "started": manifest.lease, "stopping": manifest.grace}
        if self._phase in limits:
            self._deadline = self._host.world.after(limits[self._phase] + 0.001, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline = None
        self.step()

    def _finish(self) -> None:
        """The last worker has ended: the supervisor goes, and its guardian ends what is left."""
        self._leave()
        for process in self.processes.values():
            if process.is_running:
                process.signal(signal.SIGKILL)
        if self.state.phase == "undone":
            self._host.discard(self._run)
