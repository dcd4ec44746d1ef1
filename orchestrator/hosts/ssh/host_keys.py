"""What to do about a host's key; asked for every connection, also for those through which others jump."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import paramiko

from orchestrator.core.errors import ConfigError, HostKeyError, Problem
from orchestrator.core.visible_text import visible
from orchestrator.hosts.ssh.client_config import Settings
from orchestrator.hosts.ssh.host_certificates import Certificate, read_certificate
from orchestrator.hosts.ssh.known_hosts import KnownHosts, SeenHosts, host_pattern

__all__ = ["HostKeyPolicy"]


class HostKeyPolicy:
    """Whether a key is the host's: known, said so by a known authority, or new and to be accepted.

    `behind_jump` is whether the host can be reached from here only through another.
    """

    def __init__(
        self,
        host: str,
        settings: Settings,
        known_hosts: KnownHosts,
        accept_new: bool,
        *,
        behind_jump: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._settings = settings
        self._behind_jump = behind_jump
        alias = settings.host_key_alias
        self._bare = alias or settings.hostname.lower()
        self._name = alias or host_pattern(settings.hostname, settings.port)
        # Without its own line, a host at another port has that of its name, as for OpenSSH.
        self._names = tuple(dict.fromkeys((self._name, self._bare)))
        self._known_hosts = known_hosts
        self._accept_new = accept_new
        self._now = now

    def known_kinds(self) -> set[str]:
        """Key types on record for this host."""
        return set().union(*map(self._known_hosts.seen().kinds, self._names))

    def has_authority(self) -> bool:
        """Whether a certificate can be of use."""
        return any(map(self._known_hosts.seen().has_authority, self._names))

    def check(self, key: paramiko.PKey) -> None:
        """Raises HostKeyError unless the host may have this key."""
        seen, certificate = self._known_hosts.seen(), _certificate_of(key)
        self._check_revoked(seen, key, certificate)
        if certificate is not None and self._is_vouched_for(seen, certificate):
            return
        kind, text = key.get_name(), key.get_base64()
        verdict = seen.verdict(self._name, kind, text)
        if verdict == "unknown" and seen.verdict(self._bare, kind, text) == "known":
            verdict = "known"
        if verdict == "unknown" and self._accept_new and self._known_hosts.paths:
            verdict = self._known_hosts.add(self._name, kind, text)
        if verdict != "known":
            raise self._refusal(verdict, key)

    def _is_vouched_for(self, seen: SeenHosts, certificate: Certificate) -> bool:
        """Whether a known authority made it; HostKeyError where one did, and it does not hold."""
        kind, key = certificate.authority_kind, certificate.authority
        if not any(seen.trusts(name, kind, key) for name in self._names):
            return False
        problem = certificate.problem(self._bare, self._now())
        if problem:
            raise HostKeyError(
                f"the host certificate of {self._name} does not hold: {visible(problem)}",
                where=self._host,
                remedy="have the authority sign the host's key anew",
                of_many=(
                    f"the host certificates do not hold: {visible(problem)}",
                    "have the authority sign the hosts' keys anew",
                    "",
                ),
            )
        return True

    def _check_revoked(self, seen: SeenHosts, key: paramiko.PKey, certificate: Certificate | None) -> None:
        keys = [key.get_base64(), *([certificate.authority] if certificate else [])]
        listed = [text for path in self._settings.revoked_host_keys for text in _revoked_keys(path)]
        for text in keys:
            if text in listed or any(seen.is_revoked(name, text) for name in self._names):
                raise self._refusal("revoked", key)

    def _refusal(self, verdict: str, key: paramiko.PKey) -> HostKeyError:
        paths = self._known_hosts.paths
        file = shlex.quote(str(paths[0])) if paths else "~/.ssh/known_hosts"
        shown = f"{self._name} ({key.get_name()} {key.fingerprint})"
        if verdict == "revoked":
            what, many = f"the host key of {shown} is revoked in known_hosts", "the host keys are revoked"
            return HostKeyError(what, where=self._host, of_many=(f"{many} in known_hosts", "", ""))
        if verdict == "changed":
            changed = "changed: reinstalled, or someone else answers"
            name = shlex.quote(self._name)
            return HostKeyError(
                f"the host key of {shown} has {changed}",
                where=self._host,
                remedy=f"if that is expected: ssh-keygen -R {name} -f {file}",
                of_many=(
                    f"the host keys have {changed}",
                    f"if that is expected, remove the old ones from {file}",
                    f": for each in {{}}; do ssh-keygen -R $each -f {file}; done",
                ),
                address=name,
            )
        unknown = "unknown"
        if self.has_authority():
            unknown += ", and no authority of known_hosts vouches for it"
        return HostKeyError(
            f"the host key of {shown} is {unknown}",
            where=self._host,
            remedy=f"{self._how_to_add(file)}, or pass --accept-new-host-keys",
            of_many=(
                f"the host keys are {unknown.replace(' it', ' them')}",
                "compare the fingerprints in `orchestrate check --json`, then pass "
                "--accept-new-host-keys once",
                "" if self._behind_jump else f"; or: {self._keyscan('{}', file)}",
            ),
            address=shlex.quote(self._settings.hostname),
        )

    def _how_to_add(self, file: str) -> str:
        address = shlex.quote(self._settings.hostname)
        if self._behind_jump:  # ssh-keyscan cannot jump
            return f"connect once with: ssh -p {self._settings.port} {address}"
        return self._keyscan(address, file)

    def _keyscan(self, addresses: str, file: str) -> str:
        return f"ssh-keyscan -p {self._settings.port} {addresses} >> {file}"


def _certificate_of(key: paramiko.PKey) -> Certificate | None:
    blob = getattr(key, "public_blob", None)
    if blob is None:
        return None
    try:
        found = read_certificate(blob.key_blob)
    except ValueError:
        return None
    # The exchange was signed with this key: a certificate for another one says nothing.
    return found if found.key == key.get_base64() else None


def _revoked_keys(path: str) -> set[str]:
    """The keys of a RevokedHostKeys file, in base64. Raises ConfigError for what cannot be read: as OpenSSH,
    who trusts nobody then."""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError([Problem(path, f"RevokedHostKeys cannot be read: {error.strerror}")]) from None
    if data.startswith(b"SSHKRL\n\0"):
        problem = Problem(path, "RevokedHostKeys is a KRL, which is not read here", "list the keys as text")
        raise ConfigError([problem])
    lines = (line.split() for line in data.decode("utf-8", "replace").splitlines())
    return {words[1] for words in lines if len(words) > 1 and not words[0].startswith("#")}
