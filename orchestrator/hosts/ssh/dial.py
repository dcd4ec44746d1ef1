"""The socket to a host: TCP as the configuration wants it, or the streams of a ProxyCommand."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable

from orchestrator.core.errors import ConnectError
from orchestrator.hosts.ssh.caretaker import CARETAKER
from orchestrator.hosts.ssh.client_config import Settings
from orchestrator.hosts.ssh.config_lines import Doubt
from orchestrator.hosts.ssh.config_values import expand
from orchestrator.hosts.transport import StderrTail, words_of

__all__ = ["ProxyProcess", "dial"]

# What ignores SIGTERM for so long, in seconds, is left to the end of this process.
_REAPED_WITHIN = 60.0
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


def dial(
    settings: Settings, timeout: float, begun: Callable[[socket.socket], None] = lambda sock: None
) -> socket.socket:
    """A TCP connection to the host; the first of its addresses that answers. Raises OSError.

    Each socket is given to `begun` before it connects, so that it can be shut down by others.
    """
    if settings.bind_interface:
        raise OSError(errno.EOPNOTSUPP, "BindInterface of the ssh config is not supported: use BindAddress")
    family = _FAMILIES.get(settings.address_family, socket.AF_UNSPEC)
    found = socket.getaddrinfo(settings.hostname, settings.port, family, socket.SOCK_STREAM)
    error: OSError | None = None
    for kind, _, protocol, _, address in found:
        sock = socket.socket(kind, socket.SOCK_STREAM, protocol)
        try:
            begun(sock)
            sock.settimeout(timeout)
            if settings.bind_address:
                sock.bind((settings.bind_address, 0))
            sock.connect(address)
            return sock
        except OSError as failed:
            sock.close()
            error = failed
    raise error or OSError(errno.EHOSTUNREACH, "no address")


class ProxyProcess:
    """A ProxyCommand, run as OpenSSH does: by the user's shell, the connection being stdin and stdout."""

    def __init__(self, host: str, settings: Settings, asked: str) -> None:
        self._host = host
        self._tail = StderrTail(4096)
        tokens = {
            "h": settings.hostname,
            "k": settings.host_key_alias or asked,
            "n": asked,
            "p": str(settings.port),
            "r": settings.user,
        }
        try:
            self.command = expand(f"exec {settings.proxy_command}", tokens, None, "ProxyCommand")
        except Doubt as doubt:
            raise ConnectError(f"ProxyCommand {doubt.what}", where=host) from None
        ours, theirs = socket.socketpair()
        shell = os.environ.get("SHELL") or "/bin/sh"
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [shell, "-c", self.command],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise ConnectError(f"ProxyCommand does not start: {error}", where=host) from None
        self.socket = ours
        assert self._process.stderr is not None
        self._is_drained = CARETAKER.drain(self._process.stderr, self._tail.feed)

    def said(self) -> str:
        """What it said of why it ended, short."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
            self._is_drained.wait(0.5)  # not for ever: a child may have stderr open
        words = words_of(bytes(self._tail))
        code = self._process.poll()
        ended = "" if code is None else f" ended with exit code {code}"
        command = shlex.join(self.command.split()[1:3])
        return f"ProxyCommand `{command} …`{ended}{words and f': {words}'}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGTERM)
        CARETAKER.when(lambda: self._process.poll() is not None, _REAPED_WITHIN, lambda _: None)
