"""Which host keys are known: OpenSSH's known_hosts files, read once for all hosts of a command.

Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". paramiko's own reader compares every line with every other
while it loads, and adds nothing safely when several processes write.

What to do about a host's key; asked for every connection, also for those through which others jump.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import fnmatch
import hashlib
import hmac
import os
import shlex
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fabric
import paramiko

from orchestrator.core.errors import HostKeyError

__all__ = [
    "HostKeyPolicy",
    "KnownHosts",
    "host_pattern",
]


@dataclass(frozen=True, slots=True)
class _Entry:
    patterns: tuple[str, ...]
    kind: str
    key: str
    revoked: bool


def host_pattern(name: str, port: int) -> str:
    """How known_hosts spells a host."""
    return name if port == 22 else f"[{name}]:{port}"


class KnownHosts:
    """The lines of several files; the first one is where new keys go."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(Path(path).expanduser() for path in paths)
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] = ()
        self._plain: dict[str, list[_Entry]] = {}
        self._others: list[_Entry] = []

    def kinds(self, name: str) -> set[str]:
        """The key types that are on record for a host."""
        return {entry.kind for entry in self._find(name) if not entry.revoked}

    def verdict(self, name: str, kind: str, key: str) -> str:
        """`known`, `unknown`, `changed` or `revoked` for a key in base64."""
        entries = self._find(name)
        if any(entry.revoked and entry.key == key for entry in entries):
            return "revoked"
        entries = [entry for entry in entries if not entry.revoked]
        if any((entry.kind, entry.key) == (kind, key) for entry in entries):
            return "known"
        # A host known by a key of another type is changed, not new: else an impostor need only
        # offer a type that is not on record.
        return "changed" if entries else "unknown"

    def add(self, name: str, kind: str, key: str) -> str:
        """Append a key to the first file, if the host is still unknown there; the verdict afterwards."""
        path = self.paths[0]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another command may be adding the same host
            self._stamp = ()
            verdict = self.verdict(name, kind, key)
            if verdict != "unknown":
                return verdict
            text = file.read()
            newline = b"" if not text or text.endswith(b"\n") else b"\n"
            file.write(newline + f"{name} {kind} {key}\n".encode())
            file.flush()
            self._stamp = ()
            return "known"

    def _find(self, name: str) -> list[_Entry]:
        with self._lock:
            self._refresh()
            entries = self._plain.get(name, [])
            return entries + [entry for entry in self._others if _matches(name, entry.patterns)]

    def _refresh(self) -> None:
        stamp = tuple(_stamp(path) for path in self.paths)
        if stamp == self._stamp:
            return
        self._plain, self._others = {}, []
        for path in self.paths:
            for entry in _read(path):
                if any(pattern[0] in "|!" or set(pattern) & set("*?") for pattern in entry.patterns):
                    self._others.append(entry)
                    continue
                for pattern in entry.patterns:
                    self._plain.setdefault(pattern, []).append(entry)
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> Iterator[_Entry]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        revoked = bool(words) and words[0] == "@revoked"
        if revoked:
            del words[0]
        # What is left that starts with @ is an authority, whose certificates paramiko does not check.
        if len(words) < 3 or words[0][0] in "#@":
            continue
        patterns = tuple(pattern for pattern in words[0].split(",") if pattern)
        yield _Entry(patterns, words[1], words[2], revoked)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    found = False
    for pattern in patterns:
        negated = pattern.startswith("!")
        if _matches_one(name, pattern[1:] if negated else pattern):
            if negated:
                return False
            found = True
    return found


def _matches_one(name: str, pattern: str) -> bool:
    if not pattern.startswith("|1|"):
        # fnmatch knows character classes, known_hosts does not: "[host]:22" is to be taken literally.
        return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
    with contextlib.suppress(ValueError, binascii.Error):
        salt, digest = (base64.b64decode(part) for part in pattern[3:].split("|"))
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    return False


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Raises HostKeyError unless the key is known, or new and to be accepted.

    The SSHClient has no host keys of its own, so that it finds every key missing and asks here.
    """

    def __init__(
        self, host: str, connection: fabric.Connection, known_hosts: KnownHosts, accept_new: bool
    ) -> None:
        self._host = host
        self._address, self._port = str(connection.host), int(connection.port)
        self._behind_gateway = bool(connection.gateway)
        alias = connection.ssh_config.get("hostkeyalias")
        self._name = str(alias) if alias else host_pattern(self._address, self._port)
        self._known_hosts = known_hosts
        self._accept_new = accept_new

    def known_kinds(self) -> set[str]:
        """Key types on record for this host."""
        return self._known_hosts.kinds(self._name)

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        kind, text = key.get_name(), key.get_base64()
        verdict = self._known_hosts.verdict(self._name, kind, text)
        if verdict == "unknown" and self._accept_new:
            verdict = self._known_hosts.add(self._name, kind, text)
        if verdict != "known":
            raise self._refusal(verdict, key)

    def _refusal(self, verdict: str, key: paramiko.PKey) -> HostKeyError:
        file = shlex.quote(str(self._known_hosts.paths[0]))
        shown = f"{self._name} ({key.get_name()} {key.fingerprint})"
        if verdict == "revoked":
            return HostKeyError(f"the host key of {shown} is revoked in known_hosts", where=self._host)
        if verdict == "changed":
            what = f"the host key of {shown} has changed: reinstalled, or someone else answers"
            remedy = f"if that is expected: ssh-keygen -R {shlex.quote(self._name)} -f {file}"
            return HostKeyError(what, where=self._host, remedy=remedy)
        return HostKeyError(
            f"the host key of {shown} is unknown",
            where=self._host,
            remedy=f"{self._how_to_add(file)}, or pass --accept-new-host-keys",
        )

    def _how_to_add(self, file: str) -> str:
        if self._behind_gateway:  # ssh-keyscan cannot jump
            return f"connect once with: ssh -p {self._port} {shlex.quote(self._address)}"
        return f"ssh-keyscan -p {self._port} {shlex.quote(self._address)} >> {file}"
