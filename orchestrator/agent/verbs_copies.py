"""The verbs that try the network of the copies before anything is copied: addresses, and both directions.

A listener answers whoever connects with the word that it was given, and is gone after a minute, or with the
session.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Iterator, List

from orchestrator.agent.copy_network import connected, listening, own_addresses, ports_in_turn
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.errors import AgentError

__all__ = ["copy_addresses", "copy_close", "copy_listen", "copy_reach"]

_OPEN_FOR = 60.0
_LONGEST_WORD = 64
_servers: List[socket.socket] = []


def copy_addresses(request: Request) -> Iterator[Answer]:
    """This host's addresses in a network."""
    yield Answer(own_addresses(request.args["network"]))


def copy_listen(request: Request) -> Iterator[Answer]:
    """Listen as a copier will; where, and whether this Python can do TLS."""
    args = request.args
    _close()
    found = own_addresses(args["network"])
    if not found:
        raise AgentError(f"has no address in {args['network']}", kind="no_address")
    ports = (int(args["ports"][0]), int(args["ports"][1]))
    try:
        asked = args["asked"]
        server = listening(found[0], ports_in_turn(ports, asked["run_id"], asked["host"]))
    except OSError as error:
        what = f"no port of {ports[0]}-{ports[1]} is free at {found[0]}: {error.strerror or error}"
        raise AgentError(what, kind="no_port") from error
    _servers.append(server)
    word = str(asked["word"]).encode()[:_LONGEST_WORD]
    threading.Thread(target=_answer, args=(server, word), daemon=True).start()
    yield Answer({"address": found[0], "port": server.getsockname()[1], "tls": _has_tls()})


def copy_close(request: Request) -> Iterator[Answer]:
    """Listen no more: a copier may want the port."""
    _close()
    yield Answer()


def copy_reach(request: Request) -> Iterator[Answer]:
    """Whether a listener on another host is reached, and is the one that was meant; "" or why not."""
    args = request.args["asked"]
    word = str(args["word"]).encode()[:_LONGEST_WORD]
    try:
        with connected(args["own"], args["address"], int(args["port"]), float(args["patience"])) as plain:
            heard = b""
            while len(heard) < len(word):
                data = plain.recv(_LONGEST_WORD)
                if not data:
                    break
                heard += data
        yield Answer("" if heard == word else "somebody else answers there")
    except OSError as error:
        yield Answer(str(error.strerror or error)[:200])


def _answer(server: socket.socket, word: bytes) -> None:
    server.settimeout(_OPEN_FOR)
    with contextlib.suppress(OSError), server:
        while True:
            plain, _ = server.accept()
            with contextlib.suppress(OSError), plain:
                plain.settimeout(1.0)
                plain.sendall(word)


def _close() -> None:
    while _servers:
        with contextlib.suppress(OSError):
            # Its own end alone does not wake who waits for somebody to come.
            server = _servers.pop()
            server.shutdown(socket.SHUT_RDWR)
            server.close()


def _has_tls() -> bool:
    try:
        import ssl  # late: it takes long, and some Pythons were built without it
    except ImportError:
        return False
    return hasattr(ssl, "TLSVersion")
