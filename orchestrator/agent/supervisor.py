"""The supervisor: the parent of a host's workers, from the moment they are prepared to the last exit.

    prepared --start--> started --commit--> committed --last exit--> over
        |                  |                    |
        | lease runs out   | lease runs out     | a worker fails, or `stop`
        v                  v                    v
     undone             stopping ----------> stopping --grace, then SIGKILL--> over

A lease makes the launch safe against a control node that dies in its middle: what is not taken on to
the next phase in time undoes itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from typing import Any, Callable, Dict, List, Optional

from orchestrator.agent import control_socket as control
from orchestrator.agent import processes
from orchestrator.agent.worker import Worker
from orchestrator.core.codec import dumps, to_json
from orchestrator.core.paths import RunDir, atomic_write
from orchestrator.core.records import Event, HostStatus, Manifest, ProcessId
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
        self._manifest = manifest
        self._run = run
        self._clock = clock
        self._guardian = guardian
        self._identity = processes.identify(os.getpid())
        self.workers = [Worker(spec, manifest, run) for spec in manifest.workers]
        self.scheduler = Worker(manifest.scheduler, manifest, run) if manifest.scheduler else None
        self.phase = "prepared"
        self._deadline: Optional[float] = clock() + manifest.lease
        self._failed_first = ""
        self._stop_reason = ""
        self._told_to_end = False
        self._verbs: Dict[str, Callable[[Dict[str, Any]], None]] = {
            "start": self._on_start,
            "commit": self._on_commit,
            "stop": self._on_stop,
            "undo": self._on_undo,
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
            while self.phase not in ("over", "undone"):
                for key, _ in selector.select(_TICK):
                    if key.fileobj is listener:
                        self._serve(listener)
                    else:
                        wake_read.recv(4096)
                self.step()
        if self._told_to_end:
            processes.kill_descendants()
        if self.phase == "undone":
            self._run.discard(self._run.number)
        else:
            self._run.control_socket.unlink(missing_ok=True)

    def step(self) -> None:
        """One turn: note exits, keep the gang together, mind the deadline, write the record."""
        if self._told_to_end:
            # Its guardian may be dead, so that what workers leave behind is this process's to find.
            processes.become_subreaper()
            self.stop("the supervisor was told to end (SIGTERM)")
        # All first, then the consequences: who failed at the same instant was not stopped by us.
        ended = [worker for worker in (*self.workers, *self._schedulers()) if worker.poll()]
        for worker in ended:
            self._note_exit(worker)
        for worker in self.workers:
            worker.refresh_progress()
        if self._deadline is not None and self._clock() >= self._deadline:
            self._deadline = None
            self._on_deadline()
        # Workers may be done before the launch is: the commit must still find somebody to take it.
        under_launch = self.phase in ("prepared", "started")
        if not under_launch and not any(worker.is_running for worker in self._everyone()):
            self._finish()
        if self.phase != "undone":
            self.save()

    def stop(self, reason: str) -> None:
        """Begin to end every worker: SIGTERM now, SIGKILL when the grace period is over."""
        if self.phase in ("stopping", "over", "undone", "undoing"):
            return
        self._stop_reason = reason
        self.phase = "stopping"
        self._deadline = self._clock() + self._manifest.grace
        self._event("stopping", reason=reason)
        for worker in self._everyone():
            worker.send(signal.SIGTERM, reason)

    def save(self) -> None:
        """Write `status.json`."""
        status = HostStatus(
            run_id=self._manifest.run_id,
            job=self._manifest.job,
            host=self._manifest.host,
            updated=time.time(),
            ranks=tuple(worker.status for worker in self.workers),
            scheduler=self.scheduler.status if self.scheduler else None,
            supervisor=self._identity,
            guardian=self._guardian,
            phase=self.phase,
            failed_first=self._failed_first,
            stop_reason=self._stop_reason,
        )
        try:
            atomic_write(self._run.status, dumps(status))
        except OSError:
            # A disk that is full for a while must not end the run: the next turn writes again. A run
            # whose directory was removed can be neither seen nor stopped any more, so it ends.
            if not self._run.root.is_dir():
                self.stop("the run directory was removed")

    def _schedulers(self) -> List[Worker]:
        return [self.scheduler] if self.scheduler else []

    def _everyone(self) -> List[Worker]:
        return [*self._schedulers(), *self.workers]

    def _on_sigterm(self, *_: object) -> None:
        # Only noted: a signal arrives in the middle of anything, also of the start of a worker.
        self._told_to_end = True

    def _note_exit(self, worker: Worker) -> None:
        status = worker.status
        self._event("exit", label=status.label, exit_code=status.exit_code, signal=status.signal)
        if status.state is RankState.FAILED:
            self._break_gang(worker)

    def _break_gang(self, worker: Worker) -> None:
        self._failed_first = self._failed_first or worker.status.label
        label = worker.status.label.replace("_", " ")
        self.stop(f"{label} on {self._manifest.host} failed")

    def _on_deadline(self) -> None:
        if self.phase == "prepared":
            self._on_undo({})
        elif self.phase == "started":
            self.stop("the launch broke off before every host had started")
        elif self.phase in ("stopping", "undoing"):
            for worker in self._everyone():
                worker.send(signal.SIGKILL, self._stop_reason)

    def _finish(self) -> None:
        for worker in self._everyone():
            worker.cancel(self._stop_reason)
        self.phase = "undone" if self.phase == "undoing" else "over"
        self._event(self.phase)

    def _serve(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the peer is gone again
        with connection:
            # A peer that connects and says nothing must not hold up the watch.
            connection.settimeout(2.0)
            try:
                request = control.receive(connection)
                self._verbs[request["verb"]](request)
                answer = {"phase": self.phase, "failed_first": self._failed_first}
                failed = next(
                    (w.status for w in self._everyone() if w.status.state is RankState.FAILED), None
                )
                answer["reason"] = failed.reason if failed else ""
                control.reply(connection, answer)
            except (OSError, ValueError, KeyError):
                return

    def _on_start(self, _: Dict[str, Any]) -> None:
        if self.phase != "prepared":
            return
        self.phase = "started"
        self._deadline = self._clock() + self._manifest.lease
        self._event("start")
        for worker in self._everyone():
            worker.start()
            if worker.status.state is RankState.FAILED:
                self._break_gang(worker)
                break
        self.save()

    def _on_commit(self, _: Dict[str, Any]) -> None:
        if self.phase == "started":
            self.phase = "committed"
            self._deadline = None

    def _on_stop(self, request: Dict[str, Any]) -> None:
        self.stop(str(request.get("reason", "stopped")))
        if request.get("now"):
            self._on_deadline()

    def _on_undo(self, _: Dict[str, Any]) -> None:
        self._stop_reason = "the launch was undone"
        self.phase = "undoing"
        self._deadline = None
        for worker in self._everyone():
            worker.send(signal.SIGKILL, self._stop_reason)

    def _event(self, name: str, **fields: Any) -> None:
        line = json.dumps(to_json(Event(time.time(), name, **fields)))
        with contextlib.suppress(OSError), open(self._run.events, "a") as file:
            file.write(line + "\n")
