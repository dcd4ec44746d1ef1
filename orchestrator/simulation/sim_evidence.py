"""The evidence that a simulated host finds of a run, as agent/verbs_evidence.py answers it.

Of its faults it knows the restart, the full disk, and what its ranks have logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.ends import SCHEDULER, label_of
from orchestrator.core.found_evidence import FileSystem, FoundEvidence, FoundLine
from orchestrator.core.host_answers import Label, Size

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost
    from orchestrator.simulation.sim_process import SimRun

__all__ = ["found_of"]

_LOG_END = 30
_DISK = 1 << 40


def found_of(host: SimHost, run: SimRun) -> FoundEvidence:
    """What is found of the run on this host."""
    status = host.status(run)
    lives = run.supervisor is not None and run.supervisor.is_alive
    free = 0 if host.is_full else host.free_bytes
    return FoundEvidence(
        launched=run.manifest.created,
        boot_id=host.boot,
        launched_boot_id=status.supervisor.boot_id if status.supervisor is not None else "",
        supervisor_lives=lives,
        guardian_lives=lives,
        logs={
            Label(label): tuple(FoundLine(line, _source(label)) for line in lines[-_LOG_END:])
            for label, lines in run.logs.items()
        },
        kills_in_groups=Size(0),
        kills_on_host=Size(0),
        disks=(FileSystem("workdir", host.workdir, Size(free), Size(_DISK)),),
    )


def _source(label: str) -> str:
    return "scheduler" if label == label_of(SCHEDULER) else "worker"
