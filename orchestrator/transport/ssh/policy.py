"""What to do about a host's key; asked for every connection, also for those through which others jump."""

from __future__ import annotations

import shlex

import fabric
import paramiko

from orchestrator.errors import HostKeyError
from orchestrator.transport.ssh.known_hosts import KnownHosts, host_pattern

__all__ = ["HostKeyPolicy"]


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
