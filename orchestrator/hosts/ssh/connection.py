"""One SSH connection to one host: the way is the SSH config's, the protocol paramiko's, the trust ours."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import paramiko

from orchestrator.core.errors import ConnectError
from orchestrator.hosts.ssh.channel import SshChannel
from orchestrator.hosts.ssh.client_config import Asked
from orchestrator.hosts.ssh.dial import ProxyProcess, dial
from orchestrator.hosts.ssh.host_keys import HostKeyPolicy
from orchestrator.hosts.ssh.host_route import Way, find_way
from orchestrator.hosts.ssh.jump_hosts import JumpHosts, Lease
from orchestrator.hosts.ssh.known_hosts import KnownHosts, user_files
from orchestrator.hosts.ssh.logins import LOGINS, Logins, await_login_step, group_of, retried
from orchestrator.hosts.ssh.packets import Wire
from orchestrator.hosts.ssh.private_keys import KeyLogin
from orchestrator.hosts.ssh.ssh_config import settings_of
from orchestrator.hosts.ssh.ssh_errors import Dropped, broken, cut_off, translate
from orchestrator.hosts.transport import Channel, Transport

if TYPE_CHECKING:
    import fabric

    from orchestrator.config.inventory import Host, SshOptions

__all__ = ["SshTransport"]

# A busy host answers TCP at once and takes its time for the handshake.
_HANDSHAKE_PATIENCE = 3.0


class _Link:
    """A connection in the making, and then made; `hang_up` ends it at any time, from any thread."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.proxy: ProxyProcess | None = None
        self.before: Lease | None = None
        self.sock: socket.socket | paramiko.Channel | None = None
        self.is_closed = False

    def hang_up(self) -> None:
        self.is_closed = True  # first: what is made from now on is looked at by who makes it
        if isinstance(self.sock, socket.socket):
            with contextlib.suppress(OSError):  # wakes who connects or reads; closing alone does not
                self.sock.shutdown(socket.SHUT_RDWR)
        if self.wire is not None:
            self.wire.hang_up()
        for each in (self.proxy, self.sock):
            if each is not None:
                each.close()
        before, self.before = self.before, None
        if before is not None:
            before.release()


