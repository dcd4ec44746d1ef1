"""The transport of a host, by what its inventory entry names, and what the SSH config calls its address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.transport import Channel, CommandResult, Transport

if TYPE_CHECKING:
    from orchestrator.config.inventory import Host, SshOptions

__all__ = [
    "Channel",
    "CommandResult",
    "Transport",
    "open_transport",
    "ssh_name",
]


def open_transport(host: Host, options: SshOptions) -> Transport:
    """The transport that the inventory names for this host, not yet connected."""
    if host.transport == "local":
        return LocalTransport(host.name)
    # Late: paramiko takes a fifth of a second to import, and local runs do not need it.
    from orchestrator.hosts.ssh.connection import SshTransport

    return SshTransport(host, options)


def ssh_name(host: Host, options: SshOptions) -> str:
    """What the ssh config calls this host's address (`HostName`); where it says nothing, the address."""
    if host.transport == "local":
        return host.address
    # Late, as above.
    from orchestrator.hosts.ssh.ssh_config import host_name_of

    return host_name_of(host.address, options.config_file)
