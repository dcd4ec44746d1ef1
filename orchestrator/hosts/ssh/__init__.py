"""Hosts over SSH: the only package that imports paramiko and fabric. Import it late, it is heavy."""

from __future__ import annotations

import logging

from orchestrator.hosts.ssh.connection import SshTransport
from orchestrator.hosts.ssh.ssh_config import host_name_of

__all__ = [
    "SshTransport",
    "host_name_of",
]

# Without a handler Python prints paramiko's log lines on stderr. What matters in them is in our errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
