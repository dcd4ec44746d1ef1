"""The ssh config, parsed once and shared by all connections."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

import fabric
from paramiko.config import SSHConfig

from orchestrator.core.errors import ConfigError, Problem

__all__ = ["host_name_of", "shared_config"]

_USER_FILE = Path("~/.ssh/config")
_SYSTEM_FILE = Path("/etc/ssh/ssh_config")
_MAX_DEPTH = 16


@functools.lru_cache(maxsize=8)
def shared_config(config_file: str) -> fabric.Config:
    """fabric's Config over one ssh config file; over the system's too if it is the user's usual one.

    Built with `lazy`, so that no fabric.yaml or FABRIC_* variable has a say in who is reached how.
    """
    path = Path(config_file).expanduser()
    usual = path == _USER_FILE.expanduser()
    if not usual and not path.is_file():
        raise ConfigError(
            [Problem(str(path), "no such ssh config file", "check ssh.config_file in the inventory")]
        )
    lines = [line for file in ((path, _SYSTEM_FILE) if usual else (path,)) for line in _lines(file)]
    return fabric.Config(lazy=True, ssh_config=SSHConfig.from_text("\n".join(lines)))


def host_name_of(address: str, config_file: str) -> str:
    """The `HostName` that the config gives an address or alias; without one, what was given."""
    try:
        return str(shared_config(config_file).base_ssh_config.lookup(address).get("hostname", address))
    except Exception:
        return address  # of a config that cannot be read, connecting says what is wrong


def _lines(path: Path, block: str = "Host *", depth: int = 0) -> Iterator[str]:
    """The lines of a file with its Includes in place, which paramiko's parser does not know."""
    if depth > _MAX_DEPTH or not path.is_file():
        return
    yield block
    home = path.parent if path.is_relative_to(_SYSTEM_FILE.parent) else _USER_FILE.expanduser().parent
    for line in path.read_text("utf-8", "replace").splitlines():
        words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
        if words[0].lower() in ("host", "match"):
            block = line
        if words[0].lower() != "include" or len(words) < 2:
            yield line
            continue
        for pattern in words[1].split():
            where = os.path.expanduser(pattern.strip('"'))
            for name in sorted(glob.glob(os.path.join(home, where))):
                yield from _lines(Path(name), block, depth + 1)
        yield block
