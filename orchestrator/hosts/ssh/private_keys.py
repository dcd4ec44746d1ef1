"""Logging in with keys, and never with a question."""

from __future__ import annotations

import functools
import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import paramiko

from orchestrator.core.errors import AuthenticationError, ConnectError
from orchestrator.hosts.ssh.client_config import Asked, Settings, file_tokens
from orchestrator.hosts.ssh.host_certificates import read_certificate
from orchestrator.hosts.ssh.ssh_errors import Dropped
from orchestrator.hosts.transport import words_of

__all__ = ["KeyLogin"]

_DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


class KeyLogin:
    """The inventory's key or the ssh config's, then the agent's, else the usual files, until one is accepted.

    A key file that is encrypted is left to the agent: nothing here asks for a passphrase.
    """

    def __init__(self, host: str, asked: Asked, settings: Settings, key: str | None) -> None:
        self._host = host
        self._settings = settings
        named, self._certificates = [key] if key else [], []
        if (settings.identity_files and not key) or settings.certificate_files:
            expand = file_tokens(asked, settings)
            named = named or [expand(path) for path in settings.identity_files]
            self._certificates = [expand(path) for path in settings.certificate_files]
        self._named = bool(named)
        self._files = [path for path in named if path.lower() != "none"]
        self._unusable: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in. AuthenticationError when no key is accepted, ConnectError when that cannot be known."""
        tried: set[bytes] = set()
        for key in self._keys():
            blob = getattr(key.public_blob, "key_blob", None) or key.asbytes()
            if blob in tried:
                continue
            tried.add(blob)
            try:
                if not transport.auth_publickey(self._settings.user, key):
                    return
            except paramiko.BadAuthenticationType:
                break
            except paramiko.AuthenticationException as error:
                if "timeout" in str(error).lower():
                    raise self._unheard("no answer to the login in time") from error
                if not transport.is_active():
                    if len(tried) == 1:  # a server that has had enough has refused several
                        what = "the host closed the connection during the login"
                        raise self._unheard(what, Dropped) from error
                    break
        raise self._refused(len(tried), words_of(transport.get_banner() or b""))

    def _unheard(self, what: str, kind: type[ConnectError] = ConnectError) -> ConnectError:
        remedy = "is the line to it bad, or the host overloaded? see sshd's log there"
        return kind(what, where=self._host, remedy=remedy)

    def _keys(self) -> Iterator[paramiko.PKey]:
        if not self._settings.pubkey_authentication:
            self._unusable.append("the ssh config has PubkeyAuthentication no")
            return
        yield from self._load(self._files)
        yield from self._agent_keys()
        if not self._named:
            yield from self._load([path for path in _DEFAULT_KEYS if Path(path).expanduser().exists()])

    def _load(self, paths: list[str]) -> Iterator[paramiko.PKey]:
        for path in paths:
            key, problem = _load_key(str(Path(path).expanduser()))
            if key is not None:
                yield from self._certified(path, key)
                yield key
            else:
                self._unusable.append(f"{path} {problem}")

    def _certified(self, path: str, key: paramiko.PKey) -> Iterator[paramiko.PKey]:
        """The key with each certificate of the ssh config that is for it."""
        for name in self._certificates:
            blob = _certificate(str(Path(name).expanduser()))
            if blob is not None and read_certificate(blob.key_blob).key == key.get_base64():
                with_it, _ = _load_key.__wrapped__(str(Path(path).expanduser()))
                if with_it is not None:
                    with_it.public_blob = blob
                    yield with_it

    def _agent_keys(self) -> Iterator[paramiko.PKey]:
        agent = _Agent(self._settings.identity_agent)
        try:
            only = self._settings.identities_only
            files = self._files if self._named else list(_DEFAULT_KEYS)
            wanted = {_public_part(path) for path in files} if only else None
            for key in agent.get_keys():
                if wanted is None or key.get_base64() in wanted:
                    yield key
        finally:
            agent.close()

    def _refused(self, count: int, banner: str) -> AuthenticationError:
        user, address, port = self._settings.user, self._settings.hostname, self._settings.port
        because = f"; {', '.join(self._unusable)}" if self._unusable else ""
        what = f"none of {count} key(s) is accepted for user {user} at {address}{because}"
        if not count:
            what = f"there is no key to log in with{because}"
        if banner:
            what += f"; the host says: {banner}"
        file = f"-i {shlex.quote(self._files[0])} " if self._files else ""
        target = shlex.quote(f"{user}@{address}")
        remedy = f"ssh-copy-id {file}-p {port} {target}, or set `user` and `key` in the inventory"
        return AuthenticationError(what, where=self._host, remedy=remedy)


class _Agent(paramiko.agent.AgentSSH):
    """The agent of SSH_AUTH_SOCK, or the one that IdentityAgent names."""

    def __init__(self, name: str) -> None:
        super().__init__()
        path = os.environ.get("SSH_AUTH_SOCK", "")
        if name.startswith("$"):
            path = os.environ.get(name[1:], "")
        elif name and name != "SSH_AUTH_SOCK":
            path = "" if name.lower() == "none" else name
        if not path:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(10.0)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]
        except (OSError, paramiko.SSHException):
            connection.close()  # the agent is gone

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=64)
def _load_key(path: str) -> tuple[paramiko.PKey | None, str]:
    """A key read once for all hosts, or why it cannot be used."""
    try:
        return paramiko.PKey.from_path(path), ""
    except FileNotFoundError:
        return None, "does not exist"
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    except (paramiko.PasswordRequiredException, TypeError):
        return None, "is encrypted: add it to the ssh-agent"
    # cryptography has more ways to refuse a file than are worth telling apart.
    except Exception:
        return None, "is no private key"


@functools.lru_cache(maxsize=64)
def _certificate(path: str) -> paramiko.pkey.PublicBlob | None:
    """A user's certificate, None for a file that is none."""
    try:
        blob = paramiko.pkey.PublicBlob.from_file(path)
        read_certificate(blob.key_blob)
    except (OSError, ValueError):
        return None
    return blob


def _public_part(path: str) -> str:
    """The public key that belongs to a file; the file itself may be the public one."""
    for name in (path + ".pub", path):
        try:
            words = Path(name).expanduser().read_text("utf-8", "replace")[:65536].split()
        except OSError:
            continue
        if len(words) > 1 and words[0].startswith(("ssh-", "ecdsa-", "sk-")):
            return words[1]
    return ""
