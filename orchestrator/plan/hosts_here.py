"""Hosts that are this machine (`transport: local`): what a launch needs there and lacks, seen by a plan.

Of servers only their agents can tell; that is the preflight's business, in the same words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.config.command_words import script_on_hosts
from orchestrator.config.container import seen_at
from orchestrator.config.inventory import Host
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import HostsFailed, OrchestrateError, PreflightError
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["require_what_is_here"]

_PUT_IT_THERE = "put it there, or give a path relative to the job file to have it shipped"
_MEND = "mend the inventory"


def require_what_is_here(plan: LaunchPlan) -> None:
    """Raise PreflightError, of several hosts HostsFailed, for absolute paths that are missing on these."""
    errors: dict[str, OrchestrateError] = {}
    for host in plan.hosts:
        found = list(_missing(plan, host)) if host.transport == "local" else []
        if found:
            what = "; ".join(dict.fromkeys(what for what, _ in found))
            remedy = "; ".join(dict.fromkeys(remedy for _, remedy in found))
            errors[host.name] = PreflightError(plain(what), where=host.name, remedy=remedy)
    if errors:
        raise HostsFailed.of(errors)


def _missing(plan: LaunchPlan, host: Host) -> Iterator[tuple[str, str]]:
    """What, and what to do."""
    if os.path.isabs(host.python) and not _is_there(host.python):
        yield f"no Python at `{host.python}`", "set `python:` of the host in the inventory"
    in_image = host.container is not None  # where the script and the program are
    if not in_image and host.env_script is not None and not _is_there(os.path.expanduser(host.env_script)):
        yield f"env_script {host.env_script} does not exist", _MEND
    for path in plan.host_paths:
        there = path if host.container is None else seen_at(host.container, path) or path
        if not _is_there(there):
            yield f"{there} does not exist", _PUT_IT_THERE
    if plan.task == "command" and not in_image:
        script = script_on_hosts(plan.manifests[host.name].workers[0].argv)
        if script is not None and not _is_there(script):
            yield f"{script} does not exist", _PUT_IT_THERE


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # not ours to look into, or longer than a name may be
        return True
