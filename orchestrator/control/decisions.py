"""What is decided when an attempt has ended, as data: whether the run goes on, where, and on what ground.

It is made by `recovery/decide.py`, written into the record of its attempt before it is done, and shown
by `cli/`. The table of grounds, a row each, is in docs/guides/a-run-that-survives.md. What ended an attempt,
and what its devices told, is here too: it is kept with the decision.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Choice", "Decision", "DeviceFault", "Ground", "Level", "Outcome"]


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
    """A fault code that a device has told; `repeats` so often within the code's own window before.

    `time`: when, of our clock; 0: not known. `released`: when a device that is taken out for it may be used
    again, None: not in this run.
    """

    host: str
    device: int
    code: str
    level: Level
    repeats: int = 0
    time: float = 0.0
    released: float | None = None


class Choice(enum.StrEnum):
    """What becomes of the run."""

    STOP = "stop"  # there is nothing to go on with: it is done, was stopped, or has no policy
    AGAIN = "again"  # another attempt on the same hosts
    REPLACE = "replace"  # on the same number of hosts, spares in the place of some
    FEWER = "fewer"  # on fewer hosts, or on more again than the attempt before had
    WAIT = "wait"  # nothing yet: it is judged again when something changes, or at `not_before`
    GIVE_UP = "give_up"  # it has failed for good

    @property
    def goes_on(self) -> bool:
        return self in (Choice.AGAIN, Choice.REPLACE, Choice.FEWER)


class Ground(enum.StrEnum):
    """Why: the row of the table that decided."""

    # The run has ended.
    DONE = "done"
    STOPPED = "stopped"  # a person, or whoever sent a signal
    NO_RESTART = "no_restart"  # `restart.max` is 0
    NOT_COVERED = "not_covered"  # `restart.on` does not have this kind of failure
    CONFIGURATION = "configuration"  # it fails again wherever it runs
    MOST_ATTEMPTS = "most_attempts"  # `restart.max` within `restart.window`
    SAME_STEP = "same_step"  # the same end at the same step as the attempt before
    NO_PROGRESS = "no_progress"  # three attempts without a step that is kept
    TOO_FEW_HOSTS = "too_few_hosts"
    CANNOT_START = "cannot_start"  # the next attempt came to nothing, and would again
    # It goes on, or waits to.
    CRASH = "crash"
    HANG = "hang"
    HOST_GONE = "host_gone"
    HOST_STUCK = "host_stuck"  # a process in state D holds its devices
    HOST_FAULT = "host_fault"  # its kernel or hardware says so
    DEVICE_AGAIN = "device_again"  # the code's level: start again on the same device
    DEVICE_OUT = "device_out"  # another device, or host
    DEVICE_HELD = "device_held"  # EJ0001: the last process still holds it
    HOSTS_MISSING = "hosts_missing"  # they are waited for
    HOSTS_BACK = "hosts_back"  # hosts that were missing are there again: it grows


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision; times are of our clock, in seconds since the epoch.

    `hosts` are those of the next attempt in their order, `out` those that are taken out, `spares` those that
    come in, `devices_out` devices that are not used any more, by host. `not_before`: nothing is started
    before then. The rest is what it rests on: `host`, `rank`, `device` and `code` of who failed, `step` where
    that was, `count` of `limit` attempts. `out_for` is why each of `out` is, `faults` what devices told.
    """

    choice: Choice
    ground: Ground
    time: float = 0.0
    hosts: tuple[str, ...] = ()
    out: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()
    devices_out: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    not_before: float = 0.0
    host: str = ""
    rank: int | None = None
    device: int | None = None
    code: str = ""
    step: int | None = None
    count: int = 0
    limit: int = 0
    out_for: Mapping[str, Ground] = field(default_factory=dict)
    faults: tuple[DeviceFault, ...] = ()
