"""The evidence that a simulated host finds of a run, as agent/verbs_evidence.py answers it.

Of its faults it knows the restart, the full disk, and what its ranks have logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.core.ends import SCHEDULER, label_of

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost
    from orchestrator.simulation.sim_process import SimRun

__all__ = ["found_of"]

_LOG_END = 30
_DISK = 1 << 40


def found_of(host: SimHost, run: SimRun) -> dict[str, Any]:
    """The keys of `core.found_evidence.FoundEvidence`."""
    status = host.status(run)
    lives = run.supervisor is not None and run.supervisor.is_alive
    return {
        "launched": run.manifest.created,
        "boot_id": host.boot,
        "launched_boot_id": status.supervisor.boot_id if status.supervisor is not None else "",
        "supervisor_lives": lives,
        "guardian_lives": lives,
        "logs": {
            label: [{"text": line, "source": _source(label)} for line in lines[-_LOG_END:]]
            for label, lines in run.logs.items()
        },
        "kernel": [],
        "kills_in_groups": 0,
        "kills_on_host": 0,
        "memory_limit": None,
        "disks": [
            {
                "use": "workdir",
                "path": host.workdir,
                "total": _DISK,
                "free": 0 if host.is_full else host.free_bytes,
            }
        ],
        "chips": [],
        "unread": [],
    }


def _source(label: str) -> str:
    return "scheduler" if label == label_of(SCHEDULER) else "worker"
