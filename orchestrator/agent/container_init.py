"""The first process in a worker's container: starts the worker there, passes signals on, tells how it ended.

    python3 -I container_init.py SOCKET

What to start comes over the socket, which is in the run's directory, from the keeper (`container_keeper`):
so no environment is in the runtime's records, where others may read it. The keeper learns by the same socket
which processes of the host these are: the kernel says so of each peer. When the keeper is gone, the socket
is closed, and this ends with all that it has started: as the first process of its namespace of process ids
it takes every other one along, whatever the runtime does.
This file runs by itself, under the Python of any image: hence its plain syntax.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys

__all__ = ["main"]

_OWN_PATH = "ORCHESTRATE_PYTHONPATH"
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT")
# Of version 1 and version 2 of control groups, as a container sees its own.
_OOM_FILES = ("/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/memory.events")
_NO_KEEPER, _CANNOT_EXEC = 137, 127


def main():
    # type: () -> int
    line = _connect(sys.argv[1])
    _tell(line, {"hello": "init"})
    told = json.loads(_read_line(line))
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    worker = [0]
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for name in _FORWARDED:
        signal.signal(getattr(signal, name), lambda number, _: _signal(worker[0], number))
    before = _oom_kills()
    failure, worker[0] = _start(told)
    buffer = b""
    while True:
        waited = [line, wake]  # type: list[object]
        ready = select.select(waited, [], [])[0]  # type: ignore[type-var]
        if wake in ready:
            _drain(wake)
            status = _buried(worker[0])
            if status is not None:
                _signal(worker[0], signal.SIGKILL)  # what it has left in its group
                _tell_end(line, status, failure, _oom_kills() - before)
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        if line in ready:
            data = line.recv(4096)
            if not data:
                _signal(worker[0], signal.SIGKILL)
                return _NO_KEEPER
            *lines, buffer = (buffer + data).split(b"\n")
            for each in lines:
                _signal(worker[0], json.loads(each.decode())["signal"])


def _start(told):
    # type: (dict[str, object]) -> tuple[int, int]
    """Start the worker; where to read why it could not become its program, and its pid."""
    reading, writing = os.pipe()  # closed by the exec
    pid = os.fork()
    if pid:
        os.close(writing)
        return reading, pid
    try:
        _become(told)
    except OSError as error:
        what = error.filename or told["argv"][0]  # type: ignore[index]
        os.write(writing, f"{what}: {error.strerror or error}".encode())
    except Exception as error:
        os.write(writing, str(error).encode())
    os._exit(_CANNOT_EXEC)


def _become(told):
    # type: (dict[str, object]) -> None
    os.setsid()
    signal.set_wakeup_fd(-1)
    # Python ignores two for itself; the worker gets all as a program that is started on the host gets them.
    for name in (*_FORWARDED, "SIGCHLD", "SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    # The keeper answers once it knows who this is.
    line = _connect(sys.argv[1])
    _tell(line, {"hello": "worker"})
    _read_line(line)
    env = dict(os.environ)
    env.update(told["env"])  # type: ignore[call-overload]
    if not told["sourced"]:  # else the script that is sourced is to have its part, and its shell joins them
        paths = [env.pop(_OWN_PATH, ""), env.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = ":".join([path for path in paths if path])
        if not env["PYTHONPATH"]:
            del env["PYTHONPATH"]
    os.umask(told["umask"])  # type: ignore[arg-type]
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)  # type: ignore[arg-type]
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(told["cwd"])  # type: ignore[arg-type]
    argv = told["argv"]
    os.execvpe(argv[0], argv, env)  # type: ignore[index,arg-type]


def _buried(worker):
    # type: (int) -> int | None
    """Bury what has ended; how the worker did, if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == worker:
            found = status


def _tell_end(line, status, failure, kills):
    # type: (socket.socket, int, int, int) -> None
    why = os.read(failure, 4096).decode("utf-8", "replace")
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    _tell(line, {"ended": code, "not_started": why, "oom_kills": kills})


def _signal(worker, number):
    # type: (int, int) -> None
    if worker <= 0:
        return
    try:
        os.killpg(worker, number)
    except OSError:
        with contextlib.suppress(OSError):
            os.kill(worker, number)  # it has no group of its own yet


def _oom_kills():
    # type: () -> int
    """How often the kernel has killed in this container's control group for want of memory."""
    for path in _OOM_FILES:
        try:
            with open(path) as file:
                for line in file:
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
        except (OSError, ValueError):
            pass
    return 0


def _connect(path):
    # type: (str) -> socket.socket
    # A socket's address holds 107 bytes, a path may be longer: go through the folder's descriptor.
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    os.close(folder)
    return line


def _tell(line, told):
    # type: (socket.socket, dict[str, object]) -> None
    line.sendall(json.dumps(told).encode() + b"\n")


def _read_line(line):
    # type: (socket.socket) -> str
    """One line; an end of the connection before it ends this process."""
    found = b""
    while not found.endswith(b"\n"):
        piece = line.recv(1 << 16)
        if not piece:
            os._exit(_NO_KEEPER)
        found += piece
    return found.decode()


def _drain(wake):
    # type: (int) -> None
    try:
        while os.read(wake, 4096):
            pass
    except BlockingIOError:
        pass


if __name__ == "__main__":
    sys.exit(main())
