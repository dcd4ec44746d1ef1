"""One connection per jump host, shared by all hosts behind it.

A hundred hosts behind one door would else knock a hundred times at once, and sshd's MaxStartups turns
most of them away. Channels that only pass bytes on do not count against MaxSessions.

One SSH connection to one host: resolved by fabric, carried by paramiko.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import fabric

from orchestrator.hosts.ssh.channel import SshChannel
from orchestrator.hosts.ssh.host_keys import HostKeyPolicy, KnownHosts
from orchestrator.hosts.ssh.packets import Wire
from orchestrator.hosts.ssh.private_keys import KeyLogin
from orchestrator.hosts.ssh.ssh_config import shared_config
from orchestrator.hosts.ssh.ssh_errors import broken, translate
from orchestrator.hosts.transport import Channel, Transport

if TYPE_CHECKING:
    from orchestrator.config.inventory import Host, SshOptions

__all__ = [
    "JumpHosts",
    "Lease",
    "SshTransport",
    "hang_up",
]


class _Jump:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: fabric.Connection | None = None
        self.before: Lease | None = None
        self.users = 0
        self.attempts = 0
        self.error: Exception | None = None

    def connect(self, wanted: fabric.Connection, open_: Callable[[fabric.Connection], Lease | None]) -> None:
        self.hang_up()
        try:
            self.error = None
            self.before = open_(wanted)
            self.connection = wanted
        except Exception as error:
            self.error = error
            raise
        finally:
            self.attempts += 1

    def hang_up(self) -> None:
        connection, self.connection = self.connection, None
        before, self.before = self.before, None
        if connection is not None:
            hang_up(connection)
        if before is not None:
            before.release()


class Lease:
    """A right to use a jump host's connection until release()."""

    def __init__(self, jumps: JumpHosts, key: Hashable, connection: fabric.Connection) -> None:
        self.connection = connection
        self._jumps = jumps
        self._key = key

    def release(self) -> None:
        """Once only; the last one closes the connection."""
        self._jumps.release(self._key)


