"""A simulated host's supervisor: the real decisions of `SupervisorState`, over processes that are numbers.

It does what agent/supervisor.py does with sockets, processes and files: carries actions out, notes ends and
progress, minds the deadlines once a second, and writes the status as far as the disk takes it. Its guardian
ends what is left when it goes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.agent.daemon import obituary
from orchestrator.agent.status_feed import StatusFeed
from orchestrator.agent.supervisor import INTERVAL
from orchestrator.agent.supervisor_state import Action, Start
from orchestrator.core.ends import SAVED_EXIT, SCHEDULER, End, EndKind, StopKind, StopReason, label_of
from orchestrator.core.record_class import replace
from orchestrator.core.records import HostStatus, Phase
from orchestrator.core.states import RankState
from orchestrator.simulation.alike_ranks import AlikeRanks
from orchestrator.simulation.sim_process import TICK, SimProcess, SimRun
from orchestrator.simulation.timeline import Event

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost

__all__ = ["SimSupervisor"]

_REAPED = 0.005  # from the end of a process until its parent has noted it
_STALL_LOOK = 5.0
_FULL = ("Traceback (most recent call last):", "OSError: [Errno 28] No space left on device")


class SimSupervisor:
    """The parent of a host's workers; `is_alive` until nothing of them is left."""

    def __init__(self, host: SimHost, run: SimRun) -> None:
        self.state = AlikeRanks(run.manifest, host.world.now)
        self.identity = host.new_process()
        self.guardian = host.new_process()
        self.state.sign(self.identity, self.guardian, INTERVAL)
        self.processes: dict[int, SimProcess] = {}
        self.is_alive = True
        self._is_ticking = False
        self.on_change: list[Callable[[], None]] = []
        self._host = host
        self._run = run
        self._ended: list[SimProcess] = []
        self._phase = ""
        self._woken = host.world.now
        self._read = -TICK
        self._deadline: Event | None = None
        self._stall: Event | None = None
        self._lease: Event | None = None
        self._told_saved = -1
        self._read_step = -1
        self._stopped: set[int] = set()  # ranks whose processes were stopped at the last look
        self.feed = StatusFeed(self.identity, self._status())
        run.gang.on_milestone.append(self._on_milestone)
        run.gang.on_move.append(self._on_move)
        run.gang.on_stall.append(self._mind_stall)
        self.step()

    # What it is told.

    def heard(self) -> None:
        """Somebody who acts on the run is there."""
        self.state.heard(self._host.world.now)

    def start(self) -> None:
        self._woken = self._host.world.now
        self._run.gang.told_at = self._host.world.true_now
        self._carry_out(self.state.start(self._woken))
        self._on_move()
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
        answer: dict[str, Any] = {"phase": self.state.phase, "failed_first": label, "reason": message}
        if self.state.grace is not None:
            answer.update(grace=self.state.grace, saves=self.state.saves)
        return answer

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
        self._mind_lease(now)
        if self.state.has_ended:
            self._finish()
        elif self.state.needs_ticks and not self._is_ticking:
            self._is_ticking = True
            self._host.world.after(TICK, self._tick)
        for told in list(self.on_change):
            told()

    def _mind_lease(self, now: float) -> None:
        """A turn when the monitor's lease may have ended, which steps since then have renewed."""
        ends = self.state.lease_ends
        if ends is not None and self._lease is None:
            self._lease = self._host.world.after(max(TICK, ends - now), self._on_lease)

    def _on_lease(self) -> None:
        self._lease = None
        self.step()

    def _tick(self) -> None:
        self._is_ticking = False
        self.step()

    def refresh(self) -> None:
        """As if the turns had been made that happen once a second, in which nothing but steps is new."""
        now = self._host.world.now
        if self.is_alive and now - self._read >= TICK:
            self._read_progress()
            self._read = now - (now - self._woken) % TICK
            self._carry_out(self.state.tick(now, self._host.time()))
            self._publish()

    def _publish(self) -> None:
        """Tell the feed, and write the status, which finds its place on a full disk, too."""
        if self.state.phase == "undone":
            return
        status = self._status()
        # Over means that the devices are free: the agent tells that, when the guardian is gone.
        told = replace(status, phase="stopping") if status.is_over else status
        self.feed.observe(told, self.state.step_seconds, self.state.compute)
        self._run.status = status

    def _status(self) -> HostStatus:
        return self.state.status(self._host.time())

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
            manifest = self._run.manifest
            if manifest.holds is not None:
                self._host.keeping.keep(manifest.run_id, manifest.devices, manifest.holds)
        for told in list(self.on_change):
            told()

    def _leave(self) -> None:
        self.is_alive = False
        for event in (self._deadline, self._stall, self._lease):
            if event is not None:
                event.cancel()
        self._run.gang.on_milestone.remove(self._on_milestone)
        self._run.gang.on_move.remove(self._on_move)
        self._run.gang.on_stall.remove(self._mind_stall)

    def _read_progress(self) -> None:
        """Of every rank that runs; those of one host make the same steps, each writes its own file."""
        self._read = now = self._host.world.now
        stopped = {rank for rank, process in self.processes.items() if process.is_frozen}
        for rank in sorted(stopped | self._stopped):
            self.state.tell_apart()
            if self.processes[rank].is_running:  # else its end is what is told
                self.state.report_process(rank, "T" if rank in stopped else "S", now)
        self._stopped = stopped
        gang, clock = self._run.gang, self._host.time()
        step = gang.step()
        if not gang.workload.has_phases and step == self._read_step:
            return  # nothing is written that was not read
        self._read_step = step
        progress = gang.progress(clock, self._host.name)
        has_phases = gang.workload.has_phases
        saved = gang.saved if gang.workload.tells_saved else None
        is_new = saved is not None and saved > self._told_saved and bool(progress)
        self._told_saved = saved if is_new and saved is not None else self._told_saved
        lines: list[Mapping[str, Any]] = [progress] if progress else []
        if is_new and not has_phases:
            said = {"time": round(clock, 3), "phase": str(Phase.STEP), "can": list(gang.workload.can)}
            lines.insert(0, {**said, "saved": saved} if saved else said)
        if has_phases and gang.has_begun:
            lines.insert(0, gang.phase(0, clock))  # until then it depends on whether the rank is there
        running = [rank for rank in self.state.workers if rank != SCHEDULER and self.state.is_running(rank)]
        if gang.has_begun or not has_phases:
            self.state.report_alike(running, lines, now, clock)
            return
        self.state.tell_apart()
        for rank in running:
            self.state.report_lines(rank, [gang.phase(rank, clock), *lines], now, clock)

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

    def _on_move(self) -> None:
        """The ranks begin, or go on: those that tell of phases say so, which is read within a second."""
        if self._run.gang.workload.has_phases:
            self._host.world.after(TICK, self.step)

    def _on_milestone(self, what: str) -> None:
        """The gang has come to a save, or to its end."""
        if what == "first":
            return
        load, world = self._run.gang.workload, self._host.world
        self._on_move()
        if what == "saved" and self._host.is_full:
            self._run.unsaved.add(self._run.gang.step())
        for rank, process in self.processes.items():
            late = world.random.random() * load.spread
            if what == "left" and rank != SCHEDULER:
                world.after(late, lambda p=process: p.exit(SAVED_EXIT))  # type: ignore[misc]
            elif what == "done" and rank == SCHEDULER:
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
        grace = manifest.grace if self.state.grace is None else self.state.grace
        limits = {"prepared": manifest.lease, "started": manifest.lease, "stopping": grace}
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
        manifest = self._run.manifest
        if self.state.phase == "undone":
            self._host.discard(self._run)
        elif self.state.keeps_devices and manifest.holds is not None:
            self._host.keeping.keep(manifest.run_id, manifest.devices, manifest.holds)
