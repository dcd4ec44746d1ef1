"""Locks on the way from one process of a host to another: their descriptors, over a Unix socket.

A lock of flock(2) is of an open file, not of a process: who is handed its descriptor holds it, too, and it is
free only when all have closed theirs. So there is no moment at which somebody else could take the device,
whichever of the two dies on the way.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import struct
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from orchestrator.core.errors import AgentError

__all__ = ["hand_over", "require_lock", "take_over"]

_MOST = 128  # the kernel takes 253 at once
_LONGEST = 1 << 14
_CREDENTIALS = struct.Struct("3i")


def hand_over(connection: socket.socket, fds: Sequence[int], notes: Sequence[int]) -> None:
    """Send these descriptors; `notes` are the devices whose locks they are, in the same order.

    They stay open here: close them once the peer has said that it has them, or never. Raises OSError.
    """
    line = json.dumps(list(notes)).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = connection.sendmsg([line], rights)
    if rest := line[sent:]:  # to send nothing fails, too, where a quick peer has all and is gone already
        connection.sendall(rest)


def take_over(connection: socket.socket) -> Dict[int, int]:
    """The descriptors that the peer hands over, by device; no program that is started here inherits them.

    Raises AgentError, kind `no_locks`, where the peer is of another account or sends something else; OSError.
    """
    if _account_of(connection) != os.geteuid():
        raise AgentError("who holds the locks is of another account", kind="no_locks")
    fds: List[int] = []
    try:
        line = b""
        while not line.endswith(b"\n"):
            data, rights, flags, _ = connection.recvmsg(
                _LONGEST, socket.CMSG_SPACE(_MOST * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
            fds += _descriptors(rights)
            line += data
            if not data or flags & socket.MSG_CTRUNC or len(line) > _LONGEST:
                raise ValueError("it broke off")
        devices = json.loads(line)
        is_list = isinstance(devices, list) and all(type(device) is int for device in devices)
        if not is_list or len(set(devices)) != len(devices) or len(devices) != len(fds):
            raise ValueError("not a device for each descriptor")
    except (ValueError, RecursionError) as error:
        _close(fds)
        raise AgentError(f"no locks were handed over: {error}", kind="no_locks") from error
    except BaseException:
        _close(fds)
        raise
    return dict(zip(devices, fds))


def require_lock(fd: int, path: Path) -> None:
    """Raise AgentError, kind `no_locks`, where this is not the lock at `path`, or somebody else holds it."""
    try:
        mine, there = os.fstat(fd), os.stat(path, follow_symlinks=False)
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise AgentError(f"{path} is another file than the lock that was handed over", kind="no_locks")
        # Of an open file that has the lock already this changes nothing.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise AgentError(f"{path}: {error.strerror}", kind="no_locks") from error


def _account_of(connection: socket.socket) -> int:
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(told)
    return int(uid)


def _descriptors(rights: Sequence[Tuple[int, int, bytes]]) -> List[int]:
    found: List[int] = []
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            found += numbers
    return found


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
