"""Which host keys are known: OpenSSH's known_hosts files, read once for all hosts of a command.

Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". paramiko's own reader compares every line with every other
while it loads, knows no authorities, and adds nothing safely when several processes write.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import hmac
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.hosts.ssh.config_values import fits, is_same_file

__all__ = ["KnownHosts", "SeenHosts", "host_pattern", "user_files"]

_USUAL = "~/.ssh/known_hosts"
_MARKS = ("@revoked", "@cert-authority")


@dataclass(frozen=True, slots=True)
class _Entry:
    patterns: tuple[str, ...]
    kind: str
    key: str
    mark: str


def user_files(listed: Sequence[str], configured: Sequence[str]) -> tuple[str, ...]:
    """The files of a host: those that the inventory lists; where it lists the usual one, the config's too.

    New keys go to the first. An inventory's own list stands alone: who writes one wants no other.
    """
    usual = os.path.expanduser(_USUAL)
    if len(listed) != 1 or not is_same_file(os.path.expanduser(listed[0]), usual):
        return tuple(listed)
    return tuple(dict.fromkeys((usual, *configured)))


def host_pattern(name: str, port: int) -> str:
    """How known_hosts spells a host: in small letters, with its port unless that is 22."""
    return name.lower() if port == 22 else f"[{name.lower()}]:{port}"


class SeenHosts:
    """What the files said at one moment; see `KnownHosts`, which has a new one when they have changed."""

    def __init__(self, entries: Iterable[_Entry] = ()) -> None:
        self._plain: dict[str, list[_Entry]] = {}
        self._others: list[_Entry] = []
        for entry in entries:
            if any(pattern[0] in "|!" or set(pattern) & set("*?") for pattern in entry.patterns):
                self._others.append(entry)
                continue
            for pattern in entry.patterns:
                self._plain.setdefault(pattern.lower(), []).append(entry)

    def kinds(self, name: str) -> set[str]:
        """The key types that are on record for a host."""
        return {entry.kind for entry in self._find(name) if not entry.mark}

    def has_authority(self, name: str) -> bool:
        """Whether some authority may say what the host's key is."""
        return any(entry.mark == "@cert-authority" for entry in self._find(name))

    def trusts(self, name: str, kind: str, key: str) -> bool:
        """Whether this key, in base64, is that of an authority for the host."""
        return any(
            (entry.mark, entry.kind, entry.key) == ("@cert-authority", kind, key)
            for entry in self._find(name)
        )

    def is_revoked(self, name: str, key: str) -> bool:
        """Whether a key, a host's or an authority's, is not to be believed."""
        return any(entry.mark == "@revoked" and entry.key == key for entry in self._find(name))

    def verdict(self, name: str, kind: str, key: str) -> str:
        """`known`, `unknown`, `changed` or `revoked` for a key in base64."""
        entries = self._find(name)
        if any(entry.mark == "@revoked" and entry.key == key for entry in entries):
            return "revoked"
        entries = [entry for entry in entries if not entry.mark]
        if any((entry.kind, entry.key) == (kind, key) for entry in entries):
            return "known"
        # A host known by a key of another type is changed, not new: else an impostor need only
        # offer a type that is not on record.
        return "changed" if entries else "unknown"

    def _find(self, name: str) -> list[_Entry]:
        name = name.lower()
        found = self._plain.get(name, [])
        return found + [entry for entry in self._others if _matches(name, entry.patterns)]


class KnownHosts:
    """The lines of several files: the user's, to the first of which new keys go, and those of the system."""

    def __init__(self, paths: Sequence[str], system: Sequence[str] = ()) -> None:
        self.paths = tuple(Path(path).expanduser() for path in paths)
        self._files = (*map(str, self.paths), *map(str, system))
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] = ()
        self._seen = SeenHosts()

    def seen(self) -> SeenHosts:
        """What the files say now. To look whether they have changed is what takes time, so it is asked once
        for several questions."""
        with self._lock:
            stamp = tuple(map(_stamp, self._files))
            if stamp != self._stamp:
                self._seen = SeenHosts(entry for path in self._files for entry in _read(Path(path)))
                self._stamp = stamp
            return self._seen

    def add(self, name: str, kind: str, key: str) -> str:
        """Append a key to the first file, if the host is still unknown there; the verdict afterwards."""
        path = self.paths[0]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another command may be adding the same host
            self._stamp = ()
            verdict = self.seen().verdict(name, kind, key)
            if verdict != "unknown":
                return verdict
            text = file.read()
            newline = b"" if not text or text.endswith(b"\n") else b"\n"
            file.write(newline + f"{name} {kind} {key}\n".encode())
            file.flush()
            self._stamp = ()
            return "known"


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> Iterator[_Entry]:
    try:
        lines = path.read_text("utf-8", "replace").split("\n")
    except OSError:
        return
    for line in lines:
        words = line.split()
        mark = words.pop(0) if words and words[0] in _MARKS else ""
        if len(words) < 3 or words[0][0] in "#@":
            continue
        patterns = tuple(pattern for pattern in words[0].split(",") if pattern)
        yield _Entry(patterns, words[1], words[2], mark)


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
        return fits(name, pattern.lower())
    with contextlib.suppress(ValueError, binascii.Error):
        salt, digest = (base64.b64decode(part) for part in pattern[3:].split("|"))
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    return False
