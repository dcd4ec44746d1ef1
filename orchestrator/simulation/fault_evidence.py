"""The evidence that a fault schedule leaves: what a right verdict names, or that it must abstain. Pure.

It is judged from the schedule alone, and so by another way than the verdict itself:

- a rank that is killed or exits with an error of its own is named, where its host can tell of it;
- an exit whose log only tells of the loss of a peer accuses nobody, and nobody is named for it;
- a host that reboots or loses its power is named, with any of its ranks or none;
- a host that cannot be seen may be named if the run fails, and need not be: its ranks may have gone on;
- a rank that hangs ends nobody, and nobody is named for it; one that is frozen may be, by the scheduler that
  no longer hears it;
- whatever else really failed before the run had ended may be named as well: of two ranks that are killed in
  the same second either is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.control.run_record import Cause
from orchestrator.core.ends import EndKind
from orchestrator.core.log_signatures import Meaning, meaning_of
from orchestrator.simulation.faults import Fault, Ranks

__all__ = ["Circumstances", "Expected", "expected", "named_by"]

Named = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The run that the faults meet; times are seconds since the launch.

    All workers run from `running` on; `done` is when they would be done, None: never. `unreachable` is the
    job's time-out. `patience`: so long after a failure the run has surely ended, or a host been told.
    """

    hosts: Ranks
    running: float = 60.0
    done: float | None = None
    unreachable: float = 120.0
    patience: float = 60.0

    def host_of(self, fault: Fault) -> str | None:
        """Where it happens."""
        if fault.rank is None:
            return fault.host
        return next((name for name, ranks in self.hosts.items() if fault.rank in ranks), None)


@dataclass(frozen=True, slots=True)
class Expected:
    """What is right: whether the run `fails` (None: it may), and who may be named, a rank None for any.

    `suffices`: the evidence does, so that somebody must be named. Where `named` is empty the verdict
    abstains.
    """

    fails: bool | None
    named: frozenset[Named] = frozenset()
    suffices: bool = False

    def allows(self, name: Named | None) -> bool:
        """Whether a verdict that names this host and rank, or nobody, is right."""
        if name is None:
            return not self.suffices
        return any(host == name[0] and rank in (None, name[1]) for host, rank in self.named)


def named_by(cause: Cause | None) -> Named | None:
    """Whom a verdict names; nobody where it is not sure, or says that several ranks lack a first step."""
    if cause is None or not cause.sure or not cause.host:
        return None
    if cause.end.kind is EndKind.NO_FIRST_STEP and len(cause.end.missing) > 1:
        return None
    return cause.host, cause.rank


def expected(faults: Sequence[Fault], around: Circumstances) -> Expected:
    """What a run should come to that meets these faults, sorted by time, in its first attempt."""
    met = [fault for fault in faults if around.done is None or fault.time < around.done]
    is_early = any(fault.time < around.running for fault in met)
    # Before all workers run a fault may find nobody, or keep the launch from becoming a run.
    ends = [fault for fault in met if _ends_the_run(fault) and fault.time >= around.running]
    if not ends:
        may_fail = is_early or any(map(_may_end_the_run, met))
        return Expected(None if may_fail else False, frozenset(_nameable(met, around)))
    over = _over_by(ends[0], around)
    met = [fault for fault in met if fault.time <= over]
    certain = [fault for fault in ends if fault.time <= over and _can_tell(fault, met, around)]
    is_late = around.done is not None and over >= around.done
    fails = True if certain and not is_early and not is_late else None
    # What comes a moment later may find a run that has ended.
    own = any(_is_own(fault) and fault.time == ends[0].time for fault in certain)
    return Expected(fails, frozenset(_nameable(met, around)), bool(fails) and own)


_OF_THE_PARENTS = ("kill_supervisor", "kill_guardian")


def _ends_the_run(fault: Fault) -> bool:
    if fault.kind == "exit":
        return fault.code != 0
    return fault.kind in ("kill", *_OF_THE_PARENTS, "reboot", "power_off")


def _may_end_the_run(fault: Fault) -> bool:
    """Where it depends on what else is seen, on when the ranks save, or on how long others wait."""
    return fault.kind not in ("clock_jump", "monitor_kill", "return")


def _is_own(fault: Fault) -> bool:
    """Whether who ended did so by itself, by all that is told of it."""
    return fault.kind != "exit" or meaning_of(fault.lines) is not Meaning.VICTIM


def _is_silent(fault: Fault) -> bool:
    """Whether the host may not be seen by the control node meanwhile."""
    return fault.kind in ("reboot", "power_off", "partition", "refuse_login", "slow", "lie")


def _over_by(fault: Fault, around: Circumstances) -> float:
    """When a run that this fault ends has surely ended."""
    if fault.kind == "power_off":
        return fault.time + 2 * around.unreachable + around.patience
    return fault.time + (fault.lasts or 0.0) + around.patience


def _can_tell(fault: Fault, met: Sequence[Fault], around: Circumstances) -> bool:
    """Whether nothing else keeps the control node from seeing what happened there."""
    host, over = around.host_of(fault), _over_by(fault, around)
    others = [
        other
        for other in met
        if other is not fault and _is_silent(other) and other.until > fault.time and other.time <= over
    ]
    if fault.kind == "power_off":
        # Its silence is all the evidence there is, and nobody counts as lost while no host answers.
        away = {around.host_of(other) for other in others}
        return host not in away and len(away) + 1 < len(around.hosts)
    return all(around.host_of(other) != host for other in others)


def _nameable(met: Sequence[Fault], around: Circumstances) -> Iterator[Named]:
    for fault in met:
        host = around.host_of(fault)
        if host is None or not _is_own(fault):
            continue
        if fault.kind in ("kill", "freeze") or (fault.kind == "exit" and fault.code != 0):
            yield host, fault.rank
        elif _is_silent(fault) or fault.kind in ("fill_disk", *_OF_THE_PARENTS):
            yield host, None
