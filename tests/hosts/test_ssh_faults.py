"""SSH servers that are busy, restricted, slow or hostile: another try, their words, bounds."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.errors import AuthenticationError, ConnectError, PreflightError, TransportError
from orchestrator.hosts.fleet import Fleet, agent_over, fan_out_of, fleet_of
from orchestrator.hosts.ssh.channel import _StdoutBuffer
from orchestrator.hosts.ssh.client_config import Asked, Settings
from orchestrator.hosts.ssh.connection import SshTransport
from orchestrator.hosts.ssh.host_route import Way
from orchestrator.hosts.ssh.logins import Logins, Patience, group_of, retried
from orchestrator.hosts.ssh.packets import Packets
from orchestrator.hosts.ssh.private_keys import KeyLogin
from orchestrator.hosts.ssh.ssh_errors import Dropped
from orchestrator.testing.sshd import Sshd, make_key
from orchestrator.testing.transport_hosts import Target

SETTINGS = Settings(hostname="h", user="root", port=22)


class DroppingHost:
    """A host of which each try of a connection takes `seconds`, and fails with the next of `errors`."""

    def __init__(self, *errors: Exception, seconds: float = 0.1) -> None:
        self.errors, self.seconds, self.now = list(errors), seconds, 0.0
        self.tries: list[bool] = []
        self.pauses: list[float] = []

    def connect(self, again: bool) -> str:
        self.tries.append(again)
        self.now += self.seconds
        if self.errors:
            raise self.errors.pop(0)
        return "link"

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def link(self, budget: float = 30.0) -> str:
        between = random.Random(1).uniform
        return retried(self.connect, budget, self.pause, between, lambda: self.now)


def test_what_is_dropped_is_tried_again_and_not_all_at_once() -> None:
    host = DroppingHost(Dropped("one"), Dropped("two"))
    assert host.link() == "link"
    assert host.tries == [False, True, True]
    assert len(host.pauses) == 2 and 0.3 < host.pauses[0] < 1.5 and 0.5 < host.pauses[1] < 3


def test_tries_end_with_their_number_or_with_the_time() -> None:
    host = DroppingHost(*[Dropped("full")] * 9)
    with pytest.raises(Dropped):
        host.link()
    assert len(host.tries) == 6 and host.now < 30
    slow = DroppingHost(*[Dropped("full")] * 9, seconds=4.0)
    with pytest.raises(Dropped):
        slow.link(budget=10.0)
    assert len(slow.tries) == 2 and slow.now < 10


def test_what_is_refused_is_not_tried_again() -> None:
    host = DroppingHost(ConnectError("connection refused"))
    with pytest.raises(ConnectError):
        host.link()
    assert host.tries == [False]


def test_patience_counts_from_the_last_sign_of_life() -> None:
    patience = Patience(10.0)
    assert not any(patience.waited(1.0, 1.0, heard=0.0) for _ in range(9))
    assert not any(patience.waited(1.0, 1.0, heard=1.0) for _ in range(10))
    assert patience.waited(1.0, 1.0, heard=1.0)


def test_patience_is_not_spent_by_a_machine_that_is_busy_itself() -> None:
    patience = Patience(10.0)
    assert not any(patience.waited(60.0, 1.0, heard=0.0) for _ in range(4))
    assert patience.waited(60.0, 1.0, heard=0.0)


def test_patience_ends_with_a_host_that_drips() -> None:
    patience, turns = Patience(10.0), 0
    while not patience.waited(1.0, 1.0, heard=float(turns)):
        turns += 1
    assert turns == 39


def test_hosts_behind_one_server_share_a_pace() -> None:
    jump = Way(Asked("jump"), SETTINGS)
    behind = [Way(Asked(name), replace(SETTINGS, hostname=name), jump) for name in ("a", "b")]
    other = Way(Asked("c"), SETTINGS, Way(Asked("x"), replace(SETTINGS, hostname="x")))
    proxied = [Way(Asked(name), replace(SETTINGS, proxy_command="ssh -W %h:%p door")) for name in ("d", "e")]
    assert group_of(behind[0]) == group_of(behind[1]) != group_of(other)
    assert group_of(proxied[0]) == group_of(proxied[1])
    assert group_of(jump) is None is group_of(Way(Asked("far"), replace(SETTINGS, hostname="far")))
    logins = Logins()
    assert logins.gate(group_of(behind[0])) is logins.gate(group_of(behind[1]))
    assert logins.gate(group_of(behind[0])) is not logins.gate(None)


@contextmanager
def greeting(*greetings: bytes, then: int | None = None) -> Iterator[int]:
    """A port where each connection is greeted with the next of these and closed; later ones go to `then`."""
    left = list(greetings)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                if left or then is None:
                    with client, suppress(OSError):
                        client.sendall(left.pop(0) if left else b"")
                    continue
                peer = socket.create_connection(("127.0.0.2", then))
                threading.Thread(target=pump, args=(client, peer), daemon=True).start()
                threading.Thread(target=pump, args=(peer, client), daemon=True).start()

    with socket.create_server(("127.0.0.2", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def transport_to(port: int, tmp_path: Path, pauses: list[float], **changes: Any) -> SshTransport:
    config = tmp_path / "empty"
    config.write_text("")
    host = Host(name="one", address="127.0.0.2", port=port, **changes)
    options = SshOptions(config_file=str(config), known_hosts=(str(tmp_path / "known"),), connect_timeout=5.0)
    return SshTransport(host, options, pause=pauses.append)


@pytest.mark.sshd
def test_a_connection_that_maxstartups_dropped_is_made_all_the_same(target: Target, sshd: Sshd) -> None:
    pauses: list[float] = []
    with greeting(b"", b"Exceeded MaxStartups\r\n", then=sshd.port) as port:
        known = target.known_hosts.read_text().replace(str(sshd.port), str(port))
        target.known_hosts.write_text(known)
        there = target.but(port=port)
        with SshTransport(there.host, there.options, pause=pauses.append) as transport:
            assert transport.run(["echo", "reached"], timeout=60).stdout == b"reached\n"
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("said", "tries", "error"),
    [
        (b"Exceeded MaxStartups\r\n", 6, "closed the connection at once: Exceeded MaxStartups"),
        (b"", 6, "closed the connection at once"),
        (b"SSH-2.0-busy\r\n", 6, "closed the connection during the handshake"),
        (b"HTTP/1.1 400 \x1b[31mBad\r\n", 1, r"it said: HTTP/1.1 400 \\x1b\[31mBad .*check address, port"),
        (b"x" * 100_000, 1, "one: "),
    ],
)
def test_a_port_that_does_not_greet_as_ssh_does(said: bytes, tries: int, error: str, tmp_path: Path) -> None:
    pauses: list[float] = []
    with greeting(*[said] * 6) as port, pytest.raises(ConnectError, match=error) as caught:
        transport_to(port, tmp_path, pauses).connect()
    assert len(pauses) == tries - 1
    assert type(caught.value) is ConnectError and len(str(caught.value)) < 1000


def login(error: Exception, *, active: bool = True) -> Exception:
    """What is told of a login in which paramiko raises this."""
    wire = SimpleNamespace(
        auth_publickey=lambda user, key: (_ for _ in ()).throw(error),
        is_active=lambda: active,
        get_banner=lambda: b"Authorized users only.\r\n\x1b[2J",
    )
    key = SimpleNamespace(public_blob=None, asbytes=lambda: b"key")
    way_in = KeyLogin("one", Asked("h"), SETTINGS, "/no/such/key")
    way_in._keys = lambda: iter([key])  # type: ignore[method-assign,list-item,return-value]
    with pytest.raises(TransportError) as caught:
        way_in.authenticate(wire)  # type: ignore[arg-type]
    return caught.value


def test_a_login_that_times_out_is_not_one_that_is_refused() -> None:
    # What paramiko raises, from paramiko.
    handler = paramiko.auth_handler.AuthHandler.__new__(paramiko.auth_handler.AuthHandler)
    handler.transport = SimpleNamespace(auth_timeout=0, is_active=lambda: True)
    with pytest.raises(paramiko.AuthenticationException) as raised:
        handler.wait_for_response(threading.Event())
    found = login(raised.value)
    assert type(found) is ConnectError and "no answer to the login in time" in str(found)
    gone = login(paramiko.AuthenticationException("transport shut down or saw EOF"), active=False)
    assert type(gone) is Dropped and "closed the connection during the login" in str(gone)
    refused = login(paramiko.AuthenticationException("Authentication failed."))
    assert type(refused) is AuthenticationError
    assert "none of 1 key(s)" in str(refused) and "the host says: Authorized users only." in str(refused)
    assert str(refused).isprintable()


def test_a_peer_cannot_announce_what_no_ssh_sends() -> None:
    left, right = socket.socketpair()
    with left, right:
        packets = Packets(left)
        with pytest.raises(paramiko.SSHException, match="announces a packet of 4294967280 bytes"):
            packets.read_all(0xFFFFFFF0)


def test_a_peer_cannot_fill_the_memory_with_what_nobody_reads() -> None:
    buffer = _StdoutBuffer()
    with pytest.raises(paramiko.SSHException, match="more than it was given room for"):
        for _ in range(100):
            buffer.feed(b"x" * (1 << 20))
    assert len(buffer) < 8 << 20


def test_hanging_up_ends_a_connection_in_the_making_at_once(tmp_path: Path) -> None:
    """As Ctrl-C does; the host says nothing, and would be waited for."""
    config = tmp_path / "empty"
    config.write_text("")
    with socket.create_server(("127.0.0.2", 0)) as mute, ThreadPoolExecutor(1) as threads:
        hosts = [Host(name=f"h{n}", address="127.0.0.2", port=mute.getsockname()[1]) for n in range(3)]
        fleet = fleet_of(hosts, SshOptions(config_file=str(config), connect_timeout=60.0))
        asking = threads.submit(fleet.each, lambda agent: agent.list_runs())
        clients = [mute.accept()[0] for _ in hosts]
        began = time.monotonic()
        fleet.close()
        errors = asking.result(60).errors
        assert time.monotonic() - began < 10
        assert errors.keys() == {"h0", "h1", "h2"}
        for each in clients:
            each.close()


@pytest.mark.sshd
def test_many_hosts_of_a_server_that_takes_three_logins_at_once(target: Target, tmp_path: Path) -> None:
    """Each of 24 hosts is logged in to, though the server drops all but three that knock together."""
    with Sshd(tmp_path / "sshd", config=["MaxStartups 3:100:3"]) as server:
        there = Target.on(server, tmp_path)
        addresses = [f"127.0.0.{number}" for number in range(101, 125)]
        known = server.known_hosts(addresses)
        options = replace(there.options, known_hosts=(str(known),), connect_timeout=20.0)
        hosts = [
            replace(there.host, name=f"h{number}", address=address, workdir=str(tmp_path))
            for number, address in enumerate(addresses)
        ]
        logins = Logins()
        transports = {host.name: SshTransport(host, options, logins=logins) for host in hosts}
        before = threading.active_count()
        with Fleet(hosts, transports) as fleet:
            assert len(fleet.each(lambda agent: agent.list_runs()).raise_on_error()) == 24
            threads = threading.active_count() - before
        assert threads <= len(hosts) + fan_out_of(len(hosts)) + 3, "one of paramiko's each, and the pool's"


@pytest.mark.sshd
def test_a_forced_command_and_a_banner_are_shown(target: Target, tmp_path: Path) -> None:
    banner = tmp_path / "banner"
    banner.write_text("Only with a ticket. \x1b[31m\n")
    forced = ["ForceCommand echo 'No shell for you.'; exit 1", f"Banner {banner}"]
    with Sshd(tmp_path / "sshd", config=forced) as server:
        there = Target.on(server, tmp_path)
        with there.transport() as transport, pytest.raises(PreflightError, match="No shell for you"):
            agent_over(transport, there.host)
        make_key(tmp_path / "stranger")
        with pytest.raises(AuthenticationError, match=r"the host says: Only with a ticket\. \\x1b\[31m"):
            there.but(key=str(tmp_path / "stranger")).transport().connect()


@pytest.mark.sshd
def test_a_host_that_an_authority_vouches_for(target: Target, tmp_path: Path) -> None:
    folder = tmp_path / "sshd"
    folder.mkdir()
    for path in (folder / "host_key", tmp_path / "ca"):
        make_key(path)
    argv = ["ssh-keygen", "-q", "-s", str(tmp_path / "ca"), "-I", "x", "-h", "-n", "127.0.0.*"]
    subprocess.run([*argv, str(folder / "host_key.pub")], check=True, capture_output=True)
    with Sshd(folder, config=[f"HostCertificate {folder}/host_key-cert.pub"]) as server:
        there = Target.on(server, tmp_path)
        ca = " ".join((tmp_path / "ca.pub").read_text().split()[:2])
        there.known_hosts.write_text(f"@cert-authority 127.0.* {ca}\n")
        with there.transport() as transport:
            assert transport.run(["echo", "reached"], timeout=60).stdout == b"reached\n"
        # Both are known: the certificate is asked for, the key would do.
        there.known_hosts.write_text(f"[127.0.0.2]:{server.port} {server.host_key}\n")
        with there.transport() as transport:
            assert transport.run(["echo", "reached"], timeout=60).stdout == b"reached\n"


@pytest.mark.sshd
def test_two_jump_hosts_in_the_order_of_their_list(target: Target, sshd: Sshd, tmp_path: Path) -> None:
    """Only the way b1, b2, target is open."""
    with contextlib.ExitStack() as stack:
        second = stack.enter_context(Sshd(tmp_path / "b2", config=[f"PermitOpen 127.0.0.2:{sshd.port}"]))
        way = f"PermitOpen 127.0.0.22:{second.port}"
        first = stack.enter_context(Sshd(tmp_path / "b1", config=[way]))
        config = "Host inner\n  HostName 127.0.0.2\n  ProxyJump b1,b2\n"
        known = target.known_hosts.read_text()
        for name, address, server in (("b1", "127.0.0.21", first), ("b2", "127.0.0.22", second)):
            config += f"Host {name}\n  HostName {address}\n  Port {server.port}\n"
            config += f"  IdentityFile {server.key_path}\n"
            known += f"[{address}]:{server.port} {server.host_key}\n"
        target.config.write_text(config)
        target.known_hosts.write_text(known)
        with target.but(address="inner").transport() as transport:
            assert transport.run(["echo", "reached"], timeout=60).stdout == b"reached\n"


@pytest.mark.sshd
def test_a_proxy_command_is_the_shells(target: Target, sshd: Sshd, tmp_path: Path) -> None:
    relay = (
        "import socket,sys,threading,os;s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
        "pump=lambda r,w:[w(d) for d in iter(lambda:r(65536),b'')];"
        "threading.Thread(target=pump,args=(lambda n:os.read(0,n),s.sendall),daemon=True).start();"
        "pump(s.recv,lambda d:os.write(1,d))"
    )
    script = tmp_path / "relay.py"
    script.write_text(relay)
    target.config.write_text(
        f"Host inner\n HostName 127.0.0.2\n ProxyCommand python3 {script} %h %p 2>/dev/null # x\n"
    )
    with target.but(address="inner").transport() as transport:
        assert transport.run(["echo", "reached"], timeout=60).stdout == b"reached\n"
    target.config.write_text("Host inner\n ProxyCommand sh -c 'echo no way to %n >&2; exit 7'\n")
    with pytest.raises(ConnectError, match=r"ProxyCommand `sh -c …` ended with exit code 7: no way to inner"):
        target.but(address="inner").transport().connect()
