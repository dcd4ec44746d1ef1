"""Logging in with keys, and never with a question."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from pathlib import Path

import fabric
import paramiko

from orchestrator.core.errors import AuthenticationError

__all__ = ["KeyLogin"]

_DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


class KeyLogin:
    """An `auth_strategy`: the inventory's key or the ssh config's, then the agent's, else the usual files.

    A key file that is encrypted is left to the agent: nothing here asks for a passphrase.
    """

    def __init__(self, host: str, connection: fabric.Connection, key: str | None) -> None:
        self._host = host
        self._user = str(connection.user)
        self._address, self._port = str(connection.host), int(connection.port)
        config = connection.ssh_config
        self._only = str(config.get("identitiesonly", "no")).lower() == "yes"
        self._files = [key] if key else [str(path) for path in config.get("identityfile", ())]
        self._named = bool(self._files)
        self._unusable: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Try keys until one is accepted; AuthenticationError when none is."""
        tried: set[bytes] = set()
        for key in self._keys():
            if key.asbytes() in tried:
                continue
            tried.add(key.asbytes())
            try:
                if not transport.auth_publickey(self._user, key):
                    return
            except paramiko.BadAuthenticationType:
                break
            except paramiko.AuthenticationException:
                if not transport.is_active():  # too many tries for the server
                    break
        raise self._refused(len(tried))

    def _keys(self) -> Iterator[paramiko.PKey]:
        yield from self._load(self._files)
        yield from self._agent_keys()
        if not self._named:
            yield from self._load([path for path in _DEFAULT_KEYS if Path(path).expanduser().exists()])

    def _load(self, paths: list[str]) -> Iterator[paramiko.PKey]:
        for path in paths:
            key, problem = _load_key(str(Path(path).expanduser()))
            if key is not None:
                yield key
            else:
                self._unusable.append(f"{path} {problem}")

    def _agent_keys(self) -> Iterator[paramiko.PKey]:
        agent = paramiko.Agent()
        try:
            wanted = {_public_part(path) for path in self._files} if self._only else None
            for key in agent.get_keys():
                if wanted is None or key.get_base64() in wanted:
                    yield key
        finally:
            agent.close()

    def _refused(self, count: int) -> AuthenticationError:
        because = f"; {', '.join(self._unusable)}" if self._unusable else ""
        what = f"none of {count} key(s) is accepted for user {self._user} at {self._address}{because}"
        if not count:
            what = f"there is no key to log in with{because}"
        file = f"-i {shlex.quote(self._files[0])} " if self._files else ""
        target = shlex.quote(f"{self._user}@{self._address}")
        remedy = f"ssh-copy-id {file}-p {self._port} {target}, or set `user` and `key` in the inventory"
        return AuthenticationError(what, where=self._host, remedy=remedy)


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


def _public_part(path: str) -> str:
    try:
        words = Path(path + ".pub").expanduser().read_text().split()
    except OSError:
        return ""
    return words[1] if len(words) > 1 else ""
