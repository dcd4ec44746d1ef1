"""Which host keys are believed: known_hosts files, their marks, authorities and their certificates."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from pathlib import Path

import paramiko
import pytest

from orchestrator.core.errors import ConfigError, HostKeyError
from orchestrator.hosts.ssh.client_config import Settings
from orchestrator.hosts.ssh.host_certificates import read_certificate
from orchestrator.hosts.ssh.host_keys import HostKeyPolicy
from orchestrator.hosts.ssh.known_hosts import KnownHosts, user_files
from orchestrator.testing.sshd import make_key

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")

SETTINGS = Settings(hostname="npu01.lab", user="root", port=22)


def public(path: Path) -> str:
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("host", "other", "ca"):
        make_key(folder / name)
    return folder


def key_of(path: Path) -> paramiko.PKey:
    """The key as it comes over the wire: no private half."""
    own = paramiko.PKey.from_path(path)
    return paramiko.PKey.from_type_string(own.get_name(), own.asbytes())


def check(
    key: paramiko.PKey,
    files: list[Path],
    system: tuple[Path, ...] = (),
    now: float | None = None,
    **changes: object,
) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)  # type: ignore[arg-type]
    known = KnownHosts([str(path) for path in files], [str(path) for path in system])
    clock = time.time if now is None else lambda: now
    HostKeyPolicy("one", settings, known, False, now=clock).check(key)


def test_which_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    usual = "~/.ssh/known_hosts"
    lab = ("/home/me/.ssh/known_hosts", "/home/me/lab")
    assert user_files([usual], lab) == user_files([lab[0]], lab) == lab
    assert user_files([usual], ("/dev/null",)) == ("/home/me/.ssh/known_hosts", "/dev/null")
    assert user_files(["/own"], lab) == ("/own",)


def lines(tmp_path: Path, *each: str, name: str = "known") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in each))
    return path


@pytest.mark.parametrize("written", ["npu01.lab", "NPU01.Lab", "*.LAB", "npu0?.lab", "10.0.0.1,Npu01.lab"])
@pytest.mark.parametrize("asked", ["npu01.lab", "NPU01.lab"])
def test_letter_case_says_nothing(written: str, asked: str, keys: Path, tmp_path: Path) -> None:
    file = lines(tmp_path, f"{written} {public(keys / 'host')}")
    check(key_of(keys / "host"), [file], hostname=asked)
    with pytest.raises(HostKeyError, match="has changed"):
        check(key_of(keys / "other"), [file], hostname=asked)


def test_a_hashed_name(keys: Path, tmp_path: Path) -> None:
    file = lines(tmp_path, f"[npu01.lab]:2222 {public(keys / 'host')}")
    subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=True, capture_output=True)
    assert "npu" not in file.read_text()
    check(key_of(keys / "host"), [file], hostname="NPU01.lab", port=2222)
    with pytest.raises(HostKeyError, match="has changed"):
        check(key_of(keys / "other"), [file], port=2222)
    with pytest.raises(HostKeyError, match="is unknown"):
        check(key_of(keys / "host"), [file], port=2223)


def test_a_name_counts_for_other_ports_without_lines_of_their_own(keys: Path, tmp_path: Path) -> None:
    file = lines(tmp_path, f"npu01.lab {public(keys / 'host')}")
    check(key_of(keys / "host"), [file], port=2222)
    with pytest.raises(HostKeyError, match="is unknown"):
        check(key_of(keys / "other"), [file], port=2222)


def test_the_systems_files_are_read_too(keys: Path, tmp_path: Path) -> None:
    host = f"npu01.lab {public(keys / 'host')}"
    system = (lines(tmp_path, host, name="system"), tmp_path / "no-second")
    check(key_of(keys / "host"), [tmp_path / "none"], system)
    with pytest.raises(HostKeyError, match="has changed"):
        check(key_of(keys / "other"), [tmp_path / "none"], system)
    revoking = (lines(tmp_path, f"@revoked * {public(keys / 'host')}", name="system"),)
    with pytest.raises(HostKeyError, match="is revoked"):
        check(key_of(keys / "host"), [lines(tmp_path, host)], revoking)


def test_revoked_host_keys_of_the_config(keys: Path, tmp_path: Path) -> None:
    file, revoked = (
        lines(tmp_path, f"* {public(keys / 'host')}"),
        lines(tmp_path, public(keys / "host"), name="r"),
    )
    with pytest.raises(HostKeyError, match="is revoked"):
        check(key_of(keys / "host"), [file], revoked_host_keys=(str(revoked),))
    for content in (b"SSHKRL\n\0rest", None):
        revoked.write_bytes(content) if content else revoked.unlink()
        with pytest.raises(ConfigError, match="RevokedHostKeys"):  # nobody is trusted then, as by OpenSSH
            check(key_of(keys / "host"), [file], revoked_host_keys=(str(revoked),))


def certified(
    keys: Path, folder: Path, *options: str, names: str = "npu01.lab", ca: str = "ca"
) -> paramiko.PKey:
    """The host's key with a certificate that ssh-keygen has made."""
    shutil.copy(keys / "host.pub", folder / "host.pub")
    argv = ["ssh-keygen", "-q", "-s", str(keys / ca), "-I", "id", "-h", *(["-n", names] if names else [])]
    subprocess.run([*argv, *options, str(folder / "host.pub")], check=True, capture_output=True)
    key = key_of(keys / "host")
    key.load_certificate(str(folder / "host-cert.pub"))
    return key


