"""The decision when an attempt has ended: stop, go on and where, wait, or give up. Pure, and a table.

`decide` goes through `ROWS`: the first whose condition holds decides. Those that end a run come first, then
whether there are hosts to go on with, then why it goes on. What each row says is in `decision_table`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.control.decisions import Choice, Decision, Ground, Level, Outcome
from orchestrator.core.errors import PreflightError, TransportError
from orchestrator.diagnosis.signatures import KINDS, Place
from orchestrator.recovery.next_hosts import FROM_OUTSIDE, NextHosts, next_hosts
from orchestrator.recovery.situation import PastAttempt, Situation

__all__ = ["MOST_IDLE", "ROWS", "Row", "decide"]

MOST_IDLE = 3
"""So many attempts without progress, whose ends may be the program's, end the run."""
_MOST_IDLE_IN_ALL = 6  # of any ends: hosts and devices may fail one after the other
# Of a program that tells no steps: what ends sooner has done nothing yet.
_SHORT = 600.0
# Usage and configuration, of our workers, of sysexits.h and of shells: they end so wherever they run.
_USAGE = frozenset({2, 64, 78, 126, 127})
_MAY_PASS = frozenset({TransportError.exit_code, PreflightError.exit_code})
_LAUNCH_AGAIN_AFTER = 10.0
# A port that has gone down may come up again: MindCluster waits so long for a fault to mend itself.
_MENDS_WITHIN = 15.0


class _Ended:
    """A situation, and what follows from it for several rows."""

    def __init__(self, situation: Situation) -> None:
        self.situation, self.last, self.policy = situation, situation.last, situation.policy
        self.attempts = situation.since_by_hand

    @property
    def before(self) -> PastAttempt | None:
        """The attempt before the last one, where a policy started the last."""
        return self.attempts[-2] if len(self.attempts) > 1 else None

    @functools.cached_property
    def next(self) -> NextHosts:
        return next_hosts(self.situation)

    @property
    def restarts(self) -> int:
        """Attempts that the policy started within its window."""
        since = self.situation.now - self.policy.window
        return sum(each.started > since for each in self.attempts[1:])

    @functools.cached_property
    def idle(self) -> tuple[PastAttempt, ...]:
        """The last attempts that have made no progress."""
        found: list[PastAttempt] = []
        for number in range(len(self.attempts) - 1, -1, -1):
            if self._has_progress(number):
                break
            found.append(self.attempts[number])
        return tuple(found)

    @property
    def idle_by_themselves(self) -> int:
        """How many of them have ends that may be the program's, or were refused: whatever is more.

        A spare that turns out to be no good says nothing of the program.
        """
        refused = sum(each.outcome is Outcome.LAUNCH for each in self.idle)
        others = sum(each.outcome in (Outcome.HOST, Outcome.DEVICE) for each in self.idle)
        return max(refused, len(self.idle) - others - refused)

    def _has_progress(self, number: int) -> bool:
        attempt = self.attempts[number]
        if self.situation.keeps:
            return attempt.kept is not None and attempt.kept > attempt.origin
        if attempt.last_step is None:
            return attempt.lived >= _SHORT
        earlier = [each.last_step for each in self.attempts[:number] if each.last_step is not None]
        return attempt.last_step > max(earlier, default=attempt.origin)

    def ended_early(self, attempt: PastAttempt) -> bool:
        """Before its first step, as far as that can be told."""
        return attempt.at is None and (self.situation.keeps or attempt.lived < _SHORT)

    def is_out(self, *grounds: Ground) -> bool:
        return any(ground in grounds for ground in self.next.out_for.values())


@dataclass(frozen=True, slots=True)
class Row:
    """Where `when` holds, the choice is made on this ground; None: to go on, on the hosts that there are."""

    ground: Ground
    choice: Choice | None
    when: Callable[[_Ended], bool]


def decide(situation: Situation) -> Decision:
    """What becomes of a run whose attempt has ended. It never raises."""
    if not situation.attempts:
        return Decision(Choice.GIVE_UP, Ground.CANNOT_START, situation.now)
    ended = _Ended(situation)
    row = next(row for row in ROWS if row.when(ended))  # the last one always holds
    return _decision(ended, row)


