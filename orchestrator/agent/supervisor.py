"""The supervisor: the parent of a host's workers, from the moment they are prepared to the last exit.

What to do is decided by `SupervisorState`; here are the socket on which it is told, the processes that it
starts and signals, the clock, and the files that it writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import selectors
import signal
import socket
import time
from typing import Any, Callable, Dict, Iterable, Optional

from orchestrator.agent import control_socket as control
from orchestrator.agent import processes
from orchestrator.agent.supervisor_state import Action, Exit, Start, SupervisorState
from orchestrator.agent.worker import CannotStart, Worker
from orchestrator.core.codec import DecodeError, dumps, from_json, to_json
from orchestrator.core.ends import StopKind, StopReason, label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, atomic_write
from orchestrator.core.records import Event, Manifest, ProcessId
from orchestrator.core.states import RankState

__all__ = ["Supervisor"]

_TICK = 1.0


class Supervisor:
    """Owns the workers of one run on one host; `run` returns when nothing of them is left."""

    def __init__(
        self,
        manifest: Manifest,
        run: RunDir,
        *,
        guardian: Optional[ProcessId] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._clock = clock
        self._guardian = guardian
        self._prepared = self._hashes()
        self._identity = processes.identify(os.getpid())
        self.state = SupervisorState(manifest, clock())
        self._workers = {rank: Worker(spec, manifest, run) for rank, spec in self.state.specs.items()}
        self._got_sigterm = False
        self._noted_phase = self.state.phase
        self._requests: Dict[str, Callable[[Dict[str, Any]], None]] = {
            "start": self._on_start,
            "commit": lambda _: self.state.commit(),
            "stop": self._on_stop,
            "undo": lambda _: self._carry_out(self.state.undo()),
            "status": lambda _: None,
        }

    def run(self, ready: Callable[[], None]) -> None:
        """Serve requests and watch the workers until their end; `ready` is called once listening."""
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        with control.listen(self._run.control_socket) as listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            self.save()
            ready()
            while not self.state.has_ended:
                for key, _ in selector.select(_TICK):
                    if key.fileobj is listener:
                        self._serve(listener)
                    else:
                        wake_read.recv(4096)
                self.step()
        if self._got_sigterm:
            processes.kill_descendants()
        if self.state.phase == "undone":
            self._run.discard(self._run.number)
        else:
            self._run.control_socket.unlink(missing_ok=True)

    def step(self) -> None:
        """One turn: note exits and progress, mind the deadline, write the record."""
        if self._got_sigterm:
            # Its guardian may be dead, so that what workers leave behind is this process's to find.
            processes.become_subreaper()
            self._stop(self._why_terminated())
        exits = [found for found in map(self._exit_of, self._workers) if found is not None]
        self._read_progress()
        self._carry_out(self.state.exited(exits, self._clock()))
        for each in exits:
            self._event("exit", rank=each.rank, code=each.code)
        self._carry_out(self.state.tick(self._clock(), time.time()))
        self._note_phase()
        if self.state.phase != "undone":
            self.save()

    def save(self) -> None:
        """Write `status.json`."""
        status = self.state.status(time.time())
        status = dataclasses.replace(status, supervisor=self._identity, guardian=self._guardian)
        try:
            atomic_write(self._run.status, dumps(status))
        except OSError:
            # A disk that is full for a while must not end the run: the next turn writes again. A run
            # whose directory was removed can be neither seen nor stopped any more, so it ends.
            if not self._run.root.is_dir():
                self._stop(StopReason(StopKind.RUN_DIRECTORY_REMOVED))

    def _on_sigterm(self, *_: object) -> None:
        # Only noted: a signal arrives in the middle of anything, also of the start of a worker.
        self._got_sigterm = True

    def _why_terminated(self) -> StopReason:
        """The kernel sends the signal when the guardian dies, a person may send it at any time."""
        is_orphan = self._guardian is not None and os.getppid() != self._guardian.pid
        return StopReason(StopKind.GUARDIAN_ENDED if is_orphan else StopKind.SUPERVISOR_TERMINATED)

    def _exit_of(self, rank: int) -> Optional[Exit]:
        return self._workers[rank].poll() if self.state.is_running(rank) else None

    def _read_progress(self) -> None:
        for rank, worker in self._workers.items():
            progress = worker.progress() if self.state.is_running(rank) else {}
            if progress:
                self.state.report_progress(rank, progress)

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
            self._carry_out(self.state.not_started(rank, str(error), time.time(), self._clock()))
        else:
            self.state.started(rank, process, time.time())

    def _serve(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the peer is gone again
        with connection:
            # A peer that connects and says nothing must not hold up the watch.
            connection.settimeout(2.0)
            with contextlib.suppress(OSError, ValueError, KeyError):
                request = control.receive(connection)
                control.reply(connection, self._answer_to(request))

    def _answer_to(self, request: Dict[str, Any]) -> Dict[str, Any]:
        try:
            self._requests[request["verb"]](request)
        except AgentError as error:
            return {"refused": error.what, "remedy": error.remedy}
        return self._answer()

    def _answer(self) -> Dict[str, Any]:
        failed = [status for status in self.state.workers.values() if status.state is RankState.FAILED]
        message = failed[0].end.message if failed and failed[0].end else ""
        first = self.state.failed_first
        label = "" if first is None else label_of(first)
        return {"phase": self.state.phase, "failed_first": label, "reason": message}

    def _hashes(self) -> Dict[str, str]:
        """Of the files that must be the same on every host."""
        attempt = self._run.attempt
        found = {}
        for path in (attempt.worker_config, attempt.rank_table):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def _on_start(self, _: Dict[str, Any]) -> None:
        now = self._hashes()
        for name in {**self._prepared, **now}:
            if self._prepared.get(name) != now.get(name):
                # The others have the one that was compared, and ranks would wait for each other for minutes.
                raise AgentError(f"{name} has changed since it was prepared", remedy="launch again")
        self._carry_out(self.state.start(self._clock()))
        self.save()

    def _on_stop(self, request: Dict[str, Any]) -> None:
        self._stop(_reason_of(request))
        if request.get("now"):
            self._carry_out(self.state.kill())

    def _note_phase(self) -> None:
        if self.state.phase != self._noted_phase:
            self._noted_phase = self.state.phase
            self._event(self.state.phase, stop=self.state.stop_reason)

    def _event(self, name: str, **fields: Any) -> None:
        line = json.dumps(to_json(Event(time.time(), name, **fields)))
        with contextlib.suppress(OSError), open(self._run.events, "a") as file:
            file.write(line + "\n")


def _reason_of(request: Dict[str, Any]) -> StopReason:
    """Why a stop is asked for; an earlier control node gives a sentence alone."""
    with contextlib.suppress(DecodeError, KeyError):
        return from_json(StopReason, request["why"])
    return StopReason.requested(str(request.get("reason", "stopped")))
