from __future__ import annotations

import inspect
import socket
import subprocess
import sys

import paramiko
import pytest
from paramiko import ssh_exception
from paramiko.hostkeys import InvalidHostKey

from orchestrator.core.errors import (
    AuthenticationError,
    CommandTimeout,
    ConnectError,
    HostKeyError,
    OrchestrateError,
    TransportError,
)
from orchestrator.hosts.ssh.ssh_errors import translate
from orchestrator.hosts.transport import command_line

KEY = paramiko.RSAKey.generate(1024)

# How to make one of each; a class that is new in paramiko fails the test until somebody thinks about it.
EXAMPLES: dict[str, BaseException] = {
    "AuthenticationException": ssh_exception.AuthenticationException("no"),
    "BadAuthenticationType": ssh_exception.BadAuthenticationType("no", ["publickey"]),
    "BadHostKeyException": ssh_exception.BadHostKeyException("h", KEY, KEY),
    "ChannelException": ssh_exception.ChannelException(1, "prohibited"),
    "ConfigParseError": ssh_exception.ConfigParseError("line 3"),
    "CouldNotCanonicalize": ssh_exception.CouldNotCanonicalize("h"),
    "IncompatiblePeer": ssh_exception.IncompatiblePeer("no cipher"),
    "MessageOrderError": ssh_exception.MessageOrderError("odd"),
    "NoValidConnectionsError": ssh_exception.NoValidConnectionsError(
        {("h", 22): ConnectionRefusedError(111, "x")}
    ),
    "PartialAuthentication": ssh_exception.PartialAuthentication(["password"]),
    "PasswordRequiredException": ssh_exception.PasswordRequiredException("encrypted"),
    "ProxyCommandFailure": ssh_exception.ProxyCommandFailure("nc", "1"),
    "SSHException": ssh_exception.SSHException("something"),
    "UnableToAuthenticate": ssh_exception.UnableToAuthenticate("no"),
}
"""Name of the class in paramiko.ssh_exception -> an instance."""


def paramiko_errors() -> list[type[BaseException]]:
    members = vars(ssh_exception).values()
    return [
        each
        for each in members
        if inspect.isclass(each)
        and issubclass(each, BaseException)
        and each.__module__ == ssh_exception.__name__
    ]


@pytest.mark.parametrize("foreign", paramiko_errors(), ids=lambda each: each.__name__)
def test_every_error_of_paramiko_is_mapped(foreign: type[BaseException]) -> None:
    error = EXAMPLES[foreign.__name__]
    for connected in (False, True):
        ours = translate(error, "npu1", connected=connected)
        assert isinstance(ours, TransportError)
        assert ours.where == "npu1"
        assert "\n" not in str(ours)
        assert type(ours) is not TransportError or connected
    assert translate(error, "npu1", connected=False).remedy


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (ssh_exception.BadAuthenticationType("no", []), AuthenticationError),
        (ssh_exception.BadHostKeyException("h", KEY, KEY), HostKeyError),
        (socket.gaierror(-2, "Name or service not known"), ConnectError),
        (TimeoutError("timed out"), ConnectError),
        (ConnectionRefusedError(111, "Connection refused"), ConnectError),
        (OSError(113, "No route to host"), ConnectError),
        (EOFError(), ConnectError),
        (ValueError("bad port"), ConnectError),
        (InvalidHostKey("line", ValueError()), ConnectError),
        (ConnectError("ours already"), ConnectError),
    ],
)
def test_while_connecting(foreign: BaseException, ours: type[OrchestrateError]) -> None:
    assert type(translate(foreign, "npu1", connected=False)) is ours


@pytest.mark.parametrize(
    ("foreign", "refused"),
    [
        (ConnectionRefusedError(111, "Connection refused"), True),
        (OSError(113, "No route to host"), False),
        (TimeoutError("timed out"), False),
        (ssh_exception.NoValidConnectionsError({("h", 22): ConnectionRefusedError(111, "refused")}), True),
        (
            ssh_exception.NoValidConnectionsError(
                {("h", 22): ConnectionRefusedError(111, "refused"), ("i", 22): OSError(113, "No route")}
            ),
            False,
        ),
    ],
)
def test_only_a_host_that_says_no_itself_refuses(foreign: BaseException, refused: bool) -> None:
    error = translate(foreign, "h", connected=False)
    assert isinstance(error, ConnectError) and error.refused is refused
    # What a jump host refuses, the host behind it has not.
    assert not type(error)(f"jump host j: {error.what}", where="h").refused


def test_once_connected() -> None:
    assert type(translate(TimeoutError(), "npu1", connected=True)) is CommandTimeout
    assert str(translate(EOFError(), "npu1", connected=True)) == "npu1: the connection broke"
    reset = translate(ConnectionResetError(104, "x"), "npu1", connected=True)
    assert str(reset) == "npu1: the connection broke: connection reset by peer"


def test_the_command_line_is_a_string_at_one_place_only() -> None:
    assert command_line(("a b", "$x", "")) == b"exec 'a b' '$x' ''"


def test_paramiko_is_not_imported_with_the_package() -> None:
    heavy = "'paramiko' in sys.modules or 'fabric' in sys.modules"
    code = f"import sys, orchestrator.hosts.open_transport; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
