"""The situation when an attempt has ended: all that a decision is made of. Data; times are of our clock."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.config.job import Restart

__all__ = ["DeviceFault", "HostState", "Level", "Outcome", "PastAttempt", "Situation"]


class Outcome(enum.StrEnum):
    """What ended an attempt. Those from CRASH to DEVICE are what `restart.on` names."""

    DONE = "done"
    STOPPED = "stopped"
    CRASH = "crash"
    HOST = "host"
    HANG = "hang"
    DEVICE = "device"
    LAUNCH = "launch"  # it was never started: its launch came to nothing


class Level(enum.IntEnum):
    """What a device's fault code asks for, as MindCluster's levels say (`diagnosis/device_codes`)."""

    NOTED = 0
    AGAIN = 1  # the run is to be started again, on the same device
    OTHER_DEVICE = 2  # the device is to be reset: another one, or another host
    DRAIN = 3  # its host is taken out


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """A fault code that a device has told; `repeats` so often within the code's own window before."""

    host: str
    device: int
    code: str
    level: Level
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """One attempt that has ended: how, by whom, and how far it had come.

    `key` is what the end is told apart by: the kind of failure of `diagnosis`, or exit code and signal. It
    went on from step `origin`; `last_step` is the newest that it made, `kept` the newest that is whole in a
    checkpoint, None: none. `kind` is the kind of `diagnosis/signatures.KINDS`, "" where none is known.
    """

    number: int
    started: float
    ended: float
    outcome: Outcome
    host: str = ""
    rank: int | None = None
    device: int | None = None
    kind: str = ""
    key: str = ""
    sure: bool = True
    origin: int = 0
    last_step: int | None = None
    kept: int | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostState:
    """One host of the run, or a spare, as it is now.

    `answers`: it can be asked. `is_gone`: it is lost by the rules of `control/host_loss`. `is_stuck`: a
    process in state D does not end there. `is_ready`: of a spare, that it was checked and prepared; of a
    host that was taken out, that it answers again. `refuses`: why it cannot be used, "" where it can.
    """

    name: str
    answers: bool = True
    is_gone: bool = False
    is_stuck: bool = False
    is_ready: bool = True
    refuses: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """All of it. `attempts` in their order, the last has just ended.

    `wanted` are the hosts that the job asks for, in their order; `hosts` those of wanted, spares and whoever
    took part. `spares` are names in the order in which they are taken. `taken_out` are hosts that were taken
    out before, with when and on what ground; `faults` what devices tell now, `history` what they told at
    earlier attempts. `fits` says whether the job can be laid out on so many hosts (from `min_hosts` on).
    `waits_since`: since when missing hosts are waited for, None: they are not. `drained` are hosts that an
    operator, or a code's level, has taken out for good.
    """

    now: float
    policy: Restart
    attempts: tuple[PastAttempt, ...]
    wanted: tuple[str, ...]
    hosts: Mapping[str, HostState] = field(default_factory=dict)
    spares: tuple[str, ...] = ()
    faults: tuple[DeviceFault, ...] = ()
    history: tuple[DeviceFault, ...] = ()
    taken_out: Mapping[str, float] = field(default_factory=dict)
    drained: tuple[str, ...] = ()
    fits: tuple[int, ...] = ()
    waits_since: float | None = None
