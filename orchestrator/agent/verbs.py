"""What a session can ask of a host: the table of all verbs, each with the module that has a function for it.

A module is imported when the first of its verbs is asked for: on hundreds of hosts, what the other verbs need
would be most of the time that an agent takes to start.
"""

from __future__ import annotations

from orchestrator.agent.request import Answer, Request
from orchestrator.errors import AgentError

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator

__all__ = ["find_verb"]

_VERBS = {
    "verbs_host": ("addresses", "busy_devices", "clock", "probe"),
    "verbs_tools": ("ask_tools",),
    "verbs_files": ("missing", "push", "put_file"),
    "verbs_run": ("commit", "prepare", "start", "stop", "undo"),
    "verbs_watch": ("chat", "list_plogs", "list_runs", "read_log", "read_plog", "small_files", "status"),
    "verbs_shards": ("index", "read_segments", "shards"),
}
_MODULES: Dict[str, str] = {verb: module for module, verbs in _VERBS.items() for verb in verbs}


def find_verb(name: str) -> Callable[[Request], Iterator[Answer]]:
    """The function that answers this verb. Raises AgentError for one that is not in the table."""
    if name not in _MODULES:
        raise AgentError(f"the agent knows no verb `{name}`", kind="unknown_verb")
    module = __import__(f"orchestrator.agent.{_MODULES[name]}", fromlist=[name])
    found: Callable[[Request], Iterator[Answer]] = getattr(module, name)
    return found
