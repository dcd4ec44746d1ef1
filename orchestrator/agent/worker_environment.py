"""The environment of a worker, in one table: the contract with MindSpore and with any script that follows it.

Names: https://www.mindspore.cn/docs (dynamic cluster start-up, msrun start-up, rank table start-up); what
msrun itself exports: mindspore/parallel/cluster/process_entity/_api.py.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Sequence

__all__ = [
    "ATTEMPT",
    "OF_EACH_RANK",
    "PLOG_PATH",
    "RESERVED",
    "RESTARTS",
    "SCHEDULER_HOST",
    "TOLD",
    "WITH_SCHEDULER",
    "WITH_TABLE",
    "base_environment",
    "common_environment",
    "default_environment",
    "process_environment",
    "starts_by_table_alone",
    "with_env_script",
    "worker_environment",
]

# Stands for the scheduler's IP address in a plan where only a host can tell it; no process ever sees it.
SCHEDULER_HOST = "{scheduler_host}"

# The values of `networking.mode` whose workers meet at a scheduler, and those that get a rank table.
WITH_SCHEDULER = frozenset({"dynamic", "rank_table"})
WITH_TABLE = frozenset({"rank_table", "legacy_rank_table"})

# Where CANN puts a process's own log files; by default ~/ascend/log, where those of all ranks and runs mix.
PLOG_PATH = "ASCEND_PROCESS_LOG_PATH"

# Ours, not MindSpore's: the number of the attempt, so that a program knows whether it was started before.
ATTEMPT = "ORCHESTRATE_ATTEMPT"

# As torchrun has it: how often the job has been started before.
RESTARTS = "TORCHELASTIC_RESTART_COUNT"

RESERVED = frozenset(
    {
        ATTEMPT,
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

# As torchrun sets them, for programs that know nothing of MindSpore; `task: command` alone gets them.
# https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
OF_EACH_RANK = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"})

# How the names begin of the variables that decide how HCCL and CANN behave: those that a look at a host
# tells of. The rest of an environment is nobody's business.
TOLD = ("HCCL_", "ASCEND_RT_", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")

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
# The arguments are put aside: a script takes them for its own (some of Ascend's have some), or sets others.
# It is not sourced inside a function, where what it declares would end with it.
# A script puts its own paths first (CANN's does), or drops what was there: the worker's go before them again.
_FIRST = "ORCHESTRATE_PYTHONPATH"
_SOURCE_THEN_EXEC = (
    'ORCHESTRATE_ARGV=("$@"); set --; source "${ORCHESTRATE_ARGV[0]}" >&2 || exit 126; '
    f'if [ -n "${{{_FIRST}:-}}" ]; then export PYTHONPATH="${_FIRST}${{PYTHONPATH:+:$PYTHONPATH}}"; fi; '
    f'unset {_FIRST}; exec "${{ORCHESTRATE_ARGV[@]:1}}"'
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
    attempt: int = 1,
    is_scheduler: bool = False,
) -> Dict[str, str]:
    """The variables that place one process in its run; `mode` is the job's `networking.mode`.

    `rank_table` is what `msrun --rank_table_file` exports. For workers with a table but no MS_ROLE MindSpore
    2.x makes no groups: "MindSpore does not support ranktable startup, please use msrun to start it."
    """
    table = {
        "RANK_ID": str(rank),
        "RANK_SIZE": str(world_size),
        "DEVICE_ID": str(device_id),
        ATTEMPT: str(attempt),
    }
    if attempt > 1:
        table[RESTARTS] = str(attempt - 1)
    if mode in WITH_TABLE:
        table["RANK_TABLE_FILE"] = "{run_dir}/rank_table.json"
    if mode in WITH_SCHEDULER:
        table["MS_ROLE"] = "MS_SCHED" if is_scheduler else "MS_WORKER"
        table["MS_SCHED_HOST"] = str(scheduler_host)
        table["MS_SCHED_PORT"] = str(scheduler_port)
        table["MS_WORKER_NUM"] = str(world_size)
        # Must differ between processes; msrun uses the rank, and the scheduler needs one of its own.
        table["MS_NODE_ID"] = "scheduler" if is_scheduler else str(rank)
    return table


def common_environment(
    *, rank: int, world_size: int, local_rank: int, local_world_size: int, master: str
) -> Dict[str, str]:
    """The same place under the names that most launchers use.

    MASTER_ADDR is the first host, MASTER_PORT the scheduler's port or, where there is none, one of the run.
    """
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "MASTER_ADDR": master,
        "MASTER_PORT": "{port}",
    }


def default_environment(label: str, *, ascend: bool) -> Dict[str, str]:
    """What a process gets unless its host's environment or the job says otherwise; `label` as of its log."""
    return {PLOG_PATH: "{run_dir}/logs/plog/" + label} if ascend else {}


def starts_by_table_alone(env: Mapping[str, str]) -> bool:
    """Whether a worker has a rank table and no scheduler."""
    return "RANK_TABLE_FILE" in env and "MS_ROLE" not in env
