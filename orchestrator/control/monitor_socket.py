"""The socket of a run's monitor: verbs ask it for the record, follow the run, and have it stopped.

`monitor.sock` in the run's state directory, mode 0600; only this account, and root, is answered. A request is
a line of JSON, an answer one line or, until the line that says `done`, more:

    {"verb": "record"}                           {"record": {…}}
    {"verb": "follow", "every": seconds}         {"record": {…}}, then {"set": [changes]} as in the journal
    {"verb": "stop", "reason": {…}}              {"over": [hosts]} as they are, {"done": true, "errors": …},
                                               {"saving": seconds} that ranks have for a checkpoint

Each line says the `format`; while there is nothing to tell an empty one comes every few seconds, so that both
sides notice the end of the other. Who reads slowly gets what it has missed as one change, and who does not
read is hung up on: each has a thread of its own here, and the monitor waits for none of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from orchestrator.agent import control_socket
from orchestrator.control.monitor_client import BEAT, FORMAT
from orchestrator.control.record_changes import differences
from orchestrator.control.run_record import RunRecord
from orchestrator.control.stop_progress import StopProgress
from orchestrator.core.codec import DecodeError, from_json, parse, to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState

__all__ = ["MonitorSocket", "Watched"]

log = logging.getLogger(__name__)

_LONGEST_REQUEST = 1 << 16
_PATIENCE = 10.0  # for a request to be whole
_SLOWEST = 30.0  # for an answer to be taken
_MOST = 64
_FASTEST = 0.1
_TURN = 12.0  # a turn of a healthy watch is at most five seconds away, and one that is woken at once
# Once the last host is over, for the run to be judged; at the end of the monitor, for its last answers.
_LAST_WORD = 5.0


class Watched(Protocol):
    """The watch as far as the socket has to do with it; every method may be called from any thread."""

    def stop(self, reason: StopReason) -> None: ...

    def wake(self) -> None: ...

    def set_viewers(self, count: int) -> None: ...

    @property
    def refusals(self) -> Mapping[str, OrchestrateError]: ...


class MonitorSocket:
    """Listens for verbs; `tell` has the newest record. `grace` and `connect` are the run's timeouts.

    A watch that is woken and tells nothing for `turn` seconds hangs.
    """

    def __init__(self, control: ControlDir, *, grace: float, connect: float, turn: float = _TURN) -> None:
        self._path = control.monitor_socket
        self._turn = turn
        self._grace, self._patience = grace, connect + 5.0
        self._news = threading.Condition()
        self._record: RunRecord | None = None
        self._version = 0
        self._text: tuple[int, bytes] = (0, b"")
        self._watch: Watched | None = None
        self._viewers = 0
        self._threads: set[threading.Thread] = set()
        self._closing = False
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe()

    def open(self) -> bool:
        """Begin to listen; False where that cannot be, which is logged, and verbs do without."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()  # of a monitor that was killed
            listener = control_socket.listen(self._path)
            try:
                os.chmod(self._path, 0o600)
                listener.listen(_MOST)  # many verbs may ask at once
            except OSError:
                listener.close()
                raise
        except OSError as error:
            log.warning("no socket can be made in %s: %s", self._path.parent, error.strerror or error)
            return False
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="socket", daemon=True)
        self._acceptor.start()
        return True

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    def tell(self, record: RunRecord) -> None:
        """This is the newest record; costs nothing where nobody listens."""
        with self._news:
            self._record = record
            self._version += 1
            self._news.notify_all()

    def attend(self, watch: Watched | None) -> None:
        """The run is watched by this, from now on; None: no more."""
        with self._news:
            self._watch = watch
            if watch is not None:
                watch.set_viewers(self._viewers)

    def close(self) -> None:
        """Give those who wait their last answer, and hang up."""
        with self._news:
            if self._closing:
                return
            self._closing = True
            self._news.notify_all()
        os.write(self._wake_write, b"x")
        if self._acceptor is not None:
            self._acceptor.join()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._listener.close()
        for end in (self._wake_read, self._wake_write):
            os.close(end)
        deadline = time.monotonic() + _LAST_WORD
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(listener, selectors.EVENT_READ)
            ready.register(self._wake_read, selectors.EVENT_READ)
            while True:
                ready.select()
                if self._closing:
                    return
                try:
                    connection, _ = listener.accept()
                except OSError as error:
                    if not isinstance(error, BlockingIOError):
                        time.sleep(_FASTEST)  # no descriptor is left, say
                    continue
                self._threads = {thread for thread in self._threads if thread.is_alive()}
                if len(self._threads) >= _MOST or not _is_ours(connection):
                    connection.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.add(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(_PATIENCE)
                request = _request(connection)
                connection.settimeout(_SLOWEST)
                self._answer(connection, request)
            except OSError:
                pass  # who asked is gone, or takes nothing
            except DecodeError as error:
                with contextlib.suppress(OSError):
                    _send(connection, {"refused": str(error)})
            except Exception:
                log.exception("a request of a verb broke off")

    def _answer(self, connection: socket.socket, request: Mapping[str, Any]) -> None:
        verb = request.get("verb")
        if verb == "record":
            connection.sendall(self._whole())
        elif verb == "follow":
            every = from_json(float, request.get("every", 1.0))
            with self._viewed():
                self._follow(connection, min(max(_FASTEST, every), BEAT))
        elif verb == "stop":
            self._stop(connection, from_json(StopReason, request.get("reason")))
        else:
            raise DecodeError("a verb that this monitor does not know", "verb")

    def _newest(self, after: int, timeout: float) -> tuple[int, RunRecord]:
        """The newest record with its version, once it is newer than that, or the time is over."""
        with self._news:
            self._news.wait_for(lambda: self._version > after or self._closing, timeout)
            if self._record is None:
                raise DecodeError("the monitor knows nothing yet")
            return self._version, self._record

    def _whole(self) -> bytes:
        """The answer with the whole record, made once for all who ask for it."""
        version, record = self._newest(0, _PATIENCE)
        if self._text[0] != version:
            self._text = (version, _line(_of_record(record)))
        return self._text[1]

    def _follow(self, connection: socket.socket, every: float) -> None:
        version, told = self._newest(0, _PATIENCE)
        _send(connection, _of_record(told))
        while not (told.state.is_terminal or self._closing):
            if _has_hung_up(connection, every):
                return
            version, record = self._newest(version, max(0.0, BEAT - every))
            changes = list(differences(told, record))
            _send(connection, {"set": changes} if changes else {})
            told = record

    @contextlib.contextmanager
    def _viewed(self) -> Any:
        self._count_viewers(+1)
        try:
            yield
        finally:
            self._count_viewers(-1)

    def _count_viewers(self, more: int) -> None:
        with self._news:
            self._viewers += more
            if self._watch is not None:
                self._watch.set_viewers(self._viewers)

    def _stop(self, connection: socket.socket, reason: StopReason) -> None:
        version, record = self._newest(0, _PATIENCE)
        watch = self._watch
        if watch is None or record.state is RunState.PREPARING:
            raise DecodeError("the run is not watched yet")
        log.info("a verb stops the run: %s", reason.text or reason.kind)
        watch.stop(reason)
        watch.wake()
        progress = StopProgress(self._grace, self._patience, time.monotonic())
        before, begun = version, time.monotonic()
        told, is_last, saving = begun, False, 0.0
        while True:
            if version == before and time.monotonic() - begun > self._turn:
                log.warning("the watch takes no turn: the stop is left to who asked")
                return
            over = progress.note(record, time.monotonic())
            if progress.saving is not None and progress.saving != saving and not reason.now:
                saving = progress.saving
                _send(connection, {"saving": saving})
            if over or time.monotonic() - told >= BEAT:
                _send(connection, {"over": over})
                told = time.monotonic()
            if progress.is_done(record) or watch.refusals:
                break
            if is_last:
                return  # the monitor ends before the run does; who asked sees that, and goes on alone
            is_last = self._closing
            version, record = self._newest(version, 0.5)
        errors = {**watch.refusals} or progress.errors(record)
        deadline = time.monotonic() + _LAST_WORD
        while not (errors or record.state.is_terminal or self._closing) and time.monotonic() < deadline:
            version, record = self._newest(version, 0.5)
        lines = {name: {"what": error.what, "exit_code": error.exit_code} for name, error in errors.items()}
        _send(connection, {"done": True, "errors": lines, **_of_record(record)})


def _of_record(record: RunRecord) -> dict[str, Any]:
    return {"record": {"format": record.FORMAT, **to_json(record)}}


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, **data}).encode() + b"\n"


def _send(connection: socket.socket, data: Mapping[str, Any]) -> None:
    connection.sendall(_line(data))


def _request(connection: socket.socket) -> Mapping[str, Any]:
    """The one line of a request. Raises DecodeError where it is none, or too long."""
    deadline = time.monotonic() + _PATIENCE
    text = b""
    while b"\n" not in text:
        if len(text) > _LONGEST_REQUEST or time.monotonic() > deadline:
            raise DecodeError("the request is too long, or too slow")
        piece = connection.recv(_LONGEST_REQUEST)
        if not piece:
            raise DecodeError("the request is cut")
        text += piece
    data = parse(text.partition(b"\n")[0])
    if not isinstance(data, dict):
        raise DecodeError("a request is an object")
    return data


def _has_hung_up(connection: socket.socket, seconds: float) -> bool:
    """Wait so long, but not for who has gone."""
    connection.settimeout(seconds)
    try:
        return not connection.recv(1)
    except TimeoutError:
        return False
    finally:
        connection.settimeout(_SLOWEST)


def _is_ours(connection: socket.socket) -> bool:
    """Whether who asks has our account, or is root."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", found)
    return user in (0, os.geteuid())
