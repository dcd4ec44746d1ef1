"""Jump hosts as a ProxyJump lists them: the first of the list is the first that is connected to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Hop", "parse_hops", "written"]


@dataclass(frozen=True, slots=True)
class Hop:
    """One jump host; without a user or a port the configuration says which."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_hops(text: str) -> tuple[Hop, ...]:
    """The hops of `[user@]host[:port]` or `ssh://[user@]host[:port]`, between commas. Raises ValueError."""
    return tuple(_hop(each.strip()) for each in text.split(","))


def _hop(text: str) -> Hop:
    is_uri = text.startswith("ssh://")
    bare = text.removeprefix("ssh://").rstrip("/") if is_uri else text
    user, _, place = bare.rpartition("@")
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = place.partition(":")
    if not host:
        raise ValueError(f"{text!r} is no jump host")
    return Hop(host, user or None, int(port) if port else None)


def written(text: str) -> str:
    """A list of hops as `ssh -G` writes it: its last hop in full, those before as they stand."""
    before, comma, last = text.rpartition(",")
    hop = _hop(last)
    address = ":" in hop.host or not hop.host.strip("1234567890.")
    host = f"[{hop.host}]" if address else hop.host
    user, port = (f"{hop.user}@" if hop.user else ""), (f":{hop.port}" if hop.port else "")
    return f"{before}{comma}{user}{host}{port}"
