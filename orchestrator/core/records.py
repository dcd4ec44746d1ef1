"""What is written to disk about a run and read back by another process, as frozen dataclasses.

On a host: `Manifest` (what to run) and `HostStatus` (what became of it), as `core.codec` writes them.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Tuple

from orchestrator.core.codec import Stored
from orchestrator.core.states import RankState

__all__ = ["HostStatus", "Input", "Manifest", "ProcessId", "RankStatus", "RunOnHost", "WorkerSpec"]


@dataclass(frozen=True)
class ProcessId:
    """A process for good: pids are used again, a pid with its start time and boot is not."""

    pid: int
    start_time: int
    boot_id: str


@dataclass(frozen=True)
class Input:
    """A file of the content store that a run sees as `inputs/<name>` (or `code`, or in its cwd)."""

    path: str
    sha256: str
    executable: bool = False


@dataclass(frozen=True)
class WorkerSpec:
    """One process to start; `{run_dir}`, `{python}` and `{rank}` in argv and env are set on the host.

    `env` goes before the host's own environment, `default_env` behind it.
    """

    label: str
    rank: int
    local_rank: int
    device_id: int
    argv: Tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    default_env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest(Stored):
    """Everything one host needs to run its part of a run."""

    run_id: str
    job: str
    host: str
    created: float
    workers: Tuple[WorkerSpec, ...]
    scheduler: Optional[WorkerSpec] = None
    inputs: Tuple[Input, ...] = ()
    devices: Tuple[int, ...] = ()
    port: Optional[int] = None
    address: str = ""
    lock_dir: Optional[str] = None
    env_script: Optional[str] = None
    grace: float = 10.0
    lease: float = 60.0
    world_size: int = 0
    hosts: Tuple[str, ...] = ()
    launch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RankStatus:
    """One worker as its supervisor sees it. Times are seconds since the epoch on that host."""

    label: str
    rank: int
    local_rank: int
    device_id: int
    state: RankState = RankState.PENDING
    process: Optional[ProcessId] = None
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    started: Optional[float] = None
    ended: Optional[float] = None
    reason: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    tail: Tuple[str, ...] = ()


@dataclass(frozen=True)
class HostStatus(Stored):
    """One host's part of a run: `status.json`. `failed_first` labels the worker that broke the gang."""

    run_id: str
    job: str
    host: str
    updated: float
    ranks: Tuple[RankStatus, ...]
    scheduler: Optional[RankStatus] = None
    supervisor: Optional[ProcessId] = None
    guardian: Optional[ProcessId] = None
    phase: str = "prepared"
    failed_first: str = ""
    stop_reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.phase == "over"


@dataclass(frozen=True)
class RunOnHost:
    """A run as its files on a host tell it, or the `problem` that they cannot be read."""

    manifest: Optional[Manifest] = None
    status: Optional[HostStatus] = None
    problem: str = ""
