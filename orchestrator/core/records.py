"""What is written to disk about a run and read back by another process, as frozen dataclasses.

On a host: `Manifest` (what to run), `HostStatus` (what became of it), a row of `events.jsonl` (`Event`) and
what is in the lock of a device (`LockNote`), as `core.codec` writes them.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import enum
from typing import Any, Mapping, Optional, Tuple

from orchestrator.core.codec import Stored
from orchestrator.core.container_records import ContainerSpec
from orchestrator.core.ends import End, StopReason, earlier_end, earlier_reason, label_of, rank_of_label
from orchestrator.core.record_class import dataclass, field
from orchestrator.core.states import RankState

__all__ = [
    "FIRST",
    "Attempt",
    "Claim",
    "CopiedFile",
    "CopyStatus",
    "Event",
    "HostStatus",
    "Input",
    "Load",
    "LockNote",
    "Manifest",
    "Phase",
    "ProcessId",
    "RankStatus",
    "RunOnHost",
    "StallKind",
    "WorkerSpec",
]


@dataclass(frozen=True)
class Attempt:
    """One start of all of a run's workers; the token tells it from one of another launch or control node."""

    number: int = 1
    token: str = ""


FIRST = Attempt()  # of a run of an older version, the only one


@dataclass(frozen=True)
class Claim:
    """The right of one control node to act on a run: whoever comes with the highest epoch has it.

    `holder` says who that is, for people and to tell two of the same epoch apart.
    """

    epoch: int
    holder: str = ""


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
class Load:
    """A shard of an earlier attempt that a rank of the next one loads, on its own host: no byte of it moves.

    `path` is below the attempt's `load`, `source` that of the file on the host, whose `identity` is size,
    time of change and inode number.
    """

    path: str
    source: str
    identity: Tuple[int, int, int]


@dataclass(frozen=True)
class WorkerSpec:
    """One process to start; `{run_dir}`, `{python}` and `{rank}` in argv and env are set on the host.

    In env so is `{port}`, but nothing in the variables of `literal`, which are the job's own.
    `env` goes before the host's own environment, `default_env` behind it.
    """

    label: str
    rank: int
    local_rank: int
    device_id: int
    argv: Tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    default_env: Mapping[str, str] = field(default_factory=dict)
    literal: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest(Stored):
    """Everything one host needs to run its part of an attempt.

    `monitor_lease`: a supervisor that has heard no monitor and seen no step for so many seconds ends its
    workers, None: never. `holds`: once workers have failed it keeps their devices for so many seconds since
    it last heard a monitor, for the next attempt; None: they are free at once. `container`: what the workers
    run in; None: on the host itself.
    """

    LARGEST = 64 << 20  # a line for each file that the job ships

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
    attempt: Attempt = FIRST
    failure_grace: float = 2.0
    monitor_lease: Optional[float] = None
    holds: Optional[float] = None
    container: Optional[ContainerSpec] = None


class StallKind(str, enum.Enum):
    """Why a worker that runs does not go on, as far as its supervisor alone can see."""

    NO_STEP = "no_step"  # none since max(60 s, 5 of its median steps), in no phase without steps
    STOPPED = "stopped"  # by a signal or a debugger: process state T or t
    BLOCKED = "blocked"  # in the kernel, where no signal reaches it: process state D

    def __str__(self) -> str:
        return self.value


class Phase(str, enum.Enum):
    """What a worker says that it is doing, by lines of its metrics that have `phase` in the place of `step`:

        {"phase": "compile", "time": 1700000000.0, "can": ["stacks", "save"]}
        {"phase": "save", "step": 100, "time": …}
        {"phase": "step", "saved": 100, "stall_s": 0.5, "write_s": 9.5, "time": …}

    `can` is what the worker announces: `stacks`, that SIGUSR1 makes it write the stacks of its threads to its
    log; `save`, that SIGTERM makes it save a checkpoint, together with all others, and end with
    `ends.SAVED_EXIT`. `saved` is the step of a checkpoint that is whole, `stall_s` for how long it held the
    steps up, `write_s` the time from its begin until it was whole: a worker may write while it makes steps. A
    worker that says nothing of phases has none.
    """

    IMPORT = "import"
    INIT = "init"
    COMPILE = "compile"
    STEP = "step"
    SAVE = "save"
    EVALUATE = "evaluate"

    def __str__(self) -> str:
        return self.value


_PHASES = frozenset(str(phase) for phase in Phase)


