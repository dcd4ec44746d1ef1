"""The facts of one host that decide whether a job can run there. It looks; the control node judges."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

from orchestrator.agent.addresses import family_of, meanings
from orchestrator.agent.cann import MODULES, cann_facts, cann_version
from orchestrator.agent.device_locks import busy_devices
from orchestrator.agent.shared_folder import shared_place
from orchestrator.agent.system_facts import (
    Seen,
    in_workers_environment,
    system_facts,
    why_not_sourced,
)
from orchestrator.agent.worker_environment import TOLD
from orchestrator.core.codec import from_json
from orchestrator.core.container_records import ContainerSpec
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import Workdir

__all__ = ["free_port", "probe", "require_port"]


def probe(
    workdir: Workdir,
    *,
    devices: Sequence[int] = (),
    lock_dir: Optional[str] = None,
    packages: Sequence[str] = (),
    env_script: Optional[str] = None,
    paths: Sequence[str] = (),
    port_on: Optional[str] = None,
    ascend: bool = False,
    ports: Sequence[int] = (),
    address: str = "",
    env: Optional[Mapping[str, str]] = None,
    patience: float = 20.0,
    container: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Facts as plain JSON. `port_on` asks for a port that is free on that address.

    `ascend` asks for what only matters to HCCL and CANN, too; `ports` must be free on `address`; `env` is
    what the job gives its workers of the variables that matter to these facts; `patience` is how many seconds
    `env_script` may take. `container` is a ContainerSpec, in which all of the workers' own is looked at.
    """
    folder = workdir.locks if lock_dir is None else Workdir(lock_dir).root
    modules = ("mindspore", *MODULES) if ascend else ()
    seen = Seen({}, {}, {}, "" if container else why_not_sourced(env_script))
    image: Optional[Dict[str, Any]] = None
    has_script = env_script is None or os.path.exists(os.path.expanduser(env_script))
    if container is not None:
        from orchestrator.agent.container_probe import in_image  # late: most hosts have none to look into

        spec = from_json(ContainerSpec, container)
        image, seen, has_script = in_image(
            spec, packages, env_script, modules=modules, env=env, patience=patience
        )
    elif packages or ascend:
        seen = in_workers_environment(packages, env_script, modules=modules, env=env, patience=patience)
    return {
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "workdir": str(workdir.root),
        "free_bytes": _free_bytes(workdir.root),
        "writable": _is_writable(workdir.root),
        "shared_place": shared_place(workdir.root),
        "clock": time.time(),
        "busy_devices": busy_devices(folder, devices),
        "locks_writable": _is_writable(folder),
        "packages": seen.packages,
        "environment": {name: value for name, value in seen.environment.items() if name.startswith(TOLD)},
        "environment_seen": bool(seen.environment),
        "environment_trouble": seen.trouble,
        "env_script_exists": has_script,
        "image": image,
        "missing_paths": [path for path in paths if not os.path.exists(os.path.expanduser(path))],
        "port": free_port(port_on) if port_on is not None else None,
        "resolves_to": sorted(meanings(socket.gethostname())) if ascend else [],
        # Of a CANN in an image nothing is known: its files are not this host's.
        "cann": cann_version(seen.environment) if ascend and image is None else None,
        "ascend": cann_facts(seen.environment, seen.modules) if ascend and image is None else None,
        **system_facts(ports, address),
    }


def free_port(address: str) -> int:
    """A TCP port nobody listens on; on all addresses where this one is not the host's own (NAT)."""
    for candidate in (address, ""):
        try:
            with socket.socket(family_of(candidate), socket.SOCK_STREAM) as probe_socket:
                probe_socket.bind((candidate, 0))
                return int(probe_socket.getsockname()[1])
        except OSError:
            continue
    raise AgentError("no TCP port is free")


def require_port(address: str, port: int) -> None:
    """Raise AgentError, kind `port_in_use`, where something listens on this port already."""
    with socket.socket(family_of(address), socket.SOCK_STREAM) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
                return  # a translating router's, or a name that only others know: nothing can be told
            raise AgentError(
                f"port {port} on {address} cannot be used: {error.strerror}",
                remedy="set networking.port to a free one, or leave it out to have one chosen",
                kind="port_in_use",
            ) from error


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _free_bytes(path: Path) -> int:
    found = os.statvfs(_existing(path))
    return found.f_bavail * found.f_frsize


def _is_writable(path: Path) -> bool:
    return os.access(_existing(path), os.W_OK)