class SshTransport(Transport):
    """Unknown host keys are refused, logins ask nothing, and a jump host is shared by those behind it.

    `pause` waits so many seconds before another try of a connection that the host has dropped; `logins` says
    how many may be under way.
    """

    def __init__(
        self,
        host: Host,
        options: SshOptions,
        *,
        wire_class: type[Wire] = Wire,
        pause: Callable[[float], None] | None = None,
        logins: Logins = LOGINS,
    ) -> None:
        super().__init__(host.name)
        self._inventory_host = host
        self._options = options
        self._wire_class = wire_class
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self._closing = threading.Event()
        self._pause = pause or self._wait
        self._logins = logins
        self._in_making: _Link | None = None

    def connect(self) -> None:
        self._closing.clear()
        with self._lock:
            link = self._link
            if link is not None and link.wire is not None and link.wire.is_active():
                return
            self._hang_up()
            try:
                way = self.way()
                self._link = self._open_link(way, self._inventory_host.key)
            # A bad key or a host's nonsense also lets ValueError, TypeError and the like out of paramiko.
            except Exception as error:
                raise translate(error, self.host, connected=False) from error

    def way(self) -> Way:
        """How the host is reached, by the SSH config. Raises ConfigError."""
        host = self._inventory_host
        config = self._options.config_file
        return find_way(Asked(host.address, host.user, host.port), lambda asked: settings_of(asked, config))

    def as_fabric(self) -> fabric.Connection:
        """This connection, made if it is not yet, as Fabric has it: `run`, `put` and `get` over it.

        By the same way and with the same trust as all else here: Fabric resolves nothing, and reads no file
        of its own. To close either is to close both.
        """
        import fabric

        self.connect()
        assert self._link is not None and self._link.wire is not None
        settings = self.way().settings
        config = fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig())
        found = fabric.Connection(
            settings.hostname, user=self._link.wire.get_username(), port=settings.port, config=config
        )
        found.transport = self._link.wire
        found.client._transport = self._link.wire
        return found

    def close(self) -> None:
        self._closing.set()
        making = self._in_making
        if making is not None:
            making.hang_up()  # whoever is connecting gives up, and the lock
        with self._lock:
            self._hang_up()

    def _wait(self, seconds: float) -> None:
        self._closing.wait(seconds)

    def _open(self, argv: tuple[str, ...]) -> Channel:
        wire = None if self._link is None else self._link.wire
        if wire is None:
            raise self._not_connected()
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

    def _open_link(self, way: Way, key: str | None) -> _Link:
        """Connect, through jump hosts where there are any."""
        return retried(functools.partial(self._try_link, way, key), self._patience, self._pause)

    def _try_link(self, way: Way, key: str | None, again: bool) -> _Link:
        link = _Link()
        try:
            if way.before is not None:
                options = self._options
                scope = (options.config_file, tuple(options.known_hosts), options.accept_new_host_keys)
                link.before = _JUMP_HOSTS.acquire(
                    (scope, way.before.key), functools.partial(self._open_jump, way.before)
                )
            with self._logins.gate(group_of(way)).turn(
                again=again,
                is_dropped=lambda error: isinstance(error, Dropped),
                is_wanted=lambda: not self._closing.is_set(),
            ):
                self._in_making = link
                if self._closing.is_set():
                    raise self._closed()
                self._log_in(link, way, key)
            return link
        except BaseException:
            link.hang_up()
            raise
        finally:
            self._in_making = None

    def _open_jump(self, way: Way) -> _Link:
        try:
            return self._open_link(way, None)
        except Exception as error:
            ours = translate(error, self.host, connected=False)
            what = f"jump host {way.asked.host}: {ours.what}"
            raise type(ours)(what, where=self.host, remedy=ours.remedy) from error

    def _log_in(self, link: _Link, way: Way, key: str | None) -> None:
        settings = way.settings
        files = user_files(self._options.known_hosts, settings.user_known_hosts)
        policy = HostKeyPolicy(
            self.host,
            settings,
            _known_hosts(files, settings.global_known_hosts),
            self._options.accept_new_host_keys,
            behind_jump=way.before is not None or bool(settings.proxy_command),
        )
        link.sock = self._socket(link, way)
        wire = link.wire = self._wire_class(link.sock)
        wire.banner_timeout = wire.auth_timeout = wire.channel_timeout = self._patience
        wire.prefer_host_keys(policy.known_kinds(), certificates=policy.has_authority())
        if link.is_closed:
            raise self._closed()
        agreed = threading.Event()
        wire.start_client(agreed)
        is_over = await_login_step(agreed, self._patience, lambda: wire.packetizer.heard)
        if is_over and not wire.is_active():
            error = wire.get_exception() or paramiko.SSHException("no handshake")
            raise self._no_handshake(link, error) from error
        if not wire.initial_kex_done:
            raise ConnectError("timed out in the handshake", where=self.host)
        policy.check(wire.get_remote_server_key())
        KeyLogin(self.host, way.asked, settings, key).authenticate(wire)
        wire.watch_peer()

    def _no_handshake(self, link: _Link, error: Exception) -> Exception:
        """The error of a host with which no key could be agreed on, and what it said in its place."""
        assert link.wire is not None
        if self._closing.is_set():
            return self._closed()
        if link.proxy is not None and not link.wire.remote_version:
            return ConnectError(
                link.proxy.said(), where=self.host, remedy="check ProxyCommand in the ssh config"
            )
        return link.wire.packetizer.why(self.host) or cut_off(self.host, error) or error

    def _closed(self) -> ConnectError:
        return ConnectError("closed while it was connecting", where=self.host)

    def _socket(self, link: _Link, way: Way) -> socket.socket | paramiko.Channel:
        settings = way.settings
        if link.before is not None:
            before = link.before.link.wire
            assert before is not None
            return before.open_channel(
                "direct-tcpip", (settings.hostname, settings.port), ("", 0), timeout=self._patience
            )
        if settings.proxy_command:
            link.proxy = ProxyProcess(self.host, settings, way.asked.host)
            return link.proxy.socket
        return dial(settings, self._options.connect_timeout, functools.partial(setattr, link, "sock"))

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.hang_up()


_JUMP_HOSTS = JumpHosts()


@functools.lru_cache(maxsize=64)
def _known_hosts(paths: tuple[str, ...], system: tuple[str, ...]) -> KnownHosts:
    return KnownHosts(paths, system)
