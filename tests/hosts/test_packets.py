"""What we change of paramiko's inside is there, in the version that is installed."""

from __future__ import annotations

import inspect
import socket

import paramiko
import pytest
from paramiko.packet import Packetizer

from orchestrator.hosts.ssh.packets import Packets, Wire, _Buffered, _wait_at_most

# What Python and we ourselves add to a class.
OURS = {
    "_ask",
    "hang_up",
    "packetizer",
    "packets",
    "prefer_host_keys",
    "question_seconds",
    "silence_seconds",
    "watch_peer",
    "why",
}


@pytest.mark.parametrize(("ours", "theirs"), [(Wire, paramiko.Transport), (Packets, Packetizer)])
def test_what_we_override_is_theirs(ours: type, theirs: type) -> None:
    names = {name for name in vars(ours) if not name.startswith("__")} - OURS
    assert names, "nothing is overridden"
    assert {name for name in names if not hasattr(theirs, name)} == set()


def test_the_time_of_a_socket_is_kept_by_the_kernel() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        _wait_at_most(ours, 0.05)
        assert ours.gettimeout() is None, "Python would ask poll before each call"
        with pytest.raises(TimeoutError):
            _Buffered(ours).recv(1)
        with pytest.raises(BlockingIOError):  # which paramiko takes for a timeout where it writes
            while True:
                ours.send(bytes(1 << 16))
        theirs.send(b"x")
        assert _Buffered(ours).recv(1) == b"x"


def test_what_we_call_is_theirs() -> None:
    assert inspect.signature(paramiko.Transport._send_user_message).parameters.keys() == {"self", "data"}
    assert hasattr(paramiko.Channel, "_handle_request")
    channel = paramiko.Channel(1)
    for name in ("in_buffer", "in_stderr_buffer", "out_buffer_cv", "exit_status", "status_event"):
        assert hasattr(channel, name), name


def test_bytes_come_in_their_order_whichever_way_they_are_read() -> None:
    """What came with the greeting paramiko keeps apart; then the rest of a packet is taken where it is."""
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(5)
        packets = Packets(here)
        there.sendall(b"SSH-2.0-x\r\n" + bytes(range(200)) + bytes(range(200)))
        assert packets.readline(5) == "SSH-2.0-x"
        read = b"".join(
            packets.read_all(count, check_rekey=each % 2 == 0)
            for each, count in enumerate((8, 92, 8, 50, 1, 41, 8, 92, 8, 92))
        )
        assert read == bytes(range(200)) + bytes(range(200))
        assert packets.read_all(0) == b""
        there.sendall(b"abcd")
        assert packets.read_all(2, check_rekey=True) + packets.read_all(2) == b"abcd"
        assert packets.read_all(-1) == b""
        there.close()
        with pytest.raises(EOFError):
            packets.read_all(1)