def authority(keys: Path, tmp_path: Path, pattern: str = "*.lab") -> Path:
    return lines(tmp_path, f"@cert-authority {pattern} {public(keys / 'ca')} our authority")


@pytest.mark.parametrize("names", ["npu01.lab", "a,*.lab", "npu??.lab"])
@pytest.mark.parametrize("pattern", ["*.lab", "NPU01.lab", "*"])
def test_an_authority_vouches_for_a_host(names: str, pattern: str, keys: Path, tmp_path: Path) -> None:
    check(certified(keys, tmp_path, names=names), [authority(keys, tmp_path, pattern)], hostname="NPU01.lab")


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_authorities_and_hosts_of_other_kinds(kind: str, tmp_path: Path) -> None:
    for name in ("host", "ca"):
        size = ("-b", "2048" if kind == "rsa" else "256")  # quickly made
        argv = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(argv, check=True, capture_output=True)
    folder = tmp_path / "signed"
    folder.mkdir()
    check(certified(tmp_path, folder), [authority(tmp_path, tmp_path)])


@pytest.mark.parametrize(
    ("options", "names", "says"),
    [
        (("-V", "20200101:20200102"), "npu01.lab", "it has run out"),
        (("-V", "20990101:20990102"), "npu01.lab", "it is not valid yet"),
        ((), "npu02.lab,*.org", r"it is for npu02\.lab, \*\.org"),
        ((), "", "it is for no host"),
        (("-O", "critical:x=y"), "npu01.lab", "options that are not known"),
    ],
)
def test_a_certificate_that_does_not_hold(
    options: tuple[str, ...], names: str, says: str, keys: Path, tmp_path: Path
) -> None:
    key = certified(keys, tmp_path, *options, names=names)
    with pytest.raises(HostKeyError, match=f"certificate of npu01.lab does not hold: .*{says}"):
        check(key, [authority(keys, tmp_path)])


def test_a_users_certificate_is_none_of_a_host(keys: Path, tmp_path: Path) -> None:
    shutil.copy(keys / "host.pub", tmp_path / "host.pub")
    argv = [
        "ssh-keygen",
        "-q",
        "-s",
        str(keys / "ca"),
        "-I",
        "id",
        "-n",
        "npu01.lab",
        str(tmp_path / "host.pub"),
    ]
    subprocess.run(argv, check=True, capture_output=True)
    key = key_of(keys / "host")
    key.load_certificate(str(tmp_path / "host-cert.pub"))
    with pytest.raises(HostKeyError, match="a user's certificate"):
        check(key, [authority(keys, tmp_path)])


def test_a_certificate_of_somebody_else_is_no_certificate(keys: Path, tmp_path: Path) -> None:
    key = certified(keys, tmp_path, ca="other")
    with pytest.raises(HostKeyError, match="is unknown, and no authority of known_hosts vouches for it"):
        check(key, [authority(keys, tmp_path)])
    # The key itself may be known.
    check(key, [lines(tmp_path, f"npu01.lab {public(keys / 'host')}", public(keys / "ca"))])


def test_an_authority_for_other_hosts_is_none_for_this(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="is unknown"):
        check(certified(keys, tmp_path), [authority(keys, tmp_path, "*.org,!npu01.lab")])


def test_a_revoked_authority(keys: Path, tmp_path: Path) -> None:
    system = (lines(tmp_path, f"@revoked * {public(keys / 'ca')}", name="system"),)
    with pytest.raises(HostKeyError, match="is revoked"):
        check(certified(keys, tmp_path), [authority(keys, tmp_path)], system)


def test_a_certificate_with_a_flipped_bit(keys: Path, tmp_path: Path) -> None:
    blob = bytearray(certified(keys, tmp_path).public_blob.key_blob)
    certificate = read_certificate(bytes(blob))
    assert certificate.problem("npu01.lab", time.time()) == ""
    where = bytes(blob).index(b"npu01.lab")
    blob[where + 4] ^= 3  # another host
    assert read_certificate(bytes(blob)).problem("npu02.lab", time.time()).startswith("its signature")
    for cut in (0, 10, len(blob) // 2, len(blob) - 90):
        with pytest.raises(ValueError):
            read_certificate(bytes(blob[:cut]))
