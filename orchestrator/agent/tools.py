"""Ascend's own tools, run on this host: several at a time, each with a time limit of its own, raw text back.

What the text means is the control node's business. Only the questions listed here can be asked: the same
tools also change settings.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from orchestrator.agent.environ import base_environment
from orchestrator.errors import AgentError

__all__ = ["ask_tools", "read_text"]

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
        self._process: Optional[subprocess.Popen[bytes]] = None

    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def start(self, timeout: float) -> str:
        """Start it; why it cannot be started otherwise."""
        environment = {**base_environment(os.environ), "LC_ALL": "C", "LANG": "C", "LANGUAGE": "C"}
        path = f"{environment.get('PATH', '')}:{_FOLDERS}"
        program = shutil.which(self.argv[0], path=path)
        if program is None:
            # Without the right to execute it is there, and `which` does not see it.
            return "denied" if shutil.which(self.argv[0], mode=os.F_OK, path=path) else "missing"
        try:
            process = subprocess.Popen(
                [program, *self.argv[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except PermissionError:
            return "denied"
        except OSError as error:
            return str(error.strerror or error)
        assert process.stdout is not None
        self._process, self.deadline = process, time.monotonic() + timeout
        self.handle = process.stdout.fileno()
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
        process = self._process
        assert process is not None and process.stdout is not None
        process.stdout.close()
        try:
            if not self.failure:
                process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.failure = "timeout"
        if self.failure:
            _kill(process)
        return _answer(self.output[:_LONGEST_ANSWER], process.returncode, self.failure)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
        # One that hangs in the driver cannot even be killed; it is left to its fate.
        process.wait(timeout=1)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
