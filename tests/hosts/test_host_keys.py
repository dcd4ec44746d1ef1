"""Whose host key is believed, whose login is accepted, and by which way a host is reached."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.core.errors import (
    AuthenticationError,
    ConnectError,
    HostKeyError,
    HostsFailed,
    OrchestrateError,
    TransportError,
)
from orchestrator.hosts.fleet import error_lines
from orchestrator.hosts.ssh.ssh_errors import WrongConfig
from orchestrator.hosts.transport import Transport
from orchestrator.testing.sshd import Sshd, make_key
from orchestrator.testing.transport_hosts import Target
from orchestrator.testing.waiting import eventually

pytestmark = pytest.mark.sshd


def reach(target: Target) -> str:
    """What the host says, or the error."""
    with target.transport() as transport:
        return transport.run(["echo", "reached"], timeout=60).stdout.decode().strip()


def remedy_command(error: HostKeyError, start: str) -> str:
    """The shell command that a message recommends."""
    begin = error.remedy.index(start)
    return error.remedy[begin:].partition(", or")[0]


def run_remedy(error: HostKeyError, start: str) -> None:
    subprocess.run(remedy_command(error, start), shell=True, check=True, capture_output=True)


def other_key(target: Target, tmp_path: Path) -> str:
    make_key(tmp_path / "other")
    return " ".join((tmp_path / "other.pub").read_text().split()[:2])


def test_an_unknown_host_key_is_refused_and_the_remedy_works(target: Target) -> None:
    target.known_hosts.unlink()
    with pytest.raises(HostKeyError, match="unknown") as caught:
        reach(target)
    assert f"ssh-keyscan -p {target.host.port} 127.0.0.2 >> " in caught.value.remedy
    assert "--accept-new-host-keys" in caught.value.remedy
    assert not target.known_hosts.exists()
    run_remedy(caught.value, "ssh-keyscan")
    assert reach(target) == "reached"


def test_a_changed_host_key_is_refused_and_never_accepted(target: Target, tmp_path: Path) -> None:
    name = f"[127.0.0.2]:{target.host.port}"
    target.known_hosts.write_text(f"{name} {other_key(target, tmp_path)}\n")
    before = target.known_hosts.read_text()
    for accept in (False, True):
        with pytest.raises(HostKeyError, match="changed") as caught:
            reach(target.but(accept_new_host_keys=accept))
    assert target.known_hosts.read_text() == before
    run_remedy(caught.value, "ssh-keygen -R")
    assert reach(target.but(accept_new_host_keys=True)) == "reached"


def test_a_key_of_another_type_than_the_known_one_counts_as_changed(target: Target, tmp_path: Path) -> None:
    make_key(tmp_path / "rsa", "rsa")
    rsa = " ".join((tmp_path / "rsa.pub").read_text().split()[:2])
    target.known_hosts.write_text(f"[127.0.0.2]:{target.host.port} {rsa}\n")
    with pytest.raises(HostKeyError, match="changed"):
        reach(target.but(accept_new_host_keys=True))


def test_a_revoked_key(target: Target, sshd: Sshd) -> None:
    with target.known_hosts.open("a") as file:
        file.write(f"@revoked * {sshd.host_key}\n")
    with pytest.raises(HostKeyError, match="revoked"):
        reach(target.but(accept_new_host_keys=True))


def test_new_keys_are_added_once(target: Target, sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "new" / "known_hosts"
    accepting = target.but(known_hosts=(str(file),), accept_new_host_keys=True)
    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(reach, [accepting] * 6)) == {"reached"}
    assert file.read_text() == f"[127.0.0.2]:{target.host.port} {sshd.host_key}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert reach(accepting.but(accept_new_host_keys=False)) == "reached"


def test_a_file_without_a_last_newline_is_not_spoilt(target: Target) -> None:
    target.known_hosts.write_text("other ssh-ed25519 AAAA")
    assert reach(target.but(accept_new_host_keys=True)) == "reached"
    assert target.known_hosts.read_text().startswith("other ssh-ed25519 AAAA\n[127.0.0.2]")


def test_hashed_names(target: Target) -> None:
    subprocess.run(["ssh-keygen", "-H", "-f", str(target.known_hosts)], check=True, capture_output=True)
    assert "127.0.0.2" not in target.known_hosts.read_text()
    assert reach(target) == "reached"


def test_patterns_and_further_files(target: Target, sshd: Sshd, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.write_text(f"# comment\n\n[127.0.*.?]:{sshd.port},!other {sshd.host_key} comment\n")
    target.known_hosts.unlink()
    both = target.but(known_hosts=(str(target.known_hosts), str(second)))
    assert reach(both) == "reached"
    second.write_text(f"[127.0.*]:{sshd.port},![127.0.0.2]:* {sshd.host_key}\n")
    with pytest.raises(HostKeyError, match="unknown"):
        reach(both)


def test_host_key_alias(target: Target, sshd: Sshd) -> None:
    target.config.write_text("Host 127.0.0.2\n  HostKeyAlias npu001\n")
    target.known_hosts.write_text(f"npu001 {sshd.host_key}\n")
    assert reach(target) == "reached"


def test_a_key_that_the_host_does_not_accept(target: Target, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    with pytest.raises(AuthenticationError, match=r"none of 1 key\(s\) is accepted") as caught:
        reach(target.but(key=str(tmp_path / "stranger")))
    assert f"ssh-copy-id -i {tmp_path}/stranger -p {target.host.port}" in caught.value.remedy


def test_a_user_that_does_not_exist(target: Target) -> None:
    with pytest.raises(AuthenticationError, match="for user nobody-here"):
        reach(target.but(user="nobody-here"))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"not a key", "is no private key"), ("encrypted", "is encrypted")],
)
def test_a_key_file_that_cannot_be_used(
    target: Target, tmp_path: Path, content: bytes | str | None, said: str
) -> None:
    path = tmp_path / "bad"
    if content == "encrypted":
        make_key(path, passphrase="secret")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(AuthenticationError, match=f"no key to log in with; .*bad {said}"):
        reach(target.but(key=str(path)))


def test_the_usual_key_files(target: Target, sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    shutil.copy(sshd.key_path, tmp_path / ".ssh" / "id_ed25519")
    assert reach(target.but(key=None)) == "reached"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        while not path.exists():
            assert process.poll() is None
        yield path
        process.terminate()


def test_an_agent(target: Target, sshd: Sshd, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(sshd.key_path)], check=True, env=environment)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert reach(target.but(key=None)) == "reached"


def test_an_alias_of_the_ssh_config(target: Target, sshd: Sshd) -> None:
    included = target.config.with_name("included")
    included.write_text(f"IdentityFile {sshd.key_path}\n")
    target.config.write_text(
        f"Host npu1\n  HostName 127.0.0.2\n  Port {sshd.port}\n  User {sshd.user}\n  Include {included}\n"
    )
    assert reach(target.but(address="npu1", port=None, key=None)) == "reached"


def test_the_inventory_wins_over_the_ssh_config(target: Target, sshd: Sshd) -> None:
    target.config.write_text("Host *\n  Port 1\n  User nobody-here\n  IdentityFile /no/such/key\n")
    assert reach(target.but(user=sshd.user)) == "reached"


def test_a_missing_ssh_config(target: Target) -> None:
    with pytest.raises(WrongConfig, match="no such ssh config file"):
        reach(target.but(config_file="/no/such/config"))


def test_a_bad_ssh_config(target: Target) -> None:
    target.config.write_text("Host *\n  Port twelve\n")
    with pytest.raises(WrongConfig, match=r"^one: .*ssh_config:2: port: .*twelve") as caught:
        reach(target.but(port=None))
    assert caught.value.exit_code == 2


@pytest.fixture
def jump(target: Target, tmp_path: Path) -> Iterator[Sshd]:
    """A second server through which the ssh config leads to the host `inner`."""
    with Sshd(tmp_path / "jump") as server:
        target.config.write_text(
            f"Host inner\n  HostName 127.0.0.2\n  ProxyJump outer\n"
            f"Host outer\n  HostName 127.0.0.4\n  Port {server.port}\n  IdentityFile {server.key_path}\n"
        )
        with target.known_hosts.open("a") as file:
            file.write(f"[127.0.0.4]:{server.port} {server.host_key}\n")
        yield server


def test_a_jump_host(target: Target, jump: Sshd) -> None:
    inner = target.but(address="inner")
    with inner.transport() as transport:
        assert transport.run(["echo", "reached"]).stdout == b"reached\n"
        assert len(jump.connections()) == 1
        data = os.urandom(4 << 20)
        assert transport.run(["cat"], stdin=data).stdout == data


def until_broken(host: Transport) -> None:
    with pytest.raises(TransportError, match="broke"), host.open(["cat"]) as channel:
        channel.timeout = 20
        channel.read(1)


def answers(host: Transport) -> bool:
    try:
        host.connect()
        return host.run(["echo", "again"], timeout=60).stdout == b"again\n"
    except TransportError:
        return False


def test_hosts_behind_a_jump_host_share_one_connection_to_it(target: Target, jump: Sshd) -> None:
    with target.config.open("a") as file:
        file.write("Host 127.0.0.*\n  ProxyJump outer\n")
    addresses = [f"127.0.0.{last}" for last in range(5, 11)]
    hosts = [target.but(name=each, address=each, accept_new_host_keys=True).transport() for each in addresses]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda host: host.connect(), hosts))
    assert len(jump.connections()) == 1
    hosts[0].close()
    assert hosts[1].run(["echo", "reached"]).stdout == b"reached\n"
    jump.kill_connections()
    for host in hosts[1:]:
        until_broken(host)
    # The first to come back may still be given the dying connection; then it breaks once more.
    for host in hosts[1:]:
        eventually(lambda host=host: answers(host), what=f"{host.host} is back")
    for host in hosts:
        host.close()
    deadline = time.monotonic() + 10
    while jump.connections():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_jump_host_that_is_down(target: Target, sshd: Sshd) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.9", 0))
        target.config.write_text(f"Host in*\n  ProxyJump 127.0.0.9:{taken.getsockname()[1]}\n")
        for name in ("inner1", "inner2"):
            expected = f"^{name}: jump host 127.0.0.9: connection refused"
            with pytest.raises(ConnectError, match=expected) as caught:
                reach(target.but(name=name, address=name))
            assert caught.value.where == name


def test_a_jump_hosts_key_is_checked_too(target: Target, jump: Sshd, tmp_path: Path) -> None:
    target.known_hosts.write_text(target.known_hosts.read_text().splitlines()[0] + "\n")
    with pytest.raises(HostKeyError, match=rf"\[127.0.0.4\]:{jump.port} .* is unknown"):
        reach(target.but(address="inner"))
    known = f"[127.0.0.4]:{jump.port} {other_key(target, tmp_path)}\n"
    with target.known_hosts.open("a") as file:
        file.write(known)
    with pytest.raises(HostKeyError, match="changed"):
        reach(target.but(address="inner", accept_new_host_keys=True))


def test_a_key_behind_a_jump_host_is_checked(target: Target, jump: Sshd) -> None:
    target.known_hosts.write_text(target.known_hosts.read_text().splitlines()[1] + "\n")
    with pytest.raises(HostKeyError, match=r"127.0.0.2.* is unknown") as caught:
        reach(target.but(address="inner"))
    assert "connect once with: ssh" in caught.value.remedy
    assert reach(target.but(address="inner", accept_new_host_keys=True)) == "reached"


def test_a_host_that_the_jump_host_cannot_reach(target: Target, jump: Sshd) -> None:
    with pytest.raises(ConnectError, match="the jump host cannot reach it"):
        reach(target.but(address="inner", port=1))


@pytest.mark.parametrize("trouble", ["unknown", "changed"])
def test_of_many_hosts_it_is_one_line_and_its_remedy_works(sshd: Sshd, tmp_path: Path, trouble: str) -> None:
    first = Target.on(sshd, tmp_path)
    targets = {name: first.but(address=f"127.0.0.{number}") for number, name in ((2, "n1"), (3, "n2"))}
    wrong = other_key(first, tmp_path)
    lines = [f"[127.0.0.{number}]:{sshd.port} {wrong}\n" for number in (2, 3)]
    first.known_hosts.write_text("".join(lines) if trouble == "changed" else "")
    errors: dict[str, OrchestrateError] = {}
    for name, each in targets.items():
        with pytest.raises(HostKeyError) as caught:
            reach(each)
        errors[name] = caught.value
    (line,) = error_lines(HostsFailed(errors))
    assert line.startswith(f"n[1-2]: the host keys {'are' if trouble == 'unknown' else 'have'} {trouble}")
    start = "ssh-keyscan" if trouble == "unknown" else "for each in"
    command = line[line.index(start) : -1]
    subprocess.run(command, shell=True, check=True, capture_output=True)
    for each in targets.values():
        assert reach(each.but(accept_new_host_keys=trouble == "changed")) == "reached"
