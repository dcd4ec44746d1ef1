"""The keeper of a worker in a container: the process that its supervisor has in the place of the worker.

    supervisor -- keeper -- docker run ...      the runtime's client, in the foreground
                    :
                    :...... container_init -- the worker      of another tree; a socket leads there

It has the runtime make the container, passes signals on to the worker, and ends just as the worker has ended:
by the same exit code, by the same signal. It ends when nothing of the container is left, so that the
supervisor, its state and its time limits are the same with a container and without. Its own death, however it
comes, closes the socket, at which the container ends. All calls of the runtime are made here and have time
limits: one that hangs holds nobody else up.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Sequence

from orchestrator.agent import processes
from orchestrator.agent.container_runtime import environment, kept_id, remove, remove_all
from orchestrator.agent.control_socket import listen
from orchestrator.core.codec import to_json
from orchestrator.core.paths import atomic_write
from orchestrator.core.records import ProcessId

__all__ = ["KILL", "Keeper", "Place"]

# Stands for SIGKILL, which a process cannot pass on.
KILL = signal.SIGUSR2
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT)
# A large image on a slow disk; what takes longer does not come.
_STARTS = 300.0
# From the worker's end to that of the client, which removes the container in between.
_CLIENT_ENDS = 20.0
_CALL, _AGAIN, _KERNEL = 15.0, 10.0, 2.0
_TICK = 1.0
# As runtimes say it: nothing was made; no program of that name.
_NOT_MADE, _NO_PROGRAM = 125, 127


class Place:
    """The files of one worker's container, in the folder of its attempt."""

    FOLDER = "containers"

    def __init__(self, attempt: Path, label: str) -> None:
        self.folder = attempt / self.FOLDER
        self.socket = self.folder / f"{label}.sock"
        self.cid = self.folder / f"{label}.cid"
        # Which processes of the host they are, and what an end has beside its code.
        self.processes = self.folder / f"{label}.pid"
        self.end = self.folder / f"{label}.end"


