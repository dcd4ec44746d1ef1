"""The hosts of the next attempt: who stays, who is taken out and why, who comes in, who is waited for. Pure.

A host that cannot be used is out. One that failed and is well again gives way to a spare, and one that was
named twice to fewer hosts as well, where the policy has them; where nobody can take its place it stays, for
nobody is taken out for what may be another's fault. Hosts keep their places, so that they keep their ranks.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.control.decisions import DeviceFault, Ground, Level, Outcome
from orchestrator.core.errors import TransportError
from orchestrator.recovery.device_levels import asked_by
from orchestrator.recovery.situation import PastAttempt, Situation

__all__ = ["FROM_OUTSIDE", "NextHosts", "next_hosts"]

FROM_OUTSIDE = frozenset({"killed", "terminated"})
"""Kinds of failure that say nothing of the program, nor of its host: somebody ended the process."""

# Kinds that are the host's own: what runs there fails again, sooner or later.
_FAULTY = frozenset({"host_fault", "disk_fault", "blocked_in_kernel"})
_FAULTY_DEVICE = frozenset({"device_fault", "device_lost"})
# Kinds that another host may be without.
_ELSEWHERE = frozenset(
    {
        "cgroup_out_of_memory",
        "disk_full",
        "host_memory_error",
        "host_out_of_memory",
        "shared_memory_full",
        "tls_mismatch",
        "version_mismatch",
    }
)
# For so long it is remembered that a host or a device was named, as MindCluster's repeats are.
_REMEMBERED = 86400.0


class _Doubt(enum.IntEnum):
    """How much speaks against a host."""

    NOTHING = 0
    RATHER_NOT = 1  # a spare takes its place
    SUSPECT = 2  # fewer hosts are better
    OUT = 3  # it cannot be used


@dataclass(frozen=True, slots=True)
class NextHosts:
    """Hosts in their order, empty where there are too few; `out_for` has those that are out, and why.

    `missing` are hosts that may come back, and are waited for `until` then, None: they are not.
    """

    hosts: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()
    out_for: Mapping[str, Ground] = field(default_factory=dict)
    devices_out: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fault: DeviceFault | None = None
    missing: tuple[str, ...] = ()
    until: float | None = None


def next_hosts(situation: Situation) -> NextHosts:
    """Who takes part in the next attempt, as far as hosts decide it."""
    return _Choosing(situation).choose()


class _Choosing:
    def __init__(self, situation: Situation) -> None:
        self._situation, self._last = situation, situation.last
        self._team = tuple(dict.fromkeys(situation.last.hosts or situation.wanted))
        self._size = len(dict.fromkeys(situation.wanted))
        self._faults = [asked_by(fault) for fault in situation.faults]
        self._doubts = {host: self._doubt_of(host) for host in self._team}
        coming, suspects = self._who_may_come(), set(situation.suspects)
        self._coming = [host for host in coming if host not in suspects]
        self._last_to_come = [host for host in coming if host in suspects]

    def choose(self) -> NextHosts:
        missing = tuple(host for host in self._team if self._may_return(host))
        until = self._waits_until(missing)
        hosts = () if until is not None else self._with_fewest_doubts()
        staying, spares = set(hosts), set(self._situation.spares)
        out = {host: ground for host, (_, ground) in self._doubts.items() if host not in staying}
        return NextHosts(
            hosts,
            tuple(host for host in hosts if host in spares and host not in self._doubts),
            {host: ground for host, ground in out.items() if ground is not None},
            self._devices_out(staying),
            max(self._told_of_team(), key=lambda fault: fault.level, default=None),
            missing,
            until,
        )

    # What speaks against a host.

    def _doubt_of(self, host: str) -> tuple[_Doubt, Ground | None]:
        state = self._situation.state_of(host)
        if state.is_stuck:
            return _Doubt.OUT, Ground.HOST_STUCK
        if not state.answers:
            return _Doubt.OUT, Ground.HOST_GONE
        if host in self._situation.drained or state.refuses:
            is_away = bool(state.refuses) and self._was_not_reached
            return _Doubt.OUT, Ground.HOST_GONE if is_away else Ground.HOST_FAULT
        if self._has_no_device_left(host):
            return _Doubt.OUT, Ground.DEVICE_OUT
        if host == self._last.host:
            return self._named(host)
        return (_Doubt.RATHER_NOT, Ground.HOST_GONE) if state.is_gone else (_Doubt.NOTHING, None)

    @property
    def _was_not_reached(self) -> bool:
        """Whether a launch came to nothing since a host could not be reached: it may be, the next time."""
        last = self._last
        return last.outcome is Outcome.LAUNCH and last.exit_code == TransportError.exit_code

    def _has_no_device_left(self, host: str) -> bool:
        """Whether a device asks for the host, or more devices are out than others are free."""
        told = [fault for fault in self._faults if fault.host == host]
        devices = {fault.device for fault in told if fault.level is Level.OTHER_DEVICE}
        is_drained = any(fault.level is Level.DRAIN for fault in told)
        return is_drained or len(devices) > self._situation.state_of(host).free_devices

    def _named(self, host: str) -> tuple[_Doubt, Ground | None]:
        """The host of who failed, which can be used."""
        last = self._last
        if self._is_device_doubted:
            has_other = self._situation.state_of(host).free_devices > 0 and last.device is not None
            return (_Doubt.NOTHING, None) if has_other else (_Doubt.SUSPECT, Ground.DEVICE_OUT)
        if last.sure and last.kind in _FAULTY:
            return _Doubt.SUSPECT, Ground.HOST_FAULT
        if last.kind not in FROM_OUTSIDE and self._was_named_before():
            return _Doubt.SUSPECT, Ground.HOST_FAULT
        if last.outcome is Outcome.HOST:
            return _Doubt.RATHER_NOT, Ground.HOST_GONE
        if last.sure and last.kind in _ELSEWHERE:
            return _Doubt.RATHER_NOT, Ground.HOST_FAULT
        return _Doubt.NOTHING, None

    @property
    def _is_device_doubted(self) -> bool:
        """Whether the device of who failed should not be used again: it is faulty, or has failed before."""
        last = self._last
        is_faulty = last.sure and last.kind in _FAULTY_DEVICE
        return last.outcome is Outcome.DEVICE and (is_faulty or self._was_named_before(device=True))

    def _was_named_before(self, *, device: bool = False) -> bool:
        """Whether an attempt before this one named the same host, or the same device of it."""
        return any(self._is_named(each, device=device) for each in self._situation.since_by_hand[:-1])

    def _is_named(self, before: PastAttempt, *, device: bool) -> bool:
        last, is_old = self._last, self._situation.now - before.ended > _REMEMBERED
        if is_old or before.host != last.host or before.kind in FROM_OUTSIDE:
            return False
        if not device:
            return before.outcome is not Outcome.LAUNCH
        return before.outcome is Outcome.DEVICE and last.device is not None and before.device == last.device

    # Devices.

    def _told_of_team(self) -> list[DeviceFault]:
        return [each for each in self._faults if each.host in self._team and each.level > Level.NOTED]

    def _devices_out(self, staying: Collection[str]) -> Mapping[str, tuple[int, ...]]:
        """Devices that are not used any more, of all hosts, with those of before.

        One that failed is used again where nobody can take its place.
        """
        out = {host: set(devices) for host, devices in self._situation.devices_out.items()}
        for fault in self._faults:
            if fault.level >= Level.OTHER_DEVICE:
                out.setdefault(fault.host, set()).add(fault.device)
        last = self._last
        is_spared = last.host not in staying or self._situation.state_of(last.host).free_devices > 0
        if last.device is not None and last.host and self._is_device_doubted and is_spared:
            out.setdefault(last.host, set()).add(last.device)
        return {host: tuple(sorted(devices)) for host, devices in sorted(out.items()) if devices}

    # Who comes in, and who is waited for.

    def _who_may_come(self) -> tuple[str, ...]:
        """Hosts that had been missing, then the spares in their order."""
        names = dict.fromkeys((*self._situation.wanted, *self._situation.spares))
        return tuple(name for name in names if name not in self._doubts and self._is_usable(name))

    def _is_usable(self, host: str) -> bool:
        state = self._situation.state_of(host)
        is_there = state.answers and state.is_ready and not state.is_stuck
        is_good = not state.refuses and host not in self._situation.drained
        return is_there and is_good and not self._has_no_device_left(host)

    def _may_return(self, host: str) -> bool:
        """Whether a host that is out now may be used again soon."""
        ground = self._doubts[host]
        is_away = ground in ((_Doubt.OUT, Ground.HOST_GONE), (_Doubt.OUT, Ground.HOST_STUCK))
        return is_away and host not in self._situation.drained

    def _waits_until(self, missing: Sequence[str]) -> float | None:
        """Until when they are waited for; None where they are not, or not any more."""
        situation, policy = self._situation, self._situation.policy
        begun = situation.now if situation.waits_since is None else situation.waits_since
        states = [situation.state_of(host) for host in missing]
        unseen = any(not state.answers and not state.is_gone for state in states)
        until = begun + situation.unreachable if unseen else begun
        if missing and len(self._at_hand(_Doubt.RATHER_NOT)) < min(self._size, len(self._team)):
            was_refused = any(state.refuses for state in states)
            until = max(until, begun + policy.wait, begun + situation.unreachable * was_refused)
        return until if until > situation.now else None

    # The choice.

    def _at_hand(self, worst: _Doubt) -> list[str]:
        """Everybody who can be used with no more doubt than that, the best first.

        Who was taken out on suspicion comes after who is suspected now: a place less is changed.
        """
        stay = {host: doubt for host, (doubt, _) in self._doubts.items() if doubt <= worst}
        sure = [host for host, doubt in stay.items() if doubt is _Doubt.NOTHING]
        doubtful = [host for host, doubt in stay.items() if doubt is not _Doubt.NOTHING]
        last = self._last_to_come if worst >= _Doubt.SUSPECT else []
        return [*sure, *self._coming, *sorted(doubtful, key=lambda host: stay[host]), *last]

    def _with_fewest_doubts(self) -> tuple[str, ...]:
        for worst in (_Doubt.RATHER_NOT, _Doubt.SUSPECT):
            at_hand = self._at_hand(worst)
            count = self._size if len(at_hand) >= self._size else self._fewer(len(at_hand))
            if count:
                return self._in_places(at_hand[:count])
        return ()

    def _fewer(self, count: int) -> int:
        """The largest number of hosts up to this one that the policy allows; 0: none."""
        least = self._situation.policy.min_hosts
        if least is None:
            return 0
        return max((each for each in self._situation.fits if least <= each <= count), default=0)

    def _in_places(self, chosen: Sequence[str]) -> tuple[str, ...]:
        """Who stays where he was; those who come in at the places that are free, then at the end."""
        coming = [host for host in chosen if host not in self._doubts]
        staying, hosts = set(chosen), []
        for host in self._team:
            if host in staying:
                hosts.append(host)
            elif coming:
                hosts.append(coming.pop(0))
        return (*hosts, *coming)
