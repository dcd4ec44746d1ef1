"""The evidence on which a failure is judged: what ranks, hosts and their kernels tell, as frozen values.

All times are seconds since the epoch by the control node's clock, `error` is by how much one may be wrong.
Lines are of strangers: bounded by who gathers them, shown and never obeyed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.ends import End
from orchestrator.core.states import RankState

__all__ = [
    "Case",
    "Cause",
    "Certainty",
    "Culprit",
    "DeviceHealth",
    "DiskRoom",
    "HostEvidence",
    "KernelLine",
    "LogLine",
    "Proof",
    "RankEvidence",
]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log: `source` is which (`worker`, `plog/debug`, `plog/run`, `scheduler`), `time` as far as
    the line itself tells it."""

    source: str
    text: str
    time: float | None = None


@dataclass(frozen=True, slots=True)
class RankEvidence:
    """One rank, or the scheduler (`ends.SCHEDULER`): how it ended, and what its logs say.

    `time` is when it ended or was last heard of. `pid` is that of its process, which kernel lines name.
    """

    rank: int
    host: str
    device: int | None = None
    state: RankState = RankState.RUNNING
    end: End | None = None
    time: float | None = None
    error: float = 0.0
    pid: int | None = None
    phase: str = ""
    step: int | None = None
    lines: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class KernelLine:
    """A line of the kernel's log since the launch; `time` where it is known."""

    text: str
    time: float | None = None


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """What is left of a file system: bytes and inodes."""

    path: str
    free: int
    total: int
    free_inodes: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """What `npu-smi info -t health -i N -c C` says of one chip; `status` as printed (OK, Alarm, …)."""

    device: int
    status: str
    codes: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """One host. `lost`: the run has given it up; `rebooted`: its boot is another than at the launch.

    `oom_kills` counts those in the cgroups of the run's workers since the launch, `memory_limit` is theirs in
    bytes. `unread` says what could not be looked at, and why: a line each.
    """

    name: str
    reachable: bool = True
    lost: bool = False
    rebooted: bool = False
    supervisor_gone: bool = False
    kernel: tuple[KernelLine, ...] = ()
    oom_kills: int | None = None
    memory_limit: int | None = None
    disks: tuple[DiskRoom, ...] = ()
    devices: tuple[DeviceHealth, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """A run that has failed or hangs: its ranks, with the scheduler, and its hosts by name.

    `stopped_by_hand`: somebody has asked for its end. `addresses` leads from the addresses of hosts and
    devices, as logs write them, to (host, device or None).
    """

    ranks: tuple[RankEvidence, ...]
    hosts: Mapping[str, HostEvidence] = field(default_factory=dict)
    world_size: int = 0
    stopped_by_hand: bool = False
    addresses: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)


class Certainty(enum.StrEnum):
    """How sure a cause is."""

    SURE = "sure"  # it is said outright, by the culprit, its kernel or its device
    LIKELY = "likely"  # what others say leads to it alone
    UNKNOWN = "unknown"  # the evidence does not suffice: there are suspects, or nobody


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who it was, as far as it is known: a rank, a device of a host, or a host."""

    host: str = ""
    rank: int | None = None
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """One piece of evidence for the cause: where it was read, and the line or fact."""

    host: str
    rank: int | None
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why it failed. `kind` is a row of the table of signatures (`signatures.KINDS`): its names in both
    languages and its remedy are there. `culprit` is None where it is not known; then `suspects` are."""

    kind: str
    certainty: Certainty
    culprit: Culprit | None = None
    proofs: tuple[Proof, ...] = ()
    victims: tuple[int, ...] = ()
    suspects: tuple[Culprit, ...] = ()
    code: str = ""  # EI0006, 507015, 80C98001: as the evidence has it