class Keeper:
    """Keeps one container; `told` is what the container's first process is to start.

    By its `labels`, which no other container has, it is found where it was made and no id was written down.
    """

    def __init__(
        self,
        argv: Sequence[str],
        place: Place,
        told: Mapping[str, Any],
        *,
        labels: Mapping[str, str],
        notes: Sequence[str] = (),
        starts: float = _STARTS,
    ) -> None:
        self._argv, self._place, self._told = list(argv), place, dict(told)
        self._labels, self._notes, self._starts = dict(labels), notes, starts
        self._client: Optional[subprocess.Popen[bytes]] = None
        self._listener: Optional[socket.socket] = None
        self._init_line: Optional[socket.socket] = None
        self._greeting: List[socket.socket] = []
        self._found: Dict[str, ProcessId] = {}
        self._buffer = b""
        self._waiting: List[int] = []  # signals that came before there was a worker
        self._code: Optional[int] = None
        self._ended_at = float("inf")
        self._is_killed = False
        self._next_press = 0.0

    def spawn(self) -> int:
        """Fork it; its pid. Raises OSError."""
        self._place.folder.mkdir(mode=0o700, exist_ok=True)
        parent = os.getpid()
        # What comes before it can take it would end it in another way than it is meant.
        signal.pthread_sigmask(signal.SIG_BLOCK, (KILL, *_PASSED_ON))
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (KILL, *_PASSED_ON))
            raise
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (KILL, *_PASSED_ON))
            return pid
        try:
            self._leave(parent)
            self._end_as(self._keep())
        except BaseException as error:
            self._say(f"the keeper of the container has failed: {error!r}")
        os._exit(_NOT_MADE)

    def _leave(self, parent: int) -> None:
        """Take nothing of the supervisor along but the log of the worker."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(self._told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        os.chdir("/")
        processes.die_with_parent(signal.SIGKILL, parent)

    def _keep(self) -> int:
        """The worker's exit code, negative for a signal, once its container is gone."""
        wake = self._hear_signals()
        for note in self._notes:
            self._say(note)
        with contextlib.suppress(OSError):
            self._place.socket.unlink()
        self._listener = listen(self._place.socket)
        gives_up = time.monotonic() + self._starts
        try:
            self._client = self._started()
        except OSError as error:
            self._note_end({"not_started": f"{self._argv[0]}: {error.strerror}"})
            return _NO_PROGRAM
        while self._client.poll() is None:
            lines = [self._listener, self._init_line, *self._greeting]
            known = [line for line in lines if line is not None]
            waited: List[Any] = [wake, *known]
            ready = select.select(waited, [], [], _TICK)[0]
            if wake in ready:
                self._mind_signals(os.read(wake, 4096))
            for line in known:
                if line in ready:
                    self._hear(line)
            self._mind_time(time.monotonic(), gives_up)
        self._kill_processes()
        while self._init_line is not None:  # what it has said before it ended
            self._hear_init()
        return self._result()

    def _hear_signals(self) -> int:
        """Take signals as bytes; where they are to be read."""
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker)
        for number in (signal.SIGCHLD, KILL, *_PASSED_ON):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (KILL, *_PASSED_ON))
        return wake

    def _mind_time(self, now: float, gives_up: float) -> None:
        """Nothing is waited for without end, but a process that the kernel does not let go."""
        if not self._found and not self._is_killed and now > gives_up:
            self._say(f"{self._argv[0]} has not started the container within {self._starts:g} s")
            self._code = _NOT_MADE
            self._kill()
        if now > self._ended_at + _CLIENT_ENDS:
            self._kill()
        if self._is_killed and now >= self._next_press:
            self._press()

    def _started(self) -> subprocess.Popen[bytes]:
        parent = os.getpid()
        return subprocess.Popen(
            self._argv,
            cwd="/",
            env=environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: processes.die_with_parent(signal.SIGKILL, parent),
        )

    # What comes.

    def _mind_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == KILL:
                self._kill()
            elif number in _PASSED_ON:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if "worker" not in self._found or self._init_line is None:
            self._waiting.append(number)
            return
        with contextlib.suppress(OSError):
            self._init_line.sendall(json.dumps({"signal": number}).encode() + b"\n")

    def _hear(self, line: socket.socket) -> None:
        if line is self._listener:
            with contextlib.suppress(OSError):
                new, _ = line.accept()
                new.settimeout(5.0)
                self._greeting.append(new)
        elif line is self._init_line:
            self._hear_init()
        elif line in self._greeting:
            self._greeting.remove(line)
            self._greet(line)

    def _greet(self, line: socket.socket) -> None:
        """Take note of who that is, by the kernel: the pid of a peer is told as this process sees it."""
        try:
            who = json.loads(line.recv(4096).decode())["hello"]
            pid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            process = processes.identify(pid) if pid else None
            if process is not None and who in ("init", "worker"):
                self._found[who] = process
                found = {name: to_json(each) for name, each in self._found.items()}
                atomic_write(self._place.processes, json.dumps(found))
            if who == "init":
                line.sendall(json.dumps(self._told).encode() + b"\n")
                self._init_line = line
                return
            line.sendall(b"{}\n")
        except (OSError, ValueError, KeyError, TypeError):
            pass
        line.close()
        waiting, self._waiting = self._waiting, []
        for number in waiting:
            self._pass_on(number)

    def _hear_init(self) -> None:
        assert self._init_line is not None
        try:
            data = self._init_line.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._init_line.close()
            self._init_line = None
            # It has ended, be it without a word of the worker: a client that stays is not waited for.
            self._ended_at = min(self._ended_at, time.monotonic())
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for each in lines:
            with contextlib.suppress(ValueError):
                self._note_code(json.loads(each.decode()))

    def _note_code(self, told: Mapping[str, Any]) -> None:
        code = told.get("ended")
        if not isinstance(code, int) or self._code is not None:
            return
        self._code, self._ended_at = code, time.monotonic()
        more = {name: told[name] for name in ("not_started", "oom_kills") if told.get(name)}
        if more:
            self._note_end(more)

    # Its end.

    def _kill(self) -> None:
        """Whatever state it is in: by the kernel where its first process is known, else by the runtime."""
        if self._is_killed:
            return
        self._is_killed = True
        self._kill_processes()
        if self._listener is not None:
            self._listener.close()  # one that is only being started finds nobody, and ends
            self._listener = None
        self._next_press = time.monotonic() + (_KERNEL if self._found else 0.0)

    def _kill_processes(self) -> None:
        for who in ("worker", "init"):
            process = self._found.get(who)
            if process is not None and processes.is_alive(process):
                with contextlib.suppress(OSError):
                    os.kill(process.pid, signal.SIGKILL)

    def _press(self) -> None:
        """It has been killed, and its client is still there."""
        container = kept_id(self._place.cid)
        if container is not None:
            remove(self._argv[0], container, _CALL)
        if not processes.is_alive(self._found.get("init")) and self._client is not None:
            # Nothing of the container runs: what is waited for is a runtime that hangs.
            processes.signal_group(self._client.pid, signal.SIGKILL)
        self._next_press = time.monotonic() + _AGAIN

    def _result(self) -> int:
        """The code to end with. What may be left is removed, or stays written down for who comes next."""
        assert self._client is not None
        told = self._client.returncode
        was_clean = self._code is not None and told >= 0 and not self._is_killed
        if self._code is None:
            self._code = self._code_of(told)
        trouble = "" if was_clean else self._remove()
        while processes.is_alive(self._found.get("init")):
            time.sleep(0.05)
        if trouble:
            self._say(f"a container may be left: {trouble}")
        else:
            for path in (self._place.cid, self._place.processes, self._place.socket):
                with contextlib.suppress(OSError):
                    path.unlink()
        return self._code

    def _code_of(self, told: int) -> int:
        """Where the container's first process has not said how the worker ended: it was ended itself."""
        if self._is_killed:
            return -signal.SIGKILL
        if 128 < told < 128 + signal.NSIG:
            return 128 - told
        return -signal.SIGKILL if self._found else told

    def _remove(self) -> str:
        container = kept_id(self._place.cid)
        if container is not None:
            return remove(self._argv[0], container, _CALL)
        if self._client is not None and self._client.returncode in (_NOT_MADE, 126, _NO_PROGRAM):
            return ""  # it has made none, and says why
        return remove_all(self._argv[0], self._labels, _CALL)

    def _note_end(self, told: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            atomic_write(self._place.end, json.dumps(told))

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"orchestrate: {text}\n".encode())

    def _end_as(self, code: int) -> NoReturn:
        """End as the worker has, without a core file of this process."""
        if code < 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with contextlib.suppress(OSError, ValueError):
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
            time.sleep(1.0)
        os._exit(code if code >= 0 else 128 - code)
