"""The connection to the hub, tried once before its client is asked, which tries again for half a minute."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["first_hop", "why_unreachable"]

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

Connect = Callable[[tuple[str, int], float], object]


def why_unreachable(
    url: str,
    wait: float = 1.5,
    *,
    proxies: Mapping[str, str] | None = None,
    connect: Connect | None = None,
) -> str:
    """Why nobody takes a connection to `url` within `wait` seconds; nothing where somebody does.

    Through the proxy of the environment, as the hub's client goes. Looking up a name can hang far longer than
    any time-out of a connection: it is not waited for.
    """
    hop = first_hop(url, getproxies() if proxies is None else proxies)
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            (connect or _connected)(hop, wait)
            answers.put("")
        except OSError as error:
            answers.put(error.strerror or str(error) or type(error).__name__)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        why = answers.get(timeout=wait)
    except queue.Empty:
        why = f"no answer within {wait:g} s"
    return f"no connection to {hop[0]}:{hop[1]}: {why}" if why else ""


def _connected(hop: tuple[str, int], wait: float) -> None:
    socket.create_connection(hop, wait).close()


def first_hop(url: str, proxies: Mapping[str, str]) -> tuple[str, int]:
    """Host and port to which a connection for `url` is made: those of a proxy, or its own."""
    parts = urlsplit(url)
    host = parts.hostname or "huggingface.co"
    proxy = None if proxy_bypass(host) else proxies.get(parts.scheme) or proxies.get("all")
    if proxy:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host = parts.hostname or host
    return host, parts.port or _PORTS.get(parts.scheme, 443)
