"""What we change of paramiko's inside is there, in the version that is installed."""

from __future__ import annotations

import inspect

import paramiko
import pytest
from paramiko.packet import Packetizer

from orchestrator.hosts.ssh.packets import Packets, Wire

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


def test_what_we_call_is_theirs() -> None:
    assert inspect.signature(paramiko.Transport._send_user_message).parameters.keys() == {"self", "data"}
    assert hasattr(paramiko.Channel, "_handle_request")
    channel = paramiko.Channel(1)
    for name in ("in_buffer", "in_stderr_buffer", "out_buffer_cv", "exit_status", "status_event"):
        assert hasattr(channel, name), name
