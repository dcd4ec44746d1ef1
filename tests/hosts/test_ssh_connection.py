from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from paramiko.common import cMSG_GLOBAL_REQUEST

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.errors import ConnectError, HostKeyError, TransportError
from orchestrator.hosts.open_transport import open_transport
from orchestrator.hosts.ssh.connection import SshTransport
from orchestrator.hosts.ssh.packets import Packets, Wire
from orchestrator.hosts.transport import Transport
from orchestrator.testing.sshd import Sshd
from orchestrator.testing.transport_contract import ProcessContract, is_alive, line_of, program
from orchestrator.testing.transport_hosts import Target

pytestmark = pytest.mark.sshd


@pytest.fixture(scope="module")
def connected(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    target = Target.on(sshd, tmp_path_factory.mktemp("contract"))
    with open_transport(target.host, target.options) as transport:
        yield transport


class TestSshTransport(ProcessContract):
    @pytest.fixture
    def transport(self, connected: Transport) -> Transport:
        connected.connect()  # a test may have closed it
        return connected


def test_not_connected(target: Target) -> None:
    with pytest.raises(TransportError, match="not connected"):
        target.transport().open(["true"])


def test_a_port_that_nobody_listens_on(target: Target) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        with pytest.raises(ConnectError, match=r"^one: connection refused \(is the host up") as caught:
            target.but(port=taken.getsockname()[1]).transport().connect()
    assert caught.value.exit_code == 3


def test_a_name_that_does_not_exist(target: Target) -> None:
    with pytest.raises(ConnectError, match="one: unknown host name"):
        target.but(address="no-such-host.invalid").transport().connect()


def test_a_host_that_answers_no_packet(target: Target) -> None:
    with socket.socket() as full, socket.socket() as filler, socket.socket() as more:
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        for each in (filler, more):  # further ones are dropped like those to a host that is off
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        with pytest.raises(ConnectError, match="one: timed out"):
            target.but(port=full.getsockname()[1], connect_timeout=0.2).transport().connect()


def test_a_host_that_accepts_and_says_nothing(target: Target) -> None:
    with socket.create_server(("127.0.0.2", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(ConnectError, match="one: "):
            target.but(port=port, connect_timeout=0.2).transport().connect()


def test_something_that_is_no_ssh_server(target: Target) -> None:
    with socket.create_server(("127.0.0.2", 0)) as server, ThreadPoolExecutor(1) as threads:
        threads.submit(_greet_and_leave, server)
        with pytest.raises(ConnectError, match="one: "):
            target.but(port=server.getsockname()[1]).transport().connect()


def _greet_and_leave(server: socket.socket) -> None:
    client, _ = server.accept()
    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.close()


def test_a_connection_killed_in_the_middle_is_never_a_silent_end(target: Target, sshd: Sshd) -> None:
    before = sshd.connections()
    with target.transport() as transport:
        reading, waiting = transport.open(program("hang")), transport.open(program("hang"))
        assert line_of(reading) == line_of(waiting) == b"hello\n"
        with ThreadPoolExecutor(2) as threads:
            calls = [threads.submit(reading.read, 1), threads.submit(waiting.wait, 20)]
            sshd.kill_connections(but=before)
            for call in calls:
                with pytest.raises(TransportError, match="the connection broke"):
                    call.result(60)
        with pytest.raises(TransportError, match="the connection broke"):
            reading.write(b"x")
        with pytest.raises(TransportError, match="the connection broke"):
            transport.open(["true"])
        reading.close()
        transport.connect()
        assert transport.run(program("leave", "4")).exit_code == 4


def test_more_channels_than_the_server_allows(target: Target, tmp_path: Path) -> None:
    with Sshd(tmp_path / "sshd", config=["MaxSessions 1"]) as server:
        strict = Target.on(server, tmp_path)
        wanted = pytest.raises(TransportError, match=r"refused a channel.*MaxSessions")
        with strict.transport() as transport, transport.open(program("hang")), wanted:
            transport.open(["true"])


@pytest.mark.skipif(os.geteuid() == 0, reason="OpenSSH forwards no signals to sessions of root")
def test_closing_ends_a_process_that_ignores_its_stdin(target: Target) -> None:
    with target.transport() as transport:
        channel = transport.open(program("stubborn"))
        pid = int(line_of(channel))
        channel.close()
        deadline = time.monotonic() + 10
        while is_alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


class RestlessPackets(Packets):
    REKEY_BYTES = 1 << 20


class RestlessWire(Wire):
    packets = RestlessPackets


def test_keys_are_renewed_while_channels_come_and_go(target: Target) -> None:
    with target.transport(RestlessWire) as transport, ThreadPoolExecutor(4) as threads:
        streams = [threads.submit(transport.run, program("pour", "24"), timeout=60) for _ in range(2)]
        while not all(stream.done() for stream in streams):
            assert transport.run(program("flood", "2"), stdin=b"x" * 99, timeout=60).exit_code == 3
        for stream in streams:
            assert len(stream.result().stdout) == 24 << 20


def test_a_stream_over_half_a_gigabyte(target: Target) -> None:
    """At 512 MiB paramiko would renew its keys, which broke the channel that ends there."""
    size = 512 << 20
    with target.transport() as transport:
        for _ in range(2):
            with transport.open(["head", "-c", str(size), "/dev/zero"]) as channel:
                channel.timeout = 20
                left = size
                while left:
                    left -= len(channel.read(1 << 20))
                assert channel.read(1) == b""
                assert channel.wait(60) == 0


class ImpatientWire(Wire):
    question_seconds = 0.1
    silence_seconds = 0.5
    _active_check_timeout = 0.1


def test_a_peer_that_falls_silent_is_found(target: Target) -> None:
    with _relay(target.host.port) as (port, cut):
        silent = target.but(port=port, accept_new_host_keys=True)
        with silent.transport(ImpatientWire) as transport, transport.open(program("hang")) as channel:
            assert line_of(channel) == b"hello\n"
            time.sleep(1)  # the time to be found: idle, but answering
            cut.set()
            with pytest.raises(TransportError, match="the connection broke: nothing heard"):
                channel.read(1)


class CountingWire(Wire):
    question_seconds = 0.5
    _active_check_timeout = 0.05
    questions = 0

    def _send_user_message(self, data: paramiko.Message) -> None:
        type(self).questions += data.asbytes()[:1] == cMSG_GLOBAL_REQUEST
        super()._send_user_message(data)


def test_only_a_silent_peer_is_asked_whether_it_is_there(target: Target) -> None:
    talk = "for each in 1 2 3 4 5 6 7 8 9 10; do echo hello; sleep 0.1; done; exec sleep 30"
    with target.transport(CountingWire) as transport, transport.open(["sh", "-c", talk]) as channel:
        for _ in range(10):
            assert line_of(channel) == b"hello\n"
        assert CountingWire.questions == 0
        deadline = time.monotonic() + 10
        while not CountingWire.questions:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextmanager
def _relay(to_port: int) -> Iterator[tuple[int, threading.Event]]:
    """A port that passes bytes on until the event is set, and then keeps the connection but no byte."""
    cut = threading.Event()
    with socket.create_server(("127.0.0.2", 0)) as server:
        sockets: list[socket.socket] = []

        def pump(source: socket.socket, sink: socket.socket) -> None:
            while data := source.recv(65536):
                if not cut.is_set():
                    sink.sendall(data)

        def accept() -> None:
            client, _ = server.accept()
            peer = socket.create_connection(("127.0.0.2", to_port))
            sockets.extend((client, peer))
            threading.Thread(target=pump, args=(peer, client), daemon=True).start()
            pump(client, peer)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], cut
        for each in sockets:
            each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_many_hosts_are_resolved_at_once(tmp_path: Path) -> None:
    """By threads that are interrupted as often as can be, over one config."""
    config = tmp_path / "config"
    config.write_text("Host npu*\n  User root\n  ProxyJump none\n")
    options = SshOptions(config_file=str(config))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(12) as pool:
            hosts = [Host(name=f"npu{number}", address=f"npu{number}") for number in range(300)]
            found = list(pool.map(lambda host: SshTransport(host, options).way(), hosts))
    finally:
        sys.setswitchinterval(before)
    assert {(way.settings.user, way.before) for way in found} == {("root", None)}


def test_fabric_goes_over_the_same_connection(target: Target) -> None:
    with open_transport(target.host, target.options) as transport:
        assert isinstance(transport, SshTransport)
        with transport.as_fabric() as connection:
            said = connection.run("echo $((6 * 7)); exit 3", hide=True, warn=True, in_stream=False)
            assert (said.stdout, said.exited) == ("42\n", 3)
        with pytest.raises(TransportError):
            transport.open(["true"])


def test_fabric_gets_no_connection_to_a_host_that_nobody_knows(target: Target) -> None:
    target.known_hosts.write_text("")
    with pytest.raises(HostKeyError, match="is unknown"):
        target.transport().as_fabric()
