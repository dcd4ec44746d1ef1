"""A host of the inventory on a test server."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.hosts.ssh.connection import SshTransport
from orchestrator.hosts.ssh.packets import Wire
from orchestrator.testing.sshd import Sshd


@dataclass(frozen=True)
class Target:
    """A host on a test server, with everything right until a test changes one thing."""

    host: Host
    options: SshOptions

    @classmethod
    def on(cls, server: Sshd, folder: Path, address: str = "127.0.0.2") -> Target:
        known = folder / "known_hosts"
        known.write_text(f"[{address}]:{server.port} {server.host_key}\n")
        config = folder / "ssh_config"
        config.write_text("")
        return cls(
            Host(name="one", address=address, port=server.port, key=str(server.key_path)),
            SshOptions(config_file=str(config), known_hosts=(str(known),)),
        )

    @property
    def known_hosts(self) -> Path:
        return Path(self.options.known_hosts[0])

    @property
    def config(self) -> Path:
        return Path(self.options.config_file)

    def but(self, **changes: object) -> Target:
        """A copy with fields of the host or the options changed."""
        known = {field.name for field in fields(Host)}
        ours: dict[str, Any] = {key: value for key, value in changes.items() if key in known}
        theirs: dict[str, Any] = {key: value for key, value in changes.items() if key not in known}
        return Target(replace(self.host, **ours), replace(self.options, **theirs))

    def transport(self, wire_class: type[Wire] = Wire) -> SshTransport:
        return SshTransport(self.host, self.options, wire_class=wire_class)
