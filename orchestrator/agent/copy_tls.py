"""TLS between the copiers of one attempt: both sides show a certificate of the attempt's authority.

Who the other one is stands in its certificate alone, as a URI of run, attempt and host. A certificate of
another run, another attempt or another host is refused, and so is none.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Mapping, Optional, Tuple

from orchestrator.core.copier_config import CopierConfig, identity_uri

__all__ = ["Identity", "WrongPeer"]

_HANDSHAKE = 30.0


class WrongPeer(Exception):
    """The other side is somebody else than was meant."""


class Identity:
    """Who this copier is, and how it knows the others."""

    def __init__(self, config: CopierConfig, key_file: Path) -> None:
        """Raises OSError, ssl.SSLError where key or certificate cannot be read."""
        self._config = config
        self._client = self._context(ssl.PROTOCOL_TLS_CLIENT, config.authority, key_file)
        self._server = self._context(ssl.PROTOCOL_TLS_SERVER, config.authority, key_file)

    @staticmethod
    def _context(protocol: int, authority: str, key_file: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Hosts are told apart by what is signed, not by a name or address that somebody else answers for.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority)
        context.load_cert_chain(str(key_file))
        return context

    def reach(self, plain: socket.socket, host: str, timeout: float = _HANDSHAKE) -> ssl.SSLSocket:
        """Speak to this host; `plain` is not to be used any more. WrongPeer: it is another one; OSError."""
        return self._agreed(self._client, plain, {host: ()}, timeout, server_side=False)[0]

    def accept(
        self, plain: socket.socket, hosts: Mapping[str, object], timeout: float = _HANDSHAKE
    ) -> Tuple[ssl.SSLSocket, str]:
        """The connection of one of these hosts, and which of them it is; as for `reach`."""
        return self._agreed(self._server, plain, hosts, timeout, server_side=True)

    def _agreed(
        self,
        context: ssl.SSLContext,
        plain: socket.socket,
        hosts: Mapping[str, object],
        timeout: float,
        *,
        server_side: bool,
    ) -> Tuple[ssl.SSLSocket, str]:
        plain.settimeout(timeout)
        try:
            secured = context.wrap_socket(plain, server_side=server_side, do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        # A socket's own limit is for each of its bytes: who drips would be waited for again and again.
        timer = threading.Timer(timeout, _shut, (secured,))
        timer.daemon = True
        timer.start()
        try:
            secured.do_handshake()
            return secured, self._who(secured, hosts)
        except BaseException:
            secured.close()
            raise
        finally:
            timer.cancel()

    def _who(self, secured: ssl.SSLSocket, hosts: Mapping[str, object]) -> str:
        shown = self._uri_of(secured)
        for host in hosts:
            if shown == identity_uri(self._config.run_id, self._config.attempt, host):
                return host
        raise WrongPeer("its certificate is of another host, run or attempt")

    @staticmethod
    def _uri_of(secured: ssl.SSLSocket) -> Optional[str]:
        certificate = secured.getpeercert() or {}
        names = certificate.get("subjectAltName", ())
        uris = [str(pair[1]) for pair in names if len(pair) == 2 and pair[0] == "URI"]
        return uris[0] if len(uris) == 1 else None


def _shut(secured: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(secured, socket.SHUT_RDWR)
