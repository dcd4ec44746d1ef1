"""The supervisor's hold on its copier: it is started, heard, started again when it ends, and ended.

A copier that cannot be costs nothing but copies: what is wrong with it stands in the host's status.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import NoReturn, Optional

from orchestrator.agent import processes
from orchestrator.core.codec import DecodeError, from_json
from orchestrator.core.paths import RunDir
from orchestrator.core.record_class import replace
from orchestrator.core.records import CopyStatus

__all__ = ["CopierProcess"]

# Of seconds until one that has ended is started again, the first and the last.
_SOON, _LATEST = 1.0, 60.0
_LONGEST_LINE = 1 << 20


class CopierProcess:
    """One at a time; times are in seconds of any steady clock."""

    def __init__(self, run: RunDir, number: int) -> None:
        self._run = run
        self._number = number
        self._pid: Optional[int] = None
        self._orders, self._said = -1, -1
        self._text = b""
        self._next = 0.0
        self._pause = _SOON
        self._started = 0.0
        self._finishes_until: Optional[float] = None
        self.status = CopyStatus()

    @property
    def pid(self) -> Optional[int]:
        """Its process while it runs."""
        return self._pid

    def tick(self, now: float) -> None:
        """Start it where it does not run, and hear what it has said."""
        if self._pid is not None:
            self._hear()
            self._bury(now)
        elif now >= self._next and self._finishes_until is None:
            try:
                self._start()
                self._started = now
            except OSError as error:
                self._failed(now, error.strerror or str(error))

    def finish(self, now: float, patience: float) -> None:
        """Have it copy what there is, and end; so many seconds are waited for that, see `is_at_work`."""
        if self._finishes_until is None:
            self._finishes_until = now + patience
            if self._pid is not None:
                with contextlib.suppress(OSError):
                    os.write(self._orders, b"finish\n")

    def is_at_work(self, now: float) -> bool:
        """Whether it still copies what it was to finish with."""
        return self._pid is not None and self._finishes_until is not None and now < self._finishes_until

    def end(self) -> None:
        """Kill it; nothing is waited for but its end."""
        if self._pid is not None:
            self._hear()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._close()

    def _start(self) -> None:
        orders_read, orders = os.pipe()
        said, said_write = os.pipe()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            for each in (orders_read, orders, said, said_write):
                os.close(each)
            raise
        if pid == 0:
            self._become(orders_read, said_write, parent)
        os.close(orders_read)
        os.close(said_write)
        os.set_blocking(said, False)
        self._pid, self._orders, self._said, self._text = pid, orders, said, b""

    def _become(self, orders: int, said: int, parent: int) -> NoReturn:
        """In the child, which never returns: a supervisor is there already."""
        code = 1
        try:
            _take_leave(orders, said)
            processes.die_with_parent(signal.SIGKILL, parent)
            from orchestrator.agent.copier import copy_on  # late: `ssl` takes long, and may not be there

            copy_on(self._run, self._number)
            code = 0
        except (ImportError, OSError) as error:
            _tell_failure(str(getattr(error, "strerror", None) or error))
        except BaseException as error:
            _tell_failure(f"{type(error).__name__}: {error}")
            sys.excepthook(*sys.exc_info())
            with contextlib.suppress(Exception):
                sys.stderr.flush()
        os._exit(code)

    def _hear(self) -> None:
        while True:
            try:
                data = os.read(self._said, 1 << 16)
            except OSError:
                break
            if not data:
                break
            self._text += data
        *lines, self._text = self._text.split(b"\n")
        self._text = self._text if len(self._text) <= _LONGEST_LINE else b""
        for line in lines:
            with contextlib.suppress(ValueError, DecodeError):
                told = from_json(CopyStatus, json.loads(line))
                # One that has just been started knows nothing of what its predecessor has copied.
                is_new = told.step is None and self.status.step is not None
                self.status = replace(self.status, error=told.error) if is_new else told

    def _bury(self, now: float) -> None:
        assert self._pid is not None
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._pid, 0
        if pid == 0:
            return
        self._hear()
        self._close()
        if status != 0:
            self._failed(now, self.status.error or "the copier was killed")

    def _failed(self, now: float, why: str) -> None:
        self.status = replace(self.status, error=why[:200])
        if now - self._started > _LATEST:
            self._pause = _SOON  # it had worked
        self._next = now + self._pause
        self._pause = min(2 * self._pause, _LATEST)

    def _close(self) -> None:
        for each in (self._orders, self._said):
            with contextlib.suppress(OSError):
                os.close(each)
        self._pid, self._orders, self._said = None, -1, -1


def _tell_failure(why: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"error": f"the copier cannot work: {why}"[:200]}).encode() + b"\n")


def _take_leave(orders: int, said: int) -> None:
    """Nothing of the supervisor's stays open here, sockets and locks of devices above all; but its log."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(orders, 0)
    os.dup2(said, 1)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(name))
    sys.stdin = os.fdopen(0, "r", closefd=False)
