"""The network of the copies on a host: its own addresses there, and a port to listen on.

Nothing else is taken where there is none: a copy that goes another way than was said would be in the way of
what that way is for.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import zlib
from typing import List, Tuple

from orchestrator.agent.addresses import family_of

__all__ = ["connected", "listening", "own_addresses", "ports_in_turn"]

_BACKLOG = 64
_LARGEST = 4 << 20
_LOCAL = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")


def own_addresses(network: str) -> List[str]:
    """This host's addresses in a network such as 10.1.0.0/16, the lowest first. ValueError: it is none."""
    wanted = ipaddress.ip_network(network, strict=False)
    known = [ipaddress.ip_address(text) for text in (*_ipv4(), *_ipv6())]
    return [str(each) for each in sorted({each for each in known if each in wanted}, key=int)]


def _ipv4() -> List[str]:
    return _LOCAL.findall(_text("/proc/net/fib_trie"))


def _ipv6() -> List[str]:
    """Without those that mean something on one link only."""
    rows = [line.split() for line in _text("/proc/net/if_inet6").splitlines()]
    found = [":".join(re.findall("....", row[0])) for row in rows if row and len(row[0]) == 32]
    return [text for text in found if not text.startswith("fe80")]


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path) as file:
        return file.read(_LARGEST)
    return ""


def ports_in_turn(ports: Tuple[int, int], run_id: str, host: str) -> List[int]:
    """All of them, in the order in which this host tries them for this run; the same wherever it is asked.

    So whoever looks for it finds it at once as a rule, and runs are not all after the first.
    """
    first, last = ports
    count = last - first + 1
    start = zlib.crc32(f"{run_id}/{host}".encode()) % count
    return [first + (start + number) % count for number in range(count)]


def listening(address: str, ports: List[int]) -> socket.socket:
    """A socket that listens on the first of these that is free. OSError where none is."""
    trouble = OSError("no port is given")
    for port in ports:
        server = socket.socket(family_of(address), socket.SOCK_STREAM)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen(_BACKLOG)
            return server
        except OSError as error:
            trouble = error
            server.close()
    raise trouble


def connected(own: str, address: str, port: int, timeout: float) -> socket.socket:
    """A connection from the own address to another one. OSError where there is none in time."""
    return socket.create_connection((address, port), timeout=timeout, source_address=(own, 0))