def _decision(ended: _Ended, row: Row) -> Decision:
    last, now = ended.last, ended.situation.now
    fault = ended.next.fault if row.ground in _OF_DEVICES else None
    count, limit = _counts(ended, row.ground)
    said = Decision(
        row.choice or Choice.AGAIN,
        row.ground,
        now,
        host=fault.host if fault else last.host,
        rank=None if fault and fault.host != last.host else last.rank,
        device=fault.device if fault else last.device,
        code=fault.code if fault else "",
        step=last.reached,
        count=count,
        limit=limit,
        faults=ended.situation.faults,
    )
    return said if row.choice in (Choice.STOP, Choice.GIVE_UP) else _going_on(ended, row, said)


_OF_DEVICES = frozenset({Ground.DEVICE_OUT, Ground.DEVICE_AGAIN})


def _counts(ended: _Ended, ground: Ground) -> tuple[int, int]:
    if ground is Ground.SAME_STEP:
        return 2, 2
    if ground is Ground.NO_PROGRESS:
        own = ended.idle_by_themselves
        return (own, MOST_IDLE) if own >= MOST_IDLE else (len(ended.idle), _MOST_IDLE_IN_ALL)
    if ground in (Ground.MOST_ATTEMPTS, Ground.TOO_FEW_HOSTS):
        return ended.restarts, ended.policy.max
    return ended.restarts + 1, ended.policy.max


def _going_on(ended: _Ended, row: Row, said: Decision) -> Decision:
    """The decision with its hosts, or until when it waits for them."""
    found, team = ended.next, ended.last.hosts or ended.situation.wanted
    if row.choice is Choice.WAIT:
        until = found.until if found.until is not None else said.time
        return dataclasses.replace(said, not_before=until, out=found.missing)
    choice = Choice.AGAIN
    if found.hosts != tuple(team):
        choice = Choice.REPLACE if len(found.hosts) == len(team) else Choice.FEWER
    return dataclasses.replace(
        said,
        choice=choice,
        hosts=found.hosts,
        out=tuple(found.out_for),
        out_for=found.out_for,
        spares=found.spares,
        devices_out=found.devices_out,
        not_before=_not_before(ended, row.ground),
    )


def _not_before(ended: _Ended, ground: Ground) -> float:
    last = ended.last
    wait = KINDS[last.kind].wait if last.kind in KINDS else 0.0
    if last.outcome is Outcome.LAUNCH and not ended.next.out_for:
        wait = max(wait, _LAUNCH_AGAIN_AFTER)
    if ground is Ground.DEVICE_AGAIN:
        wait = max(wait, _MENDS_WITHIN) if last.kind == "network_port_down" else wait
    return last.ended + wait if wait else 0.0


# The run has ended.


def _is_done(ended: _Ended) -> bool:
    return ended.last.outcome is Outcome.DONE


def _was_stopped(ended: _Ended) -> bool:
    return ended.last.outcome is Outcome.STOPPED


def _has_no_policy(ended: _Ended) -> bool:
    return ended.policy.max == 0


def _cannot_start(ended: _Ended) -> bool:
    """Its launch came to nothing: the first one, or for a reason that does not pass."""
    last, before = ended.last, ended.before
    if last.outcome is not Outcome.LAUNCH:
        return False
    if before is None or last.exit_code not in _MAY_PASS:
        return True
    is_without_change = not ended.next.out_for and ended.next.until is None
    return is_without_change and (
        before.outcome is Outcome.LAUNCH or last.exit_code == PreflightError.exit_code
    )


def _is_configuration(ended: _Ended) -> bool:
    """The job, its program, data or settings: it fails again wherever it runs."""
    last = ended.last
    if not last.sure or last.outcome in (Outcome.HOST, Outcome.LAUNCH):
        return False
    if last.kind in KINDS and KINDS[last.kind].place is Place.JOB:
        return True
    return last.outcome is Outcome.CRASH and last.exit_code in _USAGE and ended.ended_early(last)


def _is_not_covered(ended: _Ended) -> bool:
    return ended.last.outcome is not Outcome.LAUNCH and ended.last.outcome.value not in ended.policy.on


def _is_same_step(ended: _Ended) -> bool:
    """The same end at the same step as the attempt before, unless somebody is taken out for it."""
    last, before = ended.last, ended.before
    if before is None or not _is_same_end(last, before):
        return False
    is_same_place = (last.host, last.device) == (before.host, before.device)
    is_named = bool(last.host) and (last.outcome is Outcome.DEVICE or not last.sure)
    is_taken_out = last.host in ended.next.out_for or last.device in ended.next.devices_out.get(last.host, ())
    if is_named and is_same_place and is_taken_out:
        return False
    if last.at is None and before.at is None:
        return ended.ended_early(last) and ended.ended_early(before)
    return last.at == before.at


