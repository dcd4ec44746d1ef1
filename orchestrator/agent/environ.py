"""The environment of a worker, in one table: the contract with MindSpore and with any script that follows it.

Names: https://www.mindspore.cn/docs (dynamic cluster start-up, rank table start-up).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Sequence

__all__ = [
    "RESERVED",
    "SCHEDULER",
    "base_environment",
    "process_environment",
    "with_env_script",
    "worker_environment",
]

SCHEDULER = "scheduler"

RESERVED = frozenset(
    {
        "RANK_ID",
        "RANK_SIZE",
        "DEVICE_ID",
        "RANK_TABLE_FILE",
        "MS_ROLE",
        "MS_SCHED_HOST",
        "MS_SCHED_PORT",
        "MS_WORKER_NUM",
        "MS_NODE_ID",
    }
)

# What a worker takes over from the account it runs in; everything else comes from the job.
# A whole environment carried over breaks more than it helps: SSH_*, another host's NIC names, secrets.
_KEPT = frozenset(
    [
        "HOME",
        "PATH",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "XDG_RUNTIME_DIR",
        # CANN's own Python modules and compilers are found by these: `ssh host python ...` works by them.
        "PYTHONPATH",
        "TOOLCHAIN_HOME",
    ]
)
_KEPT_PREFIXES = ("LC_", "ASCEND_")

# The one shell text of the agent; what it works on arrives as arguments and variables, never as text.
# A script puts its own paths first (CANN's does), or drops what was there: the worker's go before them again.
_FIRST = "ORCHESTRATE_PYTHONPATH"
_SOURCE_THEN_EXEC = (
    'source "$1" >&2 || exit 126; shift; '
    f'if [ -n "${{{_FIRST}:-}}" ]; then export PYTHONPATH="${_FIRST}${{PYTHONPATH:+:$PYTHONPATH}}"; fi; '
    f'unset {_FIRST}; exec "$@"'
)


def base_environment(environ: Mapping[str, str]) -> Dict[str, str]:
    """The part of a host's environment that its workers see."""
    return {
        name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }


def with_env_script(script: str, argv: Sequence[str]) -> List[str]:
    """`argv` run after `script` was sourced; exit code 126 where that fails."""
    return ["/bin/bash", "-c", _SOURCE_THEN_EXEC, "bash", os.path.expanduser(script), *argv]


def process_environment(
    environ: Mapping[str, str], own: Mapping[str, str], env_script: Optional[str]
) -> Dict[str, str]:
    """The whole environment of a worker: of the account what `base_environment` keeps, then its `own`.

    PYTHONPATH is joined of all that give one: the worker's own, what `env_script` sets, the account's.
    With a script this is meant for an argv of `with_env_script`, which joins the three.
    """
    kept = base_environment(environ)
    merged = {**kept, **own}
    paths = [own.get("PYTHONPATH", ""), kept.get("PYTHONPATH", "")]
    if env_script is not None:
        merged[_FIRST], paths[0] = paths[0], ""
    merged["PYTHONPATH"] = ":".join(filter(None, paths))
    return {name: value for name, value in merged.items() if value or name not in ("PYTHONPATH", _FIRST)}


def worker_environment(
    mode: str,
    *,
    rank: int,
    world_size: int,
    device_id: int,
    scheduler_host: Optional[str] = None,
    scheduler_port: Optional[str] = None,
    is_scheduler: bool = False,
) -> Dict[str, str]:
    """The variables that place one process in its run; `mode` is the job's `networking.mode`."""
    table = {"RANK_ID": str(rank), "RANK_SIZE": str(world_size), "DEVICE_ID": str(device_id)}
    if mode == "rank_table":
        table["RANK_TABLE_FILE"] = "{run_dir}/rank_table.json"
    if mode == "dynamic":
        table["MS_ROLE"] = "MS_SCHED" if is_scheduler else "MS_WORKER"
        table["MS_SCHED_HOST"] = str(scheduler_host)
        table["MS_SCHED_PORT"] = str(scheduler_port)
        table["MS_WORKER_NUM"] = str(world_size)
        # Must differ between processes; msrun uses the rank, and the scheduler needs one of its own.
        table["MS_NODE_ID"] = SCHEDULER if is_scheduler else str(rank)
    return table
