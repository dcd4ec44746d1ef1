"""Hosts over SSH, each an address on an sshd of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from orchestrator.testing.sshd import Sshd

__all__ = ["ADDRESSES", "inventory_of"]

ADDRESSES = ("127.0.0.2", "127.0.0.3")
_ALL = (*ADDRESSES, "127.0.0.4", "127.0.0.5")


def inventory_of(folder: Path, servers: list[Sshd], devices: str = "0-1", **ssh: Any) -> dict[str, Any]:
    addressed = list(zip(servers, _ALL[: len(servers)], strict=True))
    known = [str(server.known_hosts([address])) for server, address in addressed]
    hosts = [
        {
            "name": f"node{index}",
            "address": address,
            "port": server.port,
            "user": server.user,
            "key": str(server.key_path),
            "workdir": str(folder / "hosts" / f"node{index}"),
            "devices": devices,
            "python": sys.executable,
        }
        for index, (server, address) in enumerate(addressed, start=2)
    ]
    config = folder / "ssh_config"
    config.touch()
    return {"ssh": {"known_hosts": known, "config_file": str(config), **ssh}, "hosts": hosts}
