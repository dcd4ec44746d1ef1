"""Pieces of work on a host that may hang: each in a process of its own, given up when its time is over.

A file system whose server is away keeps who asks it waiting for ever, and nothing but another process can go
on then. What a piece gives comes back as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from signal import SIGKILL
from typing import Any, Callable, Dict, Mapping, NamedTuple, Tuple

from orchestrator.agent import processes

__all__ = ["Done", "do_all"]

_MOST_BYTES = 8 << 20
_BLOCK = 1 << 16


class Done(NamedTuple):
    """What the pieces gave, by their names, and why others gave nothing."""

    results: Dict[str, Any]
    problems: Dict[str, str]


def do_all(pieces: Mapping[str, Callable[[], Any]], seconds: float) -> Done:
    """Do all of them at once, for at most so long."""
    deadline = time.monotonic() + seconds
    poller = select.poll()
    running: Dict[int, Tuple[str, int, bytearray]] = {}
    done = Done({}, {})
    for name, work in pieces.items():
        try:
            pid, handle = _start(work)
        except OSError as error:
            done.problems[name] = error.strerror or str(error)
            continue
        running[handle] = (name, pid, bytearray())
        poller.register(handle, select.POLLIN | select.POLLHUP)
    while running and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(left * 1000 + 1):
            name, pid, output = running[handle]
            data = os.read(handle, _BLOCK)
            output += data
            if not data or len(output) > _MOST_BYTES:
                poller.unregister(handle)
                del running[handle]
                os.close(handle)
                _note(done, name, output)
                _end(pid)
    for handle, (name, pid, _) in running.items():
        os.close(handle)
        _end(pid)
        done.problems[name] = f"no answer within {seconds:g} s (a disk or a device that hangs?)"
    return done


def _note(done: Done, name: str, output: bytearray) -> None:
    try:
        answer = (
            json.loads(bytes(output)) if len(output) <= _MOST_BYTES else {"problem": "more than is taken"}
        )
    except ValueError:
        answer = {"problem": "it broke off"}
    if "problem" in answer:
        done.problems[name] = answer["problem"]
    else:
        done.results[name] = answer["result"]


def _start(work: Callable[[], Any]) -> Tuple[int, int]:
    """A child that does the work, in a group of its own, and the end to read from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.setpgid(0, 0)
        _hold_nothing_but(writing)
        _write_all(writing, _answer_of(work))
    finally:
        os._exit(0)


def _answer_of(work: Callable[[], Any]) -> bytes:
    try:
        return json.dumps({"result": work()}).encode()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return json.dumps({"problem": f"{where}{error.strerror or error}"}).encode()
    except Exception as error:  # a child has nobody above it who could tell
        return json.dumps({"problem": f"{type(error).__name__}: {error}"[:300]}).encode()


def _hold_nothing_but(writing: int) -> None:
    """One that hangs must not keep the session's channel open, on which the control node waits."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.closerange(3, writing)
    os.closerange(writing + 1, 4096)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _end(pid: int) -> None:
    """Kill what is left of a piece; one that hangs in the kernel is left to it."""
    if not processes.signal_group(pid, SIGKILL):
        with contextlib.suppress(ProcessLookupError):  # it has not come to make its group
            os.kill(pid, SIGKILL)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.001)
