"""What is written to disk about a run and read back by another process, as frozen dataclasses.

On a host: `Manifest` (what to run) and `HostStatus` (what became of it). Unknown keys are ignored when
read, so that an older reader understands a newer writer.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.states import RankState

__all__ = ["HostStatus", "Input", "Manifest", "ProcessId", "RankStatus", "WorkerSpec"]


def _known(cls: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in dataclasses.fields(cls)}
    return {key: value for key, value in data.items() if key in names}


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
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    default_env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkerSpec:
        return cls(**{**_known(cls, data), "argv": tuple(data["argv"])})


@dataclass(frozen=True)
class Manifest:
    """Everything one host needs to run its part of a run."""

    run_id: str
    job: str
    host: str
    created: float
    workers: tuple[WorkerSpec, ...]
    scheduler: WorkerSpec | None = None
    inputs: tuple[Input, ...] = ()
    devices: tuple[int, ...] = ()
    port: int | None = None
    address: str = ""
    lock_dir: str | None = None
    env_script: str | None = None
    grace: float = 10.0
    lease: float = 60.0
    world_size: int = 0
    hosts: tuple[str, ...] = ()
    launch: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        known = _known(cls, data)
        known["workers"] = tuple(WorkerSpec.from_json(item) for item in data["workers"])
        scheduler = data.get("scheduler")
        known["scheduler"] = WorkerSpec.from_json(scheduler) if scheduler else None
        known["inputs"] = tuple(Input(**item) for item in data.get("inputs", ()))
        for name in ("devices", "hosts"):
            known[name] = tuple(data.get(name, ()))
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class RankStatus:
    """One worker as its supervisor sees it. Times are seconds since the epoch on that host."""

    label: str
    rank: int
    local_rank: int
    device_id: int
    state: RankState = RankState.PENDING
    process: ProcessId | None = None
    exit_code: int | None = None
    signal: int | None = None
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    tail: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RankStatus:
        known = _known(cls, data)
        known["state"] = RankState(data["state"])
        process = data.get("process")
        known["process"] = ProcessId(**process) if process else None
        known["tail"] = tuple(data.get("tail", ()))
        return cls(**known)


@dataclass(frozen=True)
class HostStatus:
    """One host's part of a run: `status.json`. `failed_first` labels the worker that broke the gang."""

    run_id: str
    job: str
    host: str
    updated: float
    ranks: tuple[RankStatus, ...]
    scheduler: RankStatus | None = None
    supervisor: ProcessId | None = None
    guardian: ProcessId | None = None
    phase: str = "prepared"
    failed_first: str = ""
    stop_reason: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HostStatus:
        known = _known(cls, data)
        known["ranks"] = tuple(RankStatus.from_json(item) for item in data["ranks"])
        scheduler = data.get("scheduler")
        known["scheduler"] = RankStatus.from_json(scheduler) if scheduler else None
        for name in ("supervisor", "guardian"):
            process = data.get(name)
            known[name] = ProcessId(**process) if process else None
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def is_over(self) -> bool:
        return self.phase == "over"
