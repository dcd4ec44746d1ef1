"""What names mean on this host, and which addresses are its own."""

from __future__ import annotations

import contextlib
import os
import socket

from orchestrator.agent.processes import boot_id

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

__all__ = ["address_facts", "family_of", "meanings", "network_id"]


def address_facts(names: Sequence[str] = (), candidates: Sequence[str] = ()) -> Dict[str, Any]:
    """`found`: the IP addresses of each name. `own`: which of these and of the `candidates` are this host's.

    `network` is equal on two hosts that have the same interfaces, and so the same loopback; empty if unknown.
    """
    found = {name: meanings(name) for name in names}
    every = [*candidates, *(address for listed in found.values() for address in listed)]
    own = [address for address in dict.fromkeys(every) if _is_own(address)]
    return {"found": found, "own": own, "network": network_id()}


def meanings(name: str) -> List[str]:
    """The IP addresses of a name, in the order in which a program would try them; [] where it has none.

    A name server that is ill can take seconds.
    """
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _is_own(address: str) -> bool:
    """Whether something can listen there, which is what a scheduler does."""
    try:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as own:
            own.bind((address, 0))
    except OSError:
        return False
    return True


def family_of(address: str) -> int:
    """Of the sockets for an IP address; IPv4 for the empty one, which stands for all."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def network_id() -> str:
    """Names the kernel's boot and the network namespace, see network_namespaces(7)."""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/net")
        return f"{boot_id()} {namespace}" if boot_id() else ""
    return ""
