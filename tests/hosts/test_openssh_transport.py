"""The system's ssh as a transport: it reaches what paramiko does and trusts nobody whom paramiko does not."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.hosts.openssh_transport import OpenSshTransport, write_ssh_config
from orchestrator.hosts.transport import CommandResult
from orchestrator.testing.sshd import Sshd
from orchestrator.testing.transport_hosts import Target

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh (Debian: apt-get install openssh-client)"),
]


def run(target: Target, folder: Path, *argv: str) -> CommandResult:
    config = write_ssh_config(target.options)
    assert config is not None
    with contextlib.closing(config), OpenSshTransport(target.host, config.path) as transport:
        return transport.run(argv, timeout=60)


def test_port_user_and_key_of_the_inventory_and_an_argv_that_no_shell_reads(
    target: Target, tmp_path: Path
) -> None:
    done = run(target, tmp_path, "printf", "%s|", "a b", "$HOME", "';'")
    assert (done.exit_code, done.stdout) == (0, b"a b|$HOME|';'|"), done.stderr


@pytest.mark.parametrize("text", ["", "[127.0.0.2]:{port} ssh-ed25519 {other}\n"])
def test_unknown_and_changed_host_keys_are_refused(target: Target, tmp_path: Path, text: str) -> None:
    other = "AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000"
    target.known_hosts.write_text(text.format(port=target.host.port, other=other))
    # What the user's own files know does not count, nor does what the config would allow.
    target.config.write_text("Host *\n  StrictHostKeyChecking no\n  GlobalKnownHostsFile /dev/null\n")
    done = run(target, tmp_path, "true")
    assert done.exit_code == 255 and b"Host key verification failed" in done.stderr


def test_the_config_names_address_port_and_key(target: Target, tmp_path: Path) -> None:
    host = target.host
    target.config.write_text(
        f"Host alias\n  HostName {host.address}\n  Port {host.port}\n  IdentityFile {host.key}\n"
    )
    done = run(target.but(address="alias", port=None, key=None), tmp_path, "echo", "there")
    assert done.stdout == b"there\n", done.stderr


@pytest.fixture
def jump(target: Target, tmp_path: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path / "jump") as server:
        target.config.write_text(
            f"Host inner\n  HostName 127.0.0.2\n  ProxyJump outer\n"
            f"Host outer\n  HostName 127.0.0.9\n  Port {server.port}\n  IdentityFile {server.key_path}\n"
        )
        yield server


def test_a_jump_host_must_be_known_too(target: Target, jump: Sshd, tmp_path: Path) -> None:
    inner = target.but(address="inner")
    refused = run(inner, tmp_path, "true")
    assert refused.exit_code == 255 and b"Host key verification failed" in refused.stderr
    with target.known_hosts.open("a") as file:
        file.write(f"[127.0.0.9]:{jump.port} {jump.host_key}\n")
    assert run(inner, tmp_path, "echo", "behind").stdout == b"behind\n"


@pytest.mark.parametrize("name", ['a"b', "a%b", "a$b", "a*b"])
def test_paths_that_a_config_would_read_differently_are_left_to_paramiko(
    target: Target, tmp_path: Path, name: str
) -> None:
    assert write_ssh_config(target.but(known_hosts=(str(tmp_path / name),)).options) is None