@dataclass(frozen=True)
class RankStatus:
    """One worker as its supervisor sees it, or the run's scheduler. Times are of that host's clock.

    `end` is set once it has ended. `progress` is the newest line of its metrics that has a step, with the
    first beside it. `stalled` is set while it runs and does not go on, `stalled_since` is when it was last
    seen to. `phase` is the last that it reported, None where it reports none; `can` what it has announced,
    and `saved` the step of its newest whole checkpoint of this attempt; its saves that are over took `saving`
    seconds. That one held the steps up for `save_stall` seconds and was whole `save_write` seconds after its
    begin, as far as the worker says so. `stuck`: it was killed and does not end, blocked in the kernel, and
    its device is not free.
    """

    rank: int
    local_rank: int
    device_id: int
    state: RankState = RankState.PENDING
    process: Optional[ProcessId] = None
    started: Optional[float] = None
    end: Optional[End] = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    stalled: Optional[StallKind] = None
    stalled_since: Optional[float] = None
    phase: Optional[Phase] = None
    phase_since: Optional[float] = None
    can: Tuple[str, ...] = ()
    saved: Optional[int] = None
    saving: float = 0.0
    save_stall: Optional[float] = None
    save_write: Optional[float] = None
    stuck: bool = False

    @property
    def label(self) -> str:
        return label_of(self.rank)

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Format 1 had the parts of an end beside the state; a later version may know more phases."""
        data = data if "end" in data else {**data, "end": earlier_end(data)}
        phase = data.get("phase")
        return {**data, "phase": None} if isinstance(phase, str) and phase not in _PHASES else data


@dataclass(frozen=True)
class CopiedFile:
    """A shard of which a second host has a copy: its name below the checkpoint, and the SHA-256 of its bytes.

    Or a strategy, which is of no step: `strategy/<name>`.

    Its owner says so: a copy of which it has said something else is none.
    """

    name: str
    step: int
    size: int
    sha256: str


@dataclass(frozen=True)
class CopyStatus:
    """How far the copies of a host's shards are: the newest step that `keeper` has, None: none yet.

    `lag` counts the saves that are finished here and newer than that. `error`: why the last try came to
    nothing. `files` are those of the newest few steps that were copied.
    """

    step: Optional[int] = None
    lag: int = 0
    error: str = ""
    keeper: str = ""
    files: Tuple[CopiedFile, ...] = ()


@dataclass(frozen=True)
class HostStatus(Stored):
    """One host's part of a run: `status.json`. `failed_first` is the rank that broke the gang.

    `clock` is the host's time when its agent read the file. Within `interval` seconds the supervisor writes
    it again, also where nothing has changed: one whose `updated` is older than three of them has fallen
    silent. Earlier versions, which wrote it every second, did not say so. While workers are made to end,
    `grace` are the seconds that they have for that. `attempt` is the one it is of. `held` are the devices
    that are kept for the next attempt though this one is over. `copies` is None where none are made.
    """

    FORMAT = 3  # two slots, see agent/status_file.py; what is in them is as in format 2

    run_id: str
    job: str
    host: str
    updated: float
    ranks: Tuple[RankStatus, ...]
    scheduler: Optional[RankStatus] = None
    supervisor: Optional[ProcessId] = None
    guardian: Optional[ProcessId] = None
    phase: str = "prepared"
    failed_first: Optional[int] = None
    stop: Optional[StopReason] = None
    clock: Optional[float] = None
    interval: Optional[float] = None
    grace: Optional[float] = None
    attempt: Attempt = FIRST
    copies: Optional[CopyStatus] = None
    held: Tuple[int, ...] = ()

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Format 1 had a label and a sentence."""
        if "stop_reason" not in data:
            return data
        first = rank_of_label(str(data.get("failed_first", "")))
        return {**data, "failed_first": first, "stop": earlier_reason(str(data["stop_reason"]))}

    def everyone(self) -> Tuple[RankStatus, ...]:
        """The ranks, then the scheduler where there is one."""
        return (*self.ranks, *([self.scheduler] if self.scheduler else []))

    @property
    def is_over(self) -> bool:
        return self.phase == "over"


@dataclass(frozen=True)
class Event:
    """A line of a run's history on one host: its new phase, with the reason of a stop, or a worker's exit."""

    time: float
    event: str
    rank: Optional[int] = None
    code: Optional[int] = None
    stop: Optional[StopReason] = None

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Earlier versions had a label, and exit code and signal beside each other."""
        if "label" not in data:
            return data
        signal = data.get("signal")
        code = -signal if isinstance(signal, int) else data.get("exit_code")
        return {**data, "rank": rank_of_label(str(data["label"])), "code": code}


@dataclass(frozen=True)
class LockNote(Stored):
    """Who holds a device."""

    run_id: str
    pid: int


@dataclass(frozen=True)
class RunOnHost:
    """A run as its files on a host tell it, or the `problem` that they cannot be read.

    `manifest` is that of the attempt in force, `epoch` and `holder` those of the claim, as far as the host
    knows one. `over` is the number of the last attempt that is over for good, 0 where nobody has said so.
    """

    manifest: Optional[Manifest] = None
    status: Optional[HostStatus] = None
    problem: str = ""
    epoch: int = 0
    holder: str = ""
    over: int = 0
