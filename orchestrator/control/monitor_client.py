"""The client to a run's monitor, by its socket: its newest record, the run as it goes on, its stop.

Where no monitor listens, or one dies in the middle, that is said by None, and verbs go the ways they have
without it: the record on disk, sessions of their own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from orchestrator.agent import control_socket
from orchestrator.control.record_journal import RecordReader
from orchestrator.control.run_record import Replica, RunRecord
from orchestrator.core.codec import DecodeError, from_json, parse, readable, to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, OrchestrateError, PreflightError, TransportError
from orchestrator.core.paths import ControlDir

__all__ = ["BEAT", "FORMAT", "Follower", "newest_record", "stop_by_monitor"]

FORMAT = 1
# While there is nothing to tell, a monitor says so every so many seconds.
BEAT = 3.0
_BLOCK = 1 << 18
_CONNECT = 5.0  # also for its first answer: one that hangs is still connected to, by the kernel
# A monitor that has said nothing for so long is none to wait for.
_SILENT = 5 * BEAT
_AGAIN = 1.0


class _Line:
    """A conversation with a monitor: one request, lines of answers."""

    def __init__(self, control: ControlDir, request: Mapping[str, Any]) -> None:
        self._connection = _connected(control)
        self._text = bytearray()
        try:
            self._connection.sendall(json.dumps({"format": FORMAT, **request}).encode() + b"\n")
        except OSError:
            self._connection.close()
            raise

    def next(self, timeout: float) -> dict[str, Any] | None:
        """The next line; None where it is not whole in time.

        Raises OSError where the monitor is gone, DecodeError where it says what is no answer.
        """
        deadline = time.monotonic() + timeout
        begun = 0
        while (end := self._text.find(b"\n", begun)) < 0:
            begun = len(self._text)
            if begun > RunRecord.LARGEST:
                raise DecodeError("the monitor's answer is too long")
            self._connection.settimeout(max(1e-4, deadline - time.monotonic()))
            try:
                piece = self._connection.recv(_BLOCK)
            except TimeoutError:
                return None
            if not piece:
                raise ConnectionResetError("the monitor has hung up")
            self._text += piece
        line = bytes(self._text[:end])
        del self._text[: end + 1]
        data = parse(line)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise DecodeError("the monitor is of another version")
        if "refused" in data:
            raise DecodeError(str(data["refused"]))
        return data

    def close(self) -> None:
        self._connection.close()


def _connected(control: ControlDir) -> socket.socket:
    deadline = time.monotonic() + _CONNECT
    while True:
        try:
            return control_socket.connect(control.monitor_socket, _CONNECT)
        except BlockingIOError:  # many ask at once
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def newest_record(control: ControlDir) -> RunRecord | None:
    """The record as the living monitor has it; None where none answers."""
    try:
        with contextlib.closing(_Line(control, {"verb": "record"})) as line:
            found = line.next(_CONNECT)
            return None if found is None else _record_in(found)
    except (OSError, DecodeError):
        return None


def _record_in(data: Mapping[str, Any]) -> RunRecord:
    return from_json(RunRecord, readable(RunRecord, data.get("record")))


class Follower:
    """The record of a run as it goes on, from its monitor or, while none answers, from disk."""

    def __init__(self, control: ControlDir, every: float) -> None:
        self._control = control
        self._every = every
        self._on_disk = RecordReader(control)
        self._line: _Line | None = None
        self._replica: Replica | None = None
        self._heard = self._tried = -_AGAIN

    def newest(self, wait: float | None = None) -> RunRecord:
        """The record after `wait` seconds, by default `every`, or when the run has ended before.

        Raises RunNotFound where it can be read nowhere.
        """
        deadline = time.monotonic() + (self._every if wait is None else wait)
        record = self._told(deadline)
        if record is None:
            time.sleep(max(0.0, deadline - time.monotonic()))
            record = self._on_disk.newest()
        return record

    @property
    def is_told(self) -> bool:
        """Whether the newest record came from a living monitor."""
        return self._replica is not None

    def _told(self, deadline: float) -> RunRecord | None:
        try:
            if self._line is None:
                self._begin()
            line, replica = self._line, self._replica
            if line is None:
                return None
            if replica is not None and replica.record.state.is_terminal:
                return replica.record  # with it the monitor hangs up
            while (data := line.next(max(0.0, deadline - time.monotonic()))) is not None:
                self._heard = time.monotonic()
                if replica is not None and data.get("set"):
                    replica.apply(data["set"])
                if replica is None or replica.record.state.is_terminal:
                    break
            if time.monotonic() - self._heard > _SILENT:
                raise TimeoutError
            return None if replica is None else replica.record
        except (OSError, DecodeError, ValueError, TypeError):
            self.close()
            return None

    def _begin(self) -> None:
        """Ask again where a monitor may have come meanwhile."""
        now = time.monotonic()
        if now - self._tried < _AGAIN:
            return
        self._tried = self._heard = now
        self._line = _Line(self._control, {"verb": "follow", "every": self._every})
        first = self._line.next(_CONNECT)
        if first is None:
            raise TimeoutError
        self._replica = Replica(readable(RunRecord, first.get("record")))

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = self._replica = None

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stop_by_monitor(
    control: ControlDir,
    reason: StopReason,
    over: Callable[[list[str]], None] = lambda names: None,
    saving: Callable[[float], None] = lambda seconds: None,
) -> tuple[RunRecord, dict[str, OrchestrateError]] | None:
    """Have the living monitor stop the run; its record then, and why hosts are not over.

    `over` is told hosts as they are over, `saving` for how long ranks may save a checkpoint. None where no
    monitor listens, or it was gone before it was done.
    """
    try:
        with contextlib.closing(_Line(control, {"verb": "stop", "reason": to_json(reason)})) as line:
            while True:
                data = line.next(_SILENT)
                if data is None:
                    return None
                if "saving" in data:
                    saving(from_json(float, data["saving"]))
                if data.get("over"):
                    over([str(name) for name in data["over"]])
                if data.get("done"):
                    return _record_in(data), _errors_in(data)
    except (OSError, DecodeError):
        return None


_KINDS = {kind.exit_code: kind for kind in (OrchestrateError, TransportError, PreflightError)}


@dataclass(frozen=True)
class _Error:
    what: str
    exit_code: int = 0


@dataclass(frozen=True)
class _Done:
    errors: Mapping[str, _Error]


def _errors_in(data: Mapping[str, Any]) -> dict[str, OrchestrateError]:
    found = from_json(_Done, data).errors
    return {
        host: _KINDS.get(each.exit_code, AgentError)(each.what, where=host) for host, each in found.items()
    }