class JumpHosts:
    """The open connections to jump hosts; `scope` keeps users with different ssh options apart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jumps: dict[Hashable, _Jump] = {}

    def acquire(
        self,
        wanted: fabric.Connection,
        scope: Hashable,
        open_: Callable[[fabric.Connection], Lease | None],
    ) -> Lease:
        """A living connection to where `wanted` leads, made by `open_` if there is none yet.

        Whoever waits for somebody else's attempt gets its error, and does not try the same again.
        """
        key = (scope, _route(wanted))
        with self._lock:
            jump = self._jumps.setdefault(key, _Jump())
            jump.users += 1
            attempts = jump.attempts
        try:
            with jump.lock:
                if jump.connection is None or not jump.connection.is_connected:
                    if jump.attempts > attempts and jump.error is not None:
                        raise jump.error
                    jump.connect(wanted, open_)
                return Lease(self, key, jump.connection)
        except BaseException:
            self.release(key)
            raise

    def release(self, key: Hashable) -> None:
        with self._lock:
            jump = self._jumps[key]
            jump.users -= 1
            if jump.users:
                return
            del self._jumps[key]
        jump.hang_up()


def hang_up(connection: fabric.Connection) -> None:
    """Close a connection, at once and also when it is only half made."""
    wire = connection.client.get_transport()
    if wire is not None:
        wire.hang_up()
    connection.client.close()


def _route(connection: fabric.Connection) -> Hashable:
    gateway = connection.gateway
    before = _route(gateway) if isinstance(gateway, fabric.Connection) else gateway
    return connection.user, connection.host, connection.port, before


# A busy host answers TCP at once and takes its time for the handshake.
_HANDSHAKE_PATIENCE = 3.0
_RESOLVING = threading.Lock()


class SshTransport(Transport):
    """fabric reads the ssh config, users and jump hosts out of it; host keys and logins are ours.

    fabric's own defaults would accept any unknown host key, try every key of the user on every host, and
    run commands through several threads each.
    """

    def __init__(self, host: Host, options: SshOptions, *, wire_class: type[Wire] = Wire) -> None:
        super().__init__(host.name)
        self._inventory_host = host
        self._options = options
        self._wire_class = wire_class
        self._known_hosts = _known_hosts(tuple(options.known_hosts))
        self._lock = threading.Lock()
        self._connection: fabric.Connection | None = None
        self._jump: Lease | None = None

    def connect(self) -> None:
        with self._lock:
            if self._connection is not None and self._connection.is_connected:
                return
            self._hang_up()
            try:
                connection = self._resolve()
                self._jump = self._open_connection(connection, self._inventory_host.key)
                self._connection = connection
            # A bad ssh config or key also lets ValueError, TypeError and the like out of fabric and paramiko.
            except Exception as error:
                raise translate(error, self.host, connected=False) from error

    def close(self) -> None:
        with self._lock:
            self._hang_up()

    def _open(self, argv: tuple[str, ...]) -> Channel:
        connection = self._connection
        if connection is None:
            raise self._not_connected()
        wire = connection.transport
        try:
            session = wire.open_session(timeout=self._patience)
            return SshChannel(self.host, argv, wire, session)
        except Exception as error:
            if not wire.is_active():
                raise broken(self.host, wire.saved_exception) from error
            raise translate(error, self.host, connected=True) from error

    @property
    def _patience(self) -> float:
        return float(self._options.connect_timeout * _HANDSHAKE_PATIENCE)

    def _resolve(self) -> fabric.Connection:
        host = self._inventory_host
        # A new Connection writes into the shared config, which is empty for a moment then.
        with _RESOLVING:
            connection = fabric.Connection(
                host.address,
                user=host.user,
                port=host.port,
                config=shared_config(self._options.config_file),
                # Not empty, or fabric would write each host's identity files into the shared config.
                connect_kwargs={"look_for_keys": False},
            )
            if str(connection.ssh_config.get("proxyjump", "")).lower() == "none":
                connection.gateway = None
        return connection

    def _open_connection(self, connection: fabric.Connection, key: str | None) -> Lease | None:
        """Connect, through jump hosts where there are any; the lease of the last of these."""
        jump = None
        if isinstance(connection.gateway, fabric.Connection):
            options = self._options
            scope = (options.config_file, tuple(options.known_hosts), options.accept_new_host_keys)
            jump = _JUMP_HOSTS.acquire(connection.gateway, scope, self._open_jump)
            connection.gateway = jump.connection
        try:
            self._prepare(connection, key)
            connection.open()
            connection.transport.watch_peer()
        except BaseException:
            hang_up(connection)
            if jump is not None:
                jump.release()
            raise
        return jump

    def _open_jump(self, connection: fabric.Connection) -> Lease | None:
        try:
            return self._open_connection(connection, None)
        except Exception as error:
            ours = translate(error, self.host, connected=False)
            what = f"jump host {connection.original_host}: {ours.what}"
            raise type(ours)(what, where=self.host, remedy=ours.remedy) from error

    def _prepare(self, connection: fabric.Connection, key: str | None) -> None:
        policy = HostKeyPolicy(self.host, connection, self._known_hosts, self._options.accept_new_host_keys)
        connection.client.set_missing_host_key_policy(policy)
        connection.connect_timeout = None  # said below; fabric refuses to hear it twice
        connection.connect_kwargs = {
            "timeout": self._patience,
            "banner_timeout": self._patience,
            "auth_timeout": self._patience,
            "channel_timeout": self._patience,
            "transport_factory": functools.partial(self._make_wire, policy),
            "auth_strategy": KeyLogin(self.host, connection, key),
        }
        if not connection.gateway:
            address = (connection.host, connection.port)
            connection.connect_kwargs["sock"] = socket.create_connection(
                address, self._options.connect_timeout
            )

    def _make_wire(self, policy: HostKeyPolicy, sock: socket.socket, disabled_algorithms: None) -> Wire:
        wire = self._wire_class(sock, disabled_algorithms)
        wire.prefer_host_keys(policy.known_kinds())
        return wire

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        jump, self._jump = self._jump, None
        if connection is not None:
            hang_up(connection)
        if jump is not None:
            jump.release()


_JUMP_HOSTS = JumpHosts()


@functools.lru_cache(maxsize=8)
def _known_hosts(paths: tuple[str, ...]) -> KnownHosts:
    return KnownHosts(paths)
