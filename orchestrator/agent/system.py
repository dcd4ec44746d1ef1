"""What a host's system allows: limits, shared memory, names, ports, and the environment of its workers."""

from __future__ import annotations

import glob
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

from orchestrator.agent.environ import base_environment, with_env_script

__all__ = ["addresses_of", "cann_version", "in_workers_environment", "system_facts"]

# Runs in the workers' own interpreter and environment, so that it sees what they will see. Metadata is
# read, nothing is imported: importing MindSpore takes seconds.
_LOOK = """
import json, os, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps({"packages": found, "environment": dict(os.environ)}))
"""
# The variables that decide how HCCL and CANN behave; the rest of an environment is nobody's business.
_TOLD = ("HCCL_", "ASCEND_RT_", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
_CANN_FOLDERS = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann")
_LISTEN = "0A"
# 127.0.0.1 and ::1 as that table writes them, in the byte order of x86 and of Arm.
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")


def in_workers_environment(packages: Sequence[str], env_script: Optional[str]) -> Dict[str, Any]:
    """The versions of `packages`, None where one is not installed, and the variables that HCCL reads."""
    argv: List[str] = [sys.executable, "-c", _LOOK, *packages]
    if env_script is not None:
        argv = with_env_script(env_script, argv)
    try:
        done = subprocess.run(
            argv,
            env=base_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        found = json.loads(done.stdout)
        environment = {name: value for name, value in found["environment"].items() if name.startswith(_TOLD)}
        versions = {name: found["packages"].get(name) for name in packages}
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
        return {"packages": dict.fromkeys(packages), "environment": {}}
    return {"packages": versions, "environment": environment}


def system_facts(ports: Sequence[int], address: str = "") -> Dict[str, Any]:
    """Facts as plain JSON; `ports` are those that must be free, `address` is what the host is known by."""
    return {
        "limits": {
            "open files": _limit(resource.RLIMIT_NOFILE),
            "processes": _limit(resource.RLIMIT_NPROC),
        },
        "shm_free_bytes": _free_shared_memory(),
        "taken_ports": _listening(ports, address),
    }


def _limit(which: int) -> Optional[int]:
    soft = resource.getrlimit(which)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _free_shared_memory() -> Optional[int]:
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def addresses_of(name: str) -> List[str]:
    """What a host name means on this host; a name server that is ill can take seconds."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def _listening(ports: Sequence[int], address: str) -> List[int]:
    """Which of these ports somebody listens on, by the kernel's own table (proc(5), net/tcp).

    What listens on loopback alone is in nobody's way, unless the host itself goes by such an address.
    """
    if not ports:
        return []
    ours_is_loopback = _is_loopback(address)
    found: Set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                rows = [line.split() for line in file]
        except OSError:
            continue
        for row in rows[1:]:
            where, _, port = row[1].rpartition(":")
            if row[3] == _LISTEN and (ours_is_loopback or where not in _LOOPBACK):
                found.add(int(port, 16))
    return sorted(found.intersection(ports))


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")


def cann_version(environment: Mapping[str, str]) -> Optional[str]:
    """The `version=` of the toolkit that the workers will use; None where there is none."""
    named = [environment.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    for folder in filter(None, [*named, *_CANN_FOLDERS]):
        for path in sorted(glob.glob(f"{glob.escape(folder)}/*-linux/ascend_toolkit_install.info")):
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    lines = [line.strip().partition("=") for line in file]
            except OSError:
                continue
            for key, _, value in lines:
                if key == "version" and value:
                    return value
    return None
