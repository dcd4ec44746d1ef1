"""What a host's system allows: limits, shared memory, names, ports, and the environment of its workers."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from orchestrator.agent import processes
from orchestrator.agent.worker_environment import process_environment, with_env_script

__all__ = [
    "Seen",
    "in_workers_environment",
    "look_program",
    "read_look",
    "system_facts",
    "why_not_sourced",
]

# Runs in the workers' own interpreter and environment, so that it sees what they will see. Metadata is
# read and files are looked for, nothing is imported: importing MindSpore takes seconds. A folder without
# `__init__` does not count: one of that name may lie anywhere.
_LOOK = """
import json, os, sys
from importlib import machinery, metadata, util
asked = json.loads(sys.argv[1])
sys.path[:] = [path for path in sys.path if path not in ("", "/")]
packages, modules = {}, {}
for name in asked["packages"]:
    try:
        packages[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        packages[name] = None
for name in asked["modules"]:
    top, _, inner = name.partition(".")
    try:
        spec = util.find_spec(top)
        if spec is not None and inner:
            spec = machinery.PathFinder.find_spec(name, spec.submodule_search_locations or [])
        modules[name] = spec.origin if spec is not None and spec.has_location else None
    except Exception:
        modules[name] = None
print()
print(json.dumps({"packages": packages, "modules": modules, "environment": dict(os.environ)}))
"""
_LISTEN = "0A"
# 127.0.0.1 and ::1 as that table writes them, in the byte order of x86 and of Arm.
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")


class Seen(NamedTuple):
    """What the workers will see; nothing where `trouble` says why their environment cannot be made."""

    packages: Dict[str, Optional[str]]
    modules: Dict[str, Optional[str]]
    environment: Dict[str, str]
    trouble: str = ""


def in_workers_environment(
    packages: Sequence[str],
    env_script: Optional[str],
    *,
    modules: Sequence[str] = (),
    env: Optional[Mapping[str, str]] = None,
    patience: float = 20.0,
) -> Seen:
    """The versions of `packages` and the files of `modules`, None where there is none; the variables.

    `env` are those that the job gives its workers; what comes out is after `env_script`, which is given up
    after `patience` seconds: with all that it started.
    """
    nothing = Seen(dict.fromkeys(packages), dict.fromkeys(modules), {})
    if unfit := why_not_sourced(env_script):
        return nothing._replace(trouble=unfit)
    asked = json.dumps({"packages": list(packages), "modules": list(modules)})
    argv: List[str] = [sys.executable, "-c", _LOOK, asked]
    if env_script is not None:
        argv = with_env_script(env_script, argv)
    code = 0
    try:
        output, code = _output_of(argv, process_environment(os.environ, env or {}, env_script), patience)
        # What starts with Python may have printed something before.
        return read_look(output.splitlines()[-1])
    except subprocess.TimeoutExpired:
        trouble = f"takes more than {patience:g} s"
    except OSError as error:
        trouble = f"cannot be run: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, IndexError):
        trouble = f"ends with exit code {code}, without an answer"
    return nothing._replace(trouble=trouble)


def look_program() -> str:
    """The text of the program that looks, for the Python of an image; its argument is what it is asked."""
    return _LOOK


def read_look(line: Union[str, bytes]) -> Seen:
    """What that program prints last. Raises ValueError, KeyError, TypeError."""
    found = json.loads(line)
    return Seen(found["packages"], found["modules"], found["environment"])


def why_not_sourced(env_script: Optional[str]) -> str:
    """Why a shell must not even try: a pipe would keep it waiting for ever. "" where there is no reason.

    One that does not exist is another matter.
    """
    if env_script is None:
        return ""
    try:
        mode = os.stat(os.path.expanduser(env_script)).st_mode
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if not stat.S_ISREG(mode):
        return "is no regular file"
    return "" if os.access(os.path.expanduser(env_script), os.R_OK) else "cannot be read by this account"


def _output_of(argv: Sequence[str], env: Mapping[str, str], patience: float) -> Tuple[bytes, int]:
    """What a process prints, and its exit code; with its whole group it is killed when patience ends."""
    with subprocess.Popen(
        argv,
        # Not where we are: the account's home may hold anything, and workers run elsewhere.
        cwd="/",
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=patience)
        except BaseException:
            processes.signal_group(process.pid, signal.SIGKILL)
            raise
        return output, process.returncode


def system_facts(ports: Sequence[int], address: str = "") -> Dict[str, Any]:
    """Facts as plain JSON; `ports` are those that must be free, `address` is what the host is known by."""
    return {
        "limits": {
            "open files": _limit(resource.RLIMIT_NOFILE),
            "processes": _limit(resource.RLIMIT_NPROC),
        },
        "shm_free_bytes": _free_shared_memory(),
        "memory_free_bytes": free_memory(),
        "taken_ports": _listening(ports, address),
    }


def _limit(which: int) -> Optional[int]:
    soft = resource.getrlimit(which)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _free_shared_memory() -> Optional[int]:
    try:
        found = os.statvfs("/dev/shm")
        return found.f_bavail * found.f_frsize
    except OSError:
        return None


def free_memory(meminfo: str = "/proc/meminfo") -> Optional[int]:
    """What new processes can have without swapping, as the kernel estimates it (proc(5), MemAvailable)."""
    try:
        with open(meminfo, "rb") as file:
            found = re.search(rb"^MemAvailable: +(\d{1,15}) kB$", file.read(1 << 16), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) << 10 if found else None


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
