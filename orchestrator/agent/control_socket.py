"""The line between an agent session and a run's supervisor: a Unix socket in the run's directory.

The directory has mode 0700, so only the account that owns the run can talk to its supervisor.
One request, one answer, both one line of JSON.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any, Dict

from orchestrator.core.errors import AgentError

__all__ = ["ask", "connect", "listen", "receive", "reply"]

_LIMIT = 1 << 20


def _short(path: Path, folder: int) -> str:
    # A socket's address holds 107 bytes, a path may be longer: go through the folder's descriptor.
    return f"/proc/self/fd/{folder}/{path.name}"


def listen(path: Path) -> socket.socket:
    """A listening socket at this path."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(_short(path, folder))
    finally:
        os.close(folder)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def connect(path: Path, timeout: float) -> socket.socket:
    """A connection to the socket at this path; raises OSError where nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if stat.S_ISLNK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", str(path))
            connection.connect(_short(path, folder))
        finally:
            os.close(folder)
    except OSError:
        connection.close()
        raise
    return connection


def ask(path: Path, request: Dict[str, Any], timeout: float = 30.0) -> Dict[str, Any]:
    """Send one request to the supervisor and wait for its answer.

    Raises AgentError: what the supervisor refuses, or, kind `no_supervisor`, nobody listens.
    """
    try:
        with connect(path, timeout) as connection:
            reply(connection, request)
            answer = receive(connection)
    except (OSError, ValueError) as error:
        raise AgentError(f"the supervisor does not answer: {error}", kind="no_supervisor") from error
    if "refused" in answer:
        raise AgentError(str(answer["refused"]), remedy=str(answer.get("remedy", "")), kind="refused")
    return answer


def receive(connection: socket.socket) -> Dict[str, Any]:
    """One JSON line; raises ValueError where the peer sends something else or nothing."""
    with connection.makefile("rb") as stream:
        line = stream.readline(_LIMIT)
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def reply(connection: socket.socket, answer: Dict[str, Any]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")
