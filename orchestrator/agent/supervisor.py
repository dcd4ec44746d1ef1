"""The supervisor: the parent of a host's workers, from the moment they are prepared to the last exit.

What to do is decided by `SupervisorState`, whom to tell what by `StatusFeed`; here are the processes that are
started and signalled, the clock, and the files that it writes. It wakes at once for an exit, a request and
what is due to somebody, and once a tick looks at what nothing wakes it for: metrics, and the states of
processes. A wake without news costs some system calls and writes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Optional

from orchestrator.agent import control_socket as control
from orchestrator.agent import processes
from orchestrator.agent.content_store import sha256_of
from orchestrator.agent.control_server import ControlServer
from orchestrator.agent.status_feed import StatusFeed
from orchestrator.agent.status_file import StatusFile
from orchestrator.agent.stop_grace import STACKS
from orchestrator.agent.supervisor_state import Action, Start, SupervisorState
from orchestrator.agent.worker import CannotStart, Worker
from orchestrator.agent.worker_end import Exit
from orchestrator.core.codec import DecodeError, from_json, to_json
from orchestrator.core.copier_config import CONFIG_NAME
from orchestrator.core.ends import SCHEDULER, StopKind, StopReason, label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir
from orchestrator.core.record_class import replace
from orchestrator.core.records import Event, HostStatus, Manifest, ProcessId, RankStatus
from orchestrator.core.states import RankState

if TYPE_CHECKING:
    from orchestrator.agent.copier_process import CopierProcess

__all__ = ["INTERVAL", "Supervisor"]

_TICK = 1.0
# Of seconds between two writings of the status in which nothing has changed.
INTERVAL = 10.0
# Of seconds between two turns: who slept longer than this did not run, and its workers may not have either.
_SLEPT = 10.0
_LONGEST_REASON = 1 << 16  # it is in the status of each rank


class Supervisor:
    """Owns the workers of one run on one host; `run` returns when nothing of them is left."""

    def __init__(
        self,
        manifest: Manifest,
        run: RunDir,
        *,
        guardian: Optional[ProcessId] = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._run = run
        self._manifest = manifest
        self._clock = clock
        self._wall_clock = wall_clock
        self._guardian = guardian
        self._prepared = self._hashes()
        self._copier = self._copier_of(manifest.attempt.number)
        self._identity = processes.identify(os.getpid())
        self.state = SupervisorState(manifest, clock())
        self.feed = StatusFeed(self._identity, self._status())
        self._file = StatusFile(run.status, run.runs)
        # What of the feed is in the file, and when it was written.
        self._written = (-1, -1)
        self._written_at = self._last_turn = self._next_tick = clock()
        self._workers = {rank: Worker(spec, manifest, run) for rank, spec in self.state.specs.items()}
        self._got_sigterm = False
        self._noted_phase = self.state.phase
        # What reads the logs of workers that failed is loaded while nothing is to do, if time counts then.
        self._is_ready_for_failures = manifest.holds is None
        self._requests: Dict[str, Callable[[Dict[str, Any]], None]] = {
            "start": self._on_start,
            "commit": lambda _: self.state.commit(),
            "stop": self._on_stop,
            "undo": lambda _: self._carry_out(self.state.undo()),
            "release": lambda _: self.state.release(),
            "renew": lambda _: None,
            "status": lambda _: None,
        }

    def run(self, ready: Callable[[], None]) -> None:
        """Serve requests and watch the workers until their end; `ready` is called once listening.

        Raises OSError where there is no room for the status.
        """
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        with control.listen(self._run.control_socket) as listener, selectors.DefaultSelector() as selector:
            selector.register(wake_read, selectors.EVENT_READ, lambda _: wake_read.recv(4096))
            server = ControlServer(listener, selector, self.feed, self._answer_to, self._clock)
            self._file.create(self._status())
            self._written = (self.feed.sequence, self.feed.progress)
            ready()
            while not self.state.has_ended or self._copies_on():
                pause = min(server.wait(), max(0.0, self._next_tick - self._clock()))
                for key, mask in selector.select(pause):
                    key.data(mask)
                self.step()
                server.push(self._wall_clock())
            server.close()
        self._end_copier()
        if self._got_sigterm:
            processes.kill_descendants()
        # What is undone the guardian removes, once what the workers have left behind writes no more.
        if self.state.phase == "undone" and self._guardian is None:
            self._run.discard(self._manifest.attempt.number, self._manifest.attempt.token)
        else:
            self._run.control_socket.unlink(missing_ok=True)

    def step(self) -> None:
        """One turn: note exits, once a tick progress too, mind the deadline, write what is new."""
        now = self._clock()
        if now - self._last_turn > _SLEPT:
            self.state.woke(now)
        self._last_turn = now
        if self._got_sigterm:
            # Its guardian may be dead, so that what workers leave behind is this process's to find.
            processes.become_subreaper()
            self._stop(self._why_terminated())
        exits = [found for found in map(self._exit_of, self._workers) if found is not None]
        is_tick = now >= self._next_tick
        if is_tick:
            self._next_tick = now + _TICK
            self._look_around(now)
        elif exits:
            self._read_metrics()
        self._carry_out(self.state.exited(exits, self._clock()))
        for each in exits:
            self._event("exit", rank=each.rank, code=each.code)
        self._carry_out(self.state.tick(self._clock(), self._wall_clock()))
        self._mind_copier()
        self._note_phase()
        self._publish()

    def _copier_of(self, number: int) -> Optional[CopierProcess]:
        """That of this attempt, if it was given what it needs; None where nothing is copied."""
        if not (self._run.folder_of(number) / CONFIG_NAME).exists():
            return None
        from orchestrator.agent.copier_process import CopierProcess  # late: most runs copy nothing

        return CopierProcess(self._run, number)

    def _mind_copier(self) -> None:
        """It is there while workers are, and no longer than `_copies_on` lets it."""
        if self._copier is None:
            return
        if self.state.phase in ("started", "committed", "stopping") or self._copies_on():
            self._copier.tick(self._clock())
        else:
            self._end_copier()

    def _end_copier(self) -> None:
        if self._copier is not None:
            self._copier.end()

    def _copies_on(self) -> bool:
        """Whether all has ended well and the copier is at what was saved last, for a stop's grace at most."""
        if self._copier is None or self.state.phase != "over":
            return False
        states = {status.state for status in self.state.workers.values() if status.rank != SCHEDULER}
        if states != {RankState.SUCCEEDED} and not self.state.saves:
            return False
        now = self._clock()
        self._copier.finish(now, self._manifest.grace)
        return self._copier.is_at_work(now)

    def _look_around(self, now: float) -> None:
        if not self._is_ready_for_failures and self.state.phase == "committed":
            import orchestrator.core.log_signatures  # noqa: F401

            self._is_ready_for_failures = True
        self._read_metrics()
        for rank, status in self.state.workers.items():
            if status.process is not None and self.state.is_running(rank):
                self._mind_container(rank, status)
                letter = processes.state_of(status.process.pid)
                # How often it has run tells one long wait from many short ones.
                switches = processes.switches_of(status.process.pid) if letter == "D" else None
                self.state.report_process(rank, letter, now, switches)
        if self.state.may_save_last and self._saves_at_its_end():
            self.state.report_last_save()
        # A run whose directory was removed can be neither seen nor stopped any more, so it ends.
        try:
            os.stat(self._run.root)
        except FileNotFoundError:
            self._stop(StopReason(StopKind.RUN_DIRECTORY_REMOVED))
        except OSError:
            pass  # a file system that is away for a while takes nobody's run

    def _mind_container(self, rank: int, status: RankStatus) -> None:
        """Take the worker itself for its rank's process, once it is there, and not its keeper."""
        if self._manifest.container is None or status.started is None:
            return
        process = self._workers[rank].process()
        if process is not None and process != status.process:
            self.state.started(rank, process, status.started)

    def _saves_at_its_end(self) -> bool:
        from orchestrator.agent.last_save import is_last_save_written, is_set_to_save  # late: few runs fail

        workers = [status for rank, status in self.state.workers.items() if self.state.is_running(rank)]
        is_set = any(status.process is not None and is_set_to_save(status.process.pid) for status in workers)
        return is_set or is_last_save_written(self._run.root)

    def _publish(self) -> None:
        """Tell the feed, and write the status if there is news, or nothing was written for long."""
        if self.state.phase == "undone":
            return
        status = self._status()
        self.feed.observe(_as_told(status), self.state.step_seconds, self.state.compute)
        news, now = (self.feed.sequence, self.feed.progress), self._clock()
        if news == self._written and now - self._written_at < INTERVAL and not self.state.has_ended:
            return
        # What the file system refuses must not end the run: the next turn writes again.
        with contextlib.suppress(OSError):
            self._file.write(status, urgent=news[0] != self._written[0])
            self._written, self._written_at = news, now

    def _status(self) -> HostStatus:
        return replace(
            self.state.status(self._wall_clock()),
            supervisor=self._identity,
            guardian=self._guardian,
            interval=INTERVAL,
            copies=self._copier.status if self._copier is not None else None,
        )

    def _on_sigterm(self, *_: object) -> None:
        # Only noted: a signal arrives in the middle of anything, also of the start of a worker.
        self._got_sigterm = True

    def _why_terminated(self) -> StopReason:
        """The kernel sends the signal when the guardian dies, a person may send it at any time."""
        is_orphan = self._guardian is not None and os.getppid() != self._guardian.pid
        return StopReason(StopKind.GUARDIAN_ENDED if is_orphan else StopKind.SUPERVISOR_TERMINATED)

    def _exit_of(self, rank: int) -> Optional[Exit]:
        return self._workers[rank].poll() if self.state.is_running(rank) else None

    def _read_metrics(self) -> None:
        now, time_there = self._clock(), self._wall_clock()
        for rank, worker in self._workers.items():
            if not self.state.is_running(rank):
                continue
            lines = worker.news()
            if lines:
                self.state.report_lines(rank, lines, now, time_there)
            shows_stacks = worker.shows_stacks()
            if shows_stacks is not None:
                self.state.report_ability(rank, STACKS, shows_stacks)

    def _stop(self, reason: StopReason) -> None:
        self._carry_out(self.state.stop(reason, self._clock()))

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            worker = self._workers[action.rank]
            if not isinstance(action, Start):
                if worker.send(action.number):
                    self.state.signalled(action.rank)
            elif self.state.may_start(action.rank):
                self._start(action.rank, worker)

    def _start(self, rank: int, worker: Worker) -> None:
        try:
            process = worker.start()
        except CannotStart as error:
            self._carry_out(self.state.not_started(rank, str(error), self._wall_clock(), self._clock()))
        else:
            self.state.started(rank, process, self._wall_clock())

    def _answer_to(self, request: Dict[str, Any]) -> Dict[str, Any]:
        try:
            carry_out = self._requests[request["verb"]]
            if request["verb"] != "status":  # anybody may look, also who has lost the network since
                self.state.heard(self._clock())
            carry_out(request)
        except AgentError as error:
            return {"refused": error.what, "remedy": error.remedy}
        self._publish()  # who asks for the status next finds what it was told
        return self._answer()

    def _answer(self) -> Dict[str, Any]:
        failed = [status for status in self.state.workers.values() if status.state is RankState.FAILED]
        message = failed[0].end.message if failed and failed[0].end else ""
        first = self.state.failed_first
        label = "" if first is None else label_of(first)
        answer: Dict[str, Any] = {"phase": self.state.phase, "failed_first": label, "reason": message}
        if self.state.grace is not None:
            answer.update(grace=self.state.grace, saves=self.state.saves)
        return answer

    def _hashes(self) -> Dict[str, str]:
        """Of the files that must be the same on every host."""
        attempt = self._run.attempt
        found = {}
        for path in (attempt.worker_config, attempt.rank_table, attempt.run_yaml):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = sha256_of(path.read_bytes())
        return found

    def _on_start(self, _: Dict[str, Any]) -> None:
        now = self._hashes()
        for name in {**self._prepared, **now}:
            if self._prepared.get(name) != now.get(name):
                # The others have the one that was compared, and ranks would wait for each other for minutes.
                raise AgentError(f"{name} has changed since it was prepared", remedy="launch again")
        self._carry_out(self.state.start(self._clock()))

    def _on_stop(self, request: Dict[str, Any]) -> None:
        self._stop(_reason_of(request))
        if request.get("now"):
            self._carry_out(self.state.kill())

    def _note_phase(self) -> None:
        if self.state.phase != self._noted_phase:
            self._noted_phase = self.state.phase
            self._event(self.state.phase, stop=self.state.stop_reason)

    def _event(self, name: str, **fields: Any) -> None:
        line = json.dumps(to_json(Event(self._wall_clock(), name, **fields)))
        with contextlib.suppress(OSError), open(self._run.events, "a") as file:
            file.write(line + "\n")


def _as_told(status: HostStatus) -> HostStatus:
    """Over means that the devices are free, and the guardian still holds them: the agent tells it then."""
    return replace(status, phase="stopping") if status.is_over else status


def _reason_of(request: Dict[str, Any]) -> StopReason:
    """Why a stop is asked for; an earlier control node gives a sentence alone."""
    with contextlib.suppress(DecodeError, KeyError):
        why = from_json(StopReason, request["why"])
        return replace(why, text=why.text[:_LONGEST_REASON])
    return StopReason.requested(str(request.get("reason", "stopped"))[:_LONGEST_REASON])
