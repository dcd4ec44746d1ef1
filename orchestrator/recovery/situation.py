"""The situation when an attempt has ended: all that a decision is made of. Data; times are of our clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.config.run_terms import Restart
from orchestrator.control.decisions import DeviceFault, Level, Outcome

__all__ = ["DeviceFault", "HostState", "Level", "Outcome", "PastAttempt", "Situation"]


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """One attempt that has ended: how, by whom, and how far it had come.

    `key` is what the end is told apart by: the kind of failure of `diagnosis`, or exit code and signal. It
    went on from step `origin`; `last_step` is the newest that it made, `kept` the newest that is whole in a
    checkpoint, None: none. `kind` is the kind of `diagnosis/signatures.KINDS`, "" where none is known.
    Where it is not `sure`, host and rank are suspects, or empty. `step` is the last that who failed had made,
    None where that is not known: then `last_step` counts. `exit_code` is of who failed, or of the launch.
    `by_hand`: a person started it, so that what was before does not count.
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
    step: int | None = None
    exit_code: int | None = None
    by_hand: bool = False

    @property
    def at(self) -> int | None:
        """The step at which who failed ended, None: before the first."""
        return self.last_step if self.step is None else self.step

    @property
    def reached(self) -> int | None:
        """The newest step that any rank made, which is what people are told; None: none."""
        return self.step if self.last_step is None else self.last_step

    @property
    def lived(self) -> float:
        """For how many seconds."""
        return max(0.0, self.ended - self.started)


@dataclass(frozen=True, slots=True)
class HostState:
    """One host of the run, or a spare, as it is now.

    `answers`: it can be asked. `is_gone`: it was lost by the rules of `control/host_loss`, and is back
    if it answers. `is_stuck`: a process in state D does not end there. `is_ready`: of a spare, that it was
    checked and prepared; of a host that was taken out, that it answers again. `refuses`: why it cannot be
    used, "" where it can.
    `free_devices`: so many of its devices are healthy, and nobody's.
    """

    name: str
    answers: bool = True
    is_gone: bool = False
    is_stuck: bool = False
    is_ready: bool = True
    refuses: str = ""
    free_devices: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """All of it. `attempts` in their order, the last has just ended.

    `wanted` are the hosts that the job asks for, in their order; `hosts` those of wanted, spares and whoever
    took part. `spares` are names in the order in which they are taken. `taken_out` are hosts that were taken
    out before, with when and on what ground; `faults` what devices tell now, `history` what they told at
    earlier attempts. `fits` says whether the job can be laid out on so many hosts (from `min_hosts` on).
    `waits_since`: since when missing hosts are waited for, None: they are not. `drained` are hosts that a
    code's level has taken out for good. `suspects` are hosts that were taken out though they could be used:
    they come in when nobody else can. `devices_out` are devices that were taken out before.

    `keeps`: it is known which steps are kept; of programs that save as they like it is not, nor always which
    steps they make. A host that does not answer and is not gone is waited for, for `unreachable` seconds.
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
    devices_out: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    keeps: bool = True
    unreachable: float = 60.0
    suspects: tuple[str, ...] = ()

    @property
    def last(self) -> PastAttempt:
        """The attempt that has just ended."""
        return self.attempts[-1]

    @property
    def since_by_hand(self) -> tuple[PastAttempt, ...]:
        """The attempts since a person last started one, with that one."""
        begun = max((number for number, each in enumerate(self.attempts) if each.by_hand), default=0)
        return self.attempts[begun:]

    def state_of(self, host: str) -> HostState:
        """The state of a host; of one of which nothing is known, that it does not answer."""
        return self.hosts.get(host) or HostState(host, answers=False, is_ready=False)