def _is_same_end(last: PastAttempt, before: PastAttempt) -> bool:
    """Whether two ends are of the same kind, and may be the program's."""
    if last.outcome in (Outcome.HOST, Outcome.LAUNCH) or last.outcome is not before.outcome:
        return False
    passes = last.kind in FROM_OUTSIDE or (last.kind in KINDS and KINDS[last.kind].wait > 0)
    return bool(last.key) and last.key == before.key and not passes


def _has_no_progress(ended: _Ended) -> bool:
    return ended.idle_by_themselves >= MOST_IDLE or len(ended.idle) >= _MOST_IDLE_IN_ALL


def _has_most_attempts(ended: _Ended) -> bool:
    return ended.restarts >= ended.policy.max


# Whether there are hosts to go on with.


def _are_waited_for(ended: _Ended) -> bool:
    return ended.next.until is not None


def _are_too_few(ended: _Ended) -> bool:
    return not ended.next.hosts


# Why it goes on.


def _is_held(ended: _Ended) -> bool:
    kind = KINDS.get(ended.last.kind)
    return kind is not None and kind.place is Place.DEVICE and kind.wait > 0


def _are_back(ended: _Ended) -> bool:
    """Hosts that were missing take part again, and nobody is out."""
    has_waited = ended.situation.waits_since is not None
    grows = len(ended.next.hosts) > len(ended.last.hosts or ended.situation.wanted)
    return (has_waited or grows) and not ended.next.out_for


def _is_stuck(ended: _Ended) -> bool:
    return ended.is_out(Ground.HOST_STUCK)


def _is_gone(ended: _Ended) -> bool:
    is_back = ended.last.outcome in (Outcome.HOST, Outcome.LAUNCH) and not ended.next.out_for
    return ended.is_out(Ground.HOST_GONE) or is_back


def _is_device_out(ended: _Ended) -> bool:
    """A device is not used any more: by its code's level, or since it has failed again."""
    before, now = ended.situation.devices_out, ended.next.devices_out
    is_new = any(set(devices) - set(before.get(host, ())) for host, devices in now.items())
    return ended.is_out(Ground.DEVICE_OUT) or is_new


def _is_host_faulty(ended: _Ended) -> bool:
    return ended.is_out(Ground.HOST_FAULT)


def _is_device_again(ended: _Ended) -> bool:
    fault = ended.next.fault
    return ended.last.outcome is Outcome.DEVICE or (fault is not None and fault.level is Level.AGAIN)


def _is_hang(ended: _Ended) -> bool:
    return ended.last.outcome is Outcome.HANG


def _is_anything(ended: _Ended) -> bool:
    return True


ROWS: tuple[Row, ...] = (
    Row(Ground.DONE, Choice.STOP, _is_done),
    Row(Ground.STOPPED, Choice.STOP, _was_stopped),
    Row(Ground.NO_RESTART, Choice.STOP, _has_no_policy),
    Row(Ground.CANNOT_START, Choice.GIVE_UP, _cannot_start),
    Row(Ground.CONFIGURATION, Choice.GIVE_UP, _is_configuration),
    Row(Ground.NOT_COVERED, Choice.GIVE_UP, _is_not_covered),
    Row(Ground.SAME_STEP, Choice.GIVE_UP, _is_same_step),
    Row(Ground.NO_PROGRESS, Choice.GIVE_UP, _has_no_progress),
    Row(Ground.MOST_ATTEMPTS, Choice.GIVE_UP, _has_most_attempts),
    Row(Ground.HOSTS_MISSING, Choice.WAIT, _are_waited_for),
    Row(Ground.TOO_FEW_HOSTS, Choice.GIVE_UP, _are_too_few),
    Row(Ground.DEVICE_HELD, None, _is_held),
    Row(Ground.HOSTS_BACK, None, _are_back),
    Row(Ground.HOST_STUCK, None, _is_stuck),
    Row(Ground.HOST_GONE, None, _is_gone),
    Row(Ground.DEVICE_OUT, None, _is_device_out),
    Row(Ground.HOST_FAULT, None, _is_host_faulty),
    Row(Ground.DEVICE_AGAIN, None, _is_device_again),
    Row(Ground.HANG, None, _is_hang),
    Row(Ground.CRASH, None, _is_anything),
)
