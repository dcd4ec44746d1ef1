"""Ascend's own tools, run on this host: several at a time, each with a time limit of its own, raw text back.

What the text means is the control node's business. Only the questions listed here can be asked: the same
tools also change settings.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time

from orchestrator.agent.worker_environment import base_environment
from orchestrator.core.errors import AgentError

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

__all__ = ["ask_tools", "read_text", "run_programs"]

_ASKED = {
    "hccn_tool": re.compile(
        r"-i \d{1,4} (-ip( -inet6)?|-link|-net_health|-netdetect|-gateway|-tls|-speed|-fec|-lldp|-mac|-vnic"
        r"|-bandwidth|-link_stat|-stat|-optical|-(hccs_)?ping) -g( address [0-9A-Fa-f:.]{2,45})?"
    ),
    "npu-smi": re.compile(
        r"info( -m| (-i \d{1,4} (-c \d{1,2} )?)?-t (health|board|ecc|usages|memory|common|spod-info))?"
        r"( -i \d{1,4})?( -c \d{1,2})?"
    ),
}
# Where the driver puts them; a shell that is no login shell often has none of these on its PATH.
_FOLDERS = "/usr/local/Ascend/driver/tools:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin"
_LONGEST_ANSWER = 256 * 1024
_BUSY = b"is busy, please try again"
_PATIENCE_WHEN_BUSY = 5


def ask_tools(calls: Sequence[Sequence[str]], *, timeout: float, parallel: int = 8) -> List[Dict[str, Any]]:
    """The answers in the order of the calls: `text`, `exit_code`, and `failure` where there is no answer.

    `failure` is `missing`, `denied`, `timeout`, `flood` (more than 256 KiB), or `skipped`: of a device that
    has kept one call waiting for `timeout` seconds nothing more is asked. Raises AgentError for a call that
    is no question.
    """
    for argv in calls:
        _require_question(argv)
    return _Questions(calls, timeout).ask_all(parallel)


def run_programs(
    calls: Sequence[Sequence[str]], *, timeout: float, parallel: int = 8
) -> List[Dict[str, Any]]:
    """The same of calls that were made up on this host; a program may be given by its path."""
    return _Questions(calls, timeout).ask_all(parallel)


def read_text(path: str) -> Dict[str, Any]:
    """A small text file: its `text`, or why it cannot be read as `failure`."""
    try:
        with open(path, "rb") as file:
            return _answer(file.read(_LONGEST_ANSWER))
    except FileNotFoundError:
        return _answer(failure="missing")
    except OSError as error:
        return _answer(failure=str(error.strerror or error))


def _require_question(call: Sequence[str]) -> None:
    asked = _ASKED.get(call[0]) if call else None
    if asked is None or any(" " in word for word in call) or not asked.fullmatch(" ".join(call[1:])):
        raise AgentError(f"`{' '.join(call)}` is no question to an Ascend tool", kind="bad_call")


def _device_of(argv: Sequence[str]) -> Tuple[str, ...]:
    """What hangs together: a tool and the device it is asked about."""
    return (argv[0], argv[argv.index("-i") + 1] if "-i" in argv else "")


def _answer(text: bytes = b"", exit_code: Optional[int] = None, failure: str = "") -> Dict[str, Any]:
    return {"text": text.decode("utf-8", "replace"), "exit_code": exit_code, "failure": failure}


class _Questions:
    """All calls of one request: those that wait, those that run, and the answers so far."""

    def __init__(self, calls: Sequence[Sequence[str]], timeout: float) -> None:
        self._timeout = timeout
        self._answers: List[Dict[str, Any]] = [{} for _ in calls]
        self._waiting = [_Call(number, list(argv)) for number, argv in enumerate(calls)]
        self._running: Dict[int, _Call] = {}
        self._poller = select.poll()
        self._stuck: Set[Tuple[str, ...]] = set()

    def ask_all(self, parallel: int) -> List[Dict[str, Any]]:
        while self._waiting or self._running:
            while self._waiting and len(self._running) < parallel:
                self._start(self._waiting.pop(0))
            for call in self._ended():
                self._finish(call)
        return self._answers

    def _start(self, call: _Call) -> None:
        failure = "skipped" if _device_of(call.argv) in self._stuck else call.start(self._timeout)
        if failure:
            self._answers[call.number] = _answer(failure=failure)
        else:
            self._running[call.handle] = call
            self._poller.register(call.handle, select.POLLIN | select.POLLHUP)

    def _ended(self) -> List[_Call]:
        """Read what there is; the calls that are at their end, in time or not."""
        if not self._running:
            return []
        patience = min(call.deadline for call in self._running.values()) - time.monotonic()
        ready = self._poller.poll(max(0.0, patience) * 1000 + 1)
        ended = [self._running[handle] for handle, _ in ready if self._running[handle].read()]
        late = [call for call in self._running.values() if call.is_late() and call not in ended]
        for call in late:
            call.failure = "timeout"
        return ended + late

    def _finish(self, call: _Call) -> None:
        self._poller.unregister(call.handle)
        del self._running[call.handle]
        answer = call.finish()
        if _BUSY in call.output and call.tries < _PATIENCE_WHEN_BUSY:
            time.sleep(0.1)
            self._waiting.append(_Call(call.number, call.argv, call.tries + 1))
            return
        if call.failure == "timeout":
            self._stuck.add(_device_of(call.argv))
        self._answers[call.number] = answer


class _Call:
    """One process, its output so far, and when its time is over."""

    def __init__(self, number: int, argv: List[str], tries: int = 1) -> None:
        self.number = number
        self.argv = argv
        self.tries = tries
        self.deadline = 0.0
        self.output = b""
        self.failure = ""
        self.handle = -1
        self._pid = 0

    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def start(self, timeout: float) -> str:
        """Start it; why it cannot be started otherwise."""
        environment = {**base_environment(os.environ), "LC_ALL": "C", "LANG": "C", "LANGUAGE": "C"}
        path = f"{environment.get('PATH', '')}:{_FOLDERS}"
        folders = [""] if self.argv[0].startswith("/") else [f"{folder}/" for folder in path.split(":")]
        found = [file for folder in folders if os.path.isfile(file := f"{folder}{self.argv[0]}")]
        program = next((file for file in found if os.access(file, os.X_OK)), None)
        if program is None:
            return "denied" if found else "missing"
        try:
            self._pid, self.handle = _spawn([program, *self.argv[1:]], environment)
        except PermissionError:
            return "denied"
        except OSError as error:
            return str(error.strerror or error)
        self.deadline = time.monotonic() + timeout
        return ""

    def read(self) -> bool:
        """Take what has come; whether that was the end."""
        data = os.read(self.handle, 65536)
        self.output += data
        if len(self.output) > _LONGEST_ANSWER:
            self.failure = "flood"
        return not data or bool(self.failure)

    def finish(self) -> Dict[str, Any]:
        """The answer. A process that is not at its end is killed with all that it started."""
        os.close(self.handle)
        exit_code = None if self.failure else _wait(self._pid, 1.0)
        if exit_code is None:
            self.failure = self.failure or "timeout"
            _kill(self._pid)
        return _answer(self.output[:_LONGEST_ANSWER], exit_code, self.failure)


def _spawn(argv: List[str], environment: Dict[str, str]) -> Tuple[int, int]:
    """Pid, in a group of its own, and the end to read from.

    Not through `subprocess`: to import that takes as long as nine calls.
    """
    reading, writing = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writing, 1),
            (os.POSIX_SPAWN_DUP2, writing, 2),
        ]
        # Python ignores SIGPIPE for itself; the tool is to have it as a shell would give it.
        pid = os.posix_spawn(
            argv[0], argv, environment, file_actions=actions, setpgroup=0, setsigdef=[signal.SIGPIPE]
        )
        return pid, reading
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)


def _wait(pid: int, patience: float) -> Optional[int]:
    """The exit code, negative for a signal; None where the process has not ended after so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.001)


def _kill(pid: int) -> None:
    """One that hangs in the driver cannot even be killed; it is left to its fate."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except PermissionError:
        return  # it runs as root by itself
    _wait(pid, 1.0)
