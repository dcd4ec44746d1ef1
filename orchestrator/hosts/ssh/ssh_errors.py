"""The door at which what paramiko and sockets raise becomes an error of ours."""

from __future__ import annotations

import errno
import os
import socket

import paramiko
from paramiko.ssh_exception import (
    IncompatiblePeer,
    MessageOrderError,
    NoValidConnectionsError,
)

from orchestrator.core.errors import (
    AuthenticationError,
    CommandTimeout,
    ConfigError,
    ConnectError,
    HostKeyError,
    OrchestrateError,
    TransportError,
)

__all__ = ["Dropped", "WrongConfig", "broken", "cut_off", "translate"]


class WrongConfig(AuthenticationError):
    """The SSH configuration here cannot be used: about the host nothing has been learnt."""

    exit_code = ConfigError.exit_code


class Dropped(ConnectError):
    """The host took the connection and closed it before anybody had logged in: another try may be welcome."""


_UP = "is the host up, and the address and port right?"
_NAME = "check the address in the inventory, or HostName in the ssh config"
_AUTH = "check `user` and `key` in the inventory, or copy the key there with ssh-copy-id"
_SERVER = "see sshd's log on the host; too many connections at once are limited by MaxStartups"

# (foreign class, our class, remedy); the first row that fits counts, so subclasses stand before their bases.
_DOOR: tuple[tuple[type[BaseException], type[TransportError], str], ...] = (
    (paramiko.BadHostKeyException, HostKeyError, "compare the key with the host's own before you accept it"),
    (paramiko.PasswordRequiredException, AuthenticationError, "load the key into an ssh-agent"),
    (paramiko.AuthenticationException, AuthenticationError, _AUTH),
    (paramiko.ChannelException, TransportError, "sshd's MaxSessions limits the channels of a connection"),
    (IncompatiblePeer, ConnectError, "the host's sshd is too old or too strict for this machine"),
    (MessageOrderError, ConnectError, "something between here and the host tampers with the connection"),
    (paramiko.SSHException, ConnectError, _SERVER),
    (NoValidConnectionsError, ConnectError, _UP),
    (socket.gaierror, ConnectError, _NAME),
    (TimeoutError, ConnectError, _UP),
    (EOFError, ConnectError, _SERVER),
    (OSError, ConnectError, _UP),
)


def translate(error: BaseException, host: str, *, connected: bool) -> OrchestrateError:
    """Our error for a foreign one; after the connection stood, ConnectError becomes TransportError."""
    if isinstance(error, OrchestrateError):
        return _of_host(error, host)
    if connected and isinstance(error, TimeoutError) and not error.errno:
        return CommandTimeout("no answer in time", where=host)
    if not connected and isinstance(error, paramiko.ChannelException):
        return ConnectError(
            f"the jump host cannot reach it: {error.text}",
            where=host,
            remedy="check ProxyJump in the ssh config",
        )
    for foreign, ours, remedy in _DOOR:
        if isinstance(error, foreign):
            if connected and ours is ConnectError:
                return broken(host, error)
            found = ours(_text(error), where=host, remedy=remedy)
            if isinstance(found, ConnectError):
                found.refused = _is_refused(error)
            return found
    return (TransportError if connected else ConnectError)(_text(error), where=host)


def cut_off(host: str, error: BaseException) -> Dropped | None:
    """The error of a host that closed the connection during the handshake; None for anything else."""
    if not isinstance(error, (EOFError, ConnectionError)):
        return None
    return Dropped(_text(error), where=host, remedy=_SERVER)


def _of_host(error: OrchestrateError, host: str) -> OrchestrateError:
    """One of ours, as an error of this host."""
    if isinstance(error, ConfigError):
        where = f"{error.where}: " if error.where else ""
        return WrongConfig(f"{where}{error.what}", where=host, remedy=error.remedy)
    if isinstance(error, Dropped):
        return ConnectError(error.what, where=host, remedy=error.remedy)
    if isinstance(error, TransportError) and error.where != host:  # a jump host's, met by another host first
        return type(error)(error.what, where=host, remedy=error.remedy)
    return error


def _is_refused(error: BaseException) -> bool:
    if isinstance(error, NoValidConnectionsError):
        return all(map(_is_refused, error.errors.values()))
    return isinstance(error, ConnectionRefusedError)


def broken(host: str, cause: BaseException | None) -> TransportError:
    """For a connection that stood and is gone."""
    reason = "" if cause is None or isinstance(cause, EOFError) else f": {_text(cause)}"
    return TransportError(f"the connection broke{reason}", where=host)


def _text(error: BaseException) -> str:
    if isinstance(error, paramiko.ChannelException):
        return f"the host refused a channel: {error.text}"
    if isinstance(error, NoValidConnectionsError):
        return "; ".join(sorted({_text(each) for each in error.errors.values()}))
    if isinstance(error, socket.gaierror):
        return f"unknown host name: {error.strerror}"
    if isinstance(error, TimeoutError):
        return error.strerror.lower() if error.strerror else "timed out"
    if isinstance(error, EOFError):
        return "the host closed the connection during the handshake"
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno).lower()
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
