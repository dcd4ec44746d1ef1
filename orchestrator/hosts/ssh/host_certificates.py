"""Host certificates: what an authority says about a host's key, and whether that holds for a host now.

Format: OpenSSH's PROTOCOL.certkeys; rules: sshconnect.c (`check_host_cert`) and sshkey.c
(`sshkey_cert_check_authority`).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import paramiko

from orchestrator.hosts.ssh.config_values import fits

__all__ = ["Certificate", "read_certificate"]

_HOST = 2
_FOR_EVER = (1 << 64) - 1
# How many strings or numbers make a key of a type, behind the type and the nonce.
_PARTS = {"ssh-ed25519": 1, "ssh-rsa": 2, "ecdsa-sha2-nistp": 2}


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate; `key` and `authority` are public keys in base64, times are seconds of 1970."""

    key: str
    kind: int
    name: str
    principals: tuple[str, ...]
    begins: int
    ends: int
    has_options: bool
    authority_kind: str
    authority: str
    signed: bytes
    signature: bytes

    def problem(self, host: str, now: float) -> str:
        """Why it does not hold for this host name at this time; "" if it does. The signature is included."""
        if not self._is_signed():
            return "its signature is not the authority's"
        if self.kind != _HOST:
            return "it is a user's certificate"
        if not self.begins <= now < self.ends:
            return "it is not valid yet" if now < self.begins else "it has run out"
        if not any(fits(host, each) for each in self.principals):
            return f"it is for {', '.join(self.principals[:5]) or 'no host'}"
        return "it has options that are not known here" if self.has_options else ""

    def _is_signed(self) -> bool:
        blob = base64.b64decode(self.authority)
        try:
            key = paramiko.PKey.from_type_string(self.authority_kind, blob)
            return bool(key.verify_ssh_sig(self.signed, paramiko.Message(self.signature)))
        except Exception:  # a key or a signature that paramiko cannot make sense of
            return False


def read_certificate(blob: bytes) -> Certificate:
    """A certificate of its bytes. Raises ValueError for bytes that are none."""
    message = paramiko.Message(blob)
    try:
        kind = message.get_text()
        plain = kind.removesuffix("-cert-v01@openssh.com")
        parts = next(count for start, count in _PARTS.items() if plain.startswith(start))
        message.get_binary()  # the nonce
        key = paramiko.Message()
        key.add_string(plain)
        for _ in range(parts):
            key.add_string(message.get_binary())
        message.get_int64()  # the serial number
        what, name = message.get_int(), message.get_text()
        principals = _texts(message.get_binary())
        begins, ends = message.get_int64(), message.get_int64()
        options = message.get_binary()
        message.get_binary(), message.get_binary()  # extensions, reserved
        authority = message.get_binary()
        signed = message.get_so_far()
        signature = message.get_binary()
        authority_kind = paramiko.Message(authority).get_text()
    except Exception as error:
        raise ValueError("no certificate") from error
    if not signature or not authority or kind == plain:
        raise ValueError("no certificate")
    return Certificate(
        base64.b64encode(key.asbytes()).decode(),
        what,
        name,
        principals,
        begins,
        ends if ends != _FOR_EVER else 1 << 70,
        bool(options),
        authority_kind,
        base64.b64encode(authority).decode(),
        signed,
        signature,
    )


def _texts(data: bytes) -> tuple[str, ...]:
    message, found = paramiko.Message(data), []
    while message.get_remainder():
        text = message.get_text()
        if not text:
            raise ValueError("an empty principal")
        found.append(text)
    return tuple(found)
