"""Hosts through the system's `ssh`: for many bytes, which it decrypts in processes of its own.

paramiko makes the first connection to a host and is what says why one cannot be made. Here the same config,
jump hosts, ports, users and keys count and the same known_hosts decide; what `ssh` would ask, it refuses.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.transport import Channel, command_line

if TYPE_CHECKING:
    from orchestrator.config.inventory import Host, SshOptions

__all__ = ["ConfigFile", "OpenSshTransport", "write_ssh_config"]

_USER_FILE = Path("~/.ssh/config")
_SYSTEM_FILE = Path("/etc/ssh/ssh_config")
# What an ssh config may hold in quotes and take as it is: no pattern, no escape, no variable.
_PLAIN = re.compile(r'[^"\\%$*?\[\]\x00-\x1f]+')
# The first value that ssh finds for an option counts, and it hands the file on to the ssh that jumps.
_FIRST = """\
Host *
    BatchMode yes
    StrictHostKeyChecking yes
    UserKnownHostsFile {known_hosts}
    UpdateHostKeys no
    ConnectTimeout {timeout:.0f}
    ServerAliveInterval 10
    ServerAliveCountMax 3
    ControlMaster no
    ControlPath none
    ForwardAgent no
    ForwardX11 no
    PermitLocalCommand no
    RemoteCommand none
    RequestTTY no
    Compression no
    LogLevel ERROR
"""
# Last, so that a choice in the user's config counts: one pass over the data where the default makes two.
_LAST = """\
Host *
    Ciphers ^aes128-gcm@openssh.com
"""


class ConfigFile:
    """A file in memory with a path that processes we start can open; it goes with us, however we end."""

    def __init__(self, text: str) -> None:
        self._file = os.fdopen(os.memfd_create("orchestrate-ssh-config"), "w")
        self._file.write(text)
        self._file.flush()
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")

    def close(self) -> None:
        self._file.close()


def write_ssh_config(options: SshOptions) -> ConfigFile | None:
    """A config for `OpenSshTransport`; None where there is no `ssh`, or a path that has no place in one.

    None as well where the system has no such files (it is not Linux).
    """
    files = list(_config_files(Path(options.config_file).expanduser()))
    known = [str(Path(path).expanduser()) for path in options.known_hosts]
    if (
        shutil.which("ssh") is None
        or not hasattr(os, "memfd_create")
        or not all(_PLAIN.fullmatch(path) for path in [*known, *map(str, files)])
    ):
        return None
    listed = " ".join(f'"{path}"' for path in known)
    text = _FIRST.format(known_hosts=listed, timeout=max(1, options.connect_timeout))
    text += "".join(f'Include "{path}"\n' for path in files) + _LAST
    return ConfigFile(text)


def _config_files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    if path.resolve() == _USER_FILE.expanduser().resolve() and _SYSTEM_FILE.is_file():
        yield _SYSTEM_FILE


class OpenSshTransport(LocalTransport):
    """One `ssh` process for each channel; `config` is a file of `write_ssh_config`.

    `known_hosts` are files that count for this host in place of those of the config.
    """

    def __init__(self, host: Host, config: Path, known_hosts: Sequence[str] = ()) -> None:
        super().__init__(host.name)
        self._ssh = ["ssh", "-F", str(config)]
        if known_hosts and all(map(_PLAIN.fullmatch, known_hosts)):
            listed = " ".join(f'"{path}"' for path in known_hosts)
            self._ssh += ["-o", f"UserKnownHostsFile={listed}"]
        for flag, value in (("-p", host.port), ("-l", host.user), ("-i", host.key)):
            if value is not None:
                self._ssh += [flag, str(value)]
        self._ssh += ["--", host.address]

    def _open(self, argv: tuple[str, ...]) -> Channel:
        return super()._open((*self._ssh, command_line(argv).decode("utf-8", "surrogateescape")))
