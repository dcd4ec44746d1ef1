"""The hold on a host's devices between two attempts of a run: from the end of one until the next has them.

The guardian of the attempt that is over keeps the locks and listens on the run's control socket, so that no
other launch takes the devices meanwhile. Whoever prepares the next attempt is handed their descriptors over
that socket, and says when the new guardian has them; where it breaks off before, they are kept as they were.
They are let go when somebody says so (`release`, a stop, an undo), when the run's directory is gone, and when
no monitor was heard for `Manifest.holds` seconds.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import time
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from orchestrator.agent import control_socket, host_runs, lock_handover, processes
from orchestrator.agent.device_locks import DeviceLocks
from orchestrator.agent.status_file import StatusFile
from orchestrator.core.ends import label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir
from orchestrator.core.record_class import replace
from orchestrator.core.records import Attempt, HostStatus, Manifest

__all__ = ["DeviceHold", "kept_devices", "release", "taken_over"]

# Of seconds between two looks whether the run is still there; who was away for longer did not run.
_LOOK, _SLEPT = 60.0, 120.0
# In which a peer has said what it wants, and in which one that holds devices answers.
_PATIENCE = 2.0
_TAKEN = b"taken\n"


class DeviceHold:
    """The hold of an attempt that is over, by its guardian; `keep` returns when it holds nothing any more."""

    def __init__(
        self, manifest: Manifest, run: RunDir, locks: DeviceLocks, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._manifest, self._run, self._locks, self._clock = manifest, run, locks, clock
        self._file = StatusFile(run.status, run.runs)
        self._status: Optional[HostStatus] = None
        self._listener: Optional[socket.socket] = None
        self._taker: Optional[socket.socket] = None
        self._until = math.inf
        self._is_held = True

    def keep(self) -> None:
        """Hold the devices. Raises OSError or DecodeError where nobody can be told: let them go then."""
        status = self._file.read()
        if status.attempt != self._manifest.attempt or not status.is_over:
            return
        self._status = replace(status, held=self._locks.devices, updated=time.time())
        self._listen()
        self._file.write(self._status, urgent=True)
        self._heard()
        last = self._clock()
        while self._is_held:
            self._serve(max(0.0, min(self._until - last, _LOOK)))
            now = self._clock()
            if now - last > _SLEPT:
                self._heard()  # its host was suspended, and the monitor could not be heard
            last = now
            if now >= self._until or not self._is_there():
                self._let_go()

    def _heard(self) -> None:
        self._until = self._clock() + (self._manifest.holds or 0.0)

    def _is_there(self) -> bool:
        try:
            os.stat(self._run.root)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # a file system that is away for a while takes nobody's devices
        return True

    def _listen(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._run.control_socket.unlink(missing_ok=True)
        self._listener = control_socket.listen(self._run.control_socket)

    def _serve(self, pause: float) -> None:
        """Wait for a request, or for word of who prepares the next attempt, and take it."""
        assert self._listener is not None
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        if self._taker is not None:
            poll.register(self._taker, select.POLLIN)
        ready = [handle for handle, _ in poll.poll(math.ceil(pause * 1000))]
        if self._taker is not None and self._taker.fileno() in ready:
            self._hear_taker(self._taker)
        elif ready:
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._take(self._listener.accept()[0])

    def _take(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        try:
            request = control_socket.receive(connection)
            verb = request["verb"]
            if verb == "hand_over":
                self._hand_over(connection)
                return
            if verb in ("stop", "undo", "release"):
                self._let_go()
            elif verb != "status":
                self._heard()
            control_socket.reply(connection, self._answer())
        finally:
            if connection is not self._taker:
                connection.close()

    def _hand_over(self, connection: socket.socket) -> None:
        """To the last one who asks: whoever asked before has gone, or hangs."""
        if self._taker is not None:
            self._taker.close()
        locks = self._locks.handles
        lock_handover.hand_over(connection, list(locks.values()), list(locks))
        self._taker = connection
        self._heard()

    def _hear_taker(self, taker: socket.socket) -> None:
        """It has the devices, or comes to nothing: then the directory is that of this attempt again."""
        said = b""
        with contextlib.suppress(OSError):
            said = taker.recv(len(_TAKEN))
        taker.close()
        self._taker = None
        if said == _TAKEN or self._run.in_force != self._manifest.attempt.number:
            self._is_held = False  # the files are the next attempt's by now
        else:
            self._listen()  # what lay there is gone

    def _let_go(self) -> None:
        self._is_held = False
        self._locks.release()
        if self._run.in_force != self._manifest.attempt.number or self._status is None:
            return
        with contextlib.suppress(OSError):
            self._run.control_socket.unlink(missing_ok=True)
            self._file.write(replace(self._status, held=(), updated=time.time()))

    def _answer(self) -> Dict[str, Any]:
        first = None if self._status is None else self._status.failed_first
        return {"phase": "over", "failed_first": "" if first is None else label_of(first), "reason": ""}


@contextlib.contextmanager
def taken_over(run: RunDir, mine: Attempt) -> Iterator[Dict[int, int]]:
    """The locks that the attempt before keeps here, by device, while attempt `mine` is made ready.

    Where the block fails that one keeps them; else it has nothing more. Who holds them and does not answer is
    ended, so that they are free.
    """
    found = _kept(run) if mine.number > 1 else None
    connection = None if found is None else _ask(run)
    if found is None or connection is None:
        if found is not None:
            _end(found)
        yield {}
        return
    with connection:
        try:
            locks = lock_handover.take_over(connection)
        except (AgentError, OSError):
            locks = {}
            _end(found)
        try:
            yield locks
            with contextlib.suppress(OSError):  # it is gone already
                connection.sendall(_TAKEN)
        finally:
            for handle in locks.values():
                os.close(handle)


def _ask(run: RunDir) -> Optional[socket.socket]:
    try:
        connection = control_socket.connect(run.control_socket, _PATIENCE)
    except OSError:
        return None
    try:
        control_socket.reply(connection, {"verb": "hand_over"})
    except OSError:
        connection.close()
        return None
    return connection


def _end(held: HostStatus) -> None:
    """By its recorded identity; nothing of the attempt lives below it any more."""
    if held.guardian is not None and processes.is_alive(held.guardian):
        with contextlib.suppress(ProcessLookupError):
            os.kill(held.guardian.pid, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    while processes.is_alive(held.guardian) and time.monotonic() < deadline:
        time.sleep(0.005)


def _kept(run: RunDir) -> Optional[HostStatus]:
    """The status of the attempt in force, if its devices are held."""
    try:
        found = host_runs.status(run)
    except AgentError:
        return None
    return found if found.held else None


def kept_devices(run: RunDir) -> Tuple[int, ...]:
    """Those that are held for the run's next attempt."""
    found = _kept(run)
    return () if found is None else found.held


def release(run: RunDir) -> None:
    """Let go of what is held for a next attempt, which does not come; one that runs will hold nothing."""
    with contextlib.suppress(AgentError):
        control_socket.ask(run.control_socket, {"verb": "release"}, timeout=_PATIENCE)
        return
    held = _kept(run)
    if held is not None:
        _end(held)
