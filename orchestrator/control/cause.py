"""The cause of a run's failure, its state and its victims, judged from the hosts' records. Pure.

Who has only noticed the end of another is no cause: a rank whose log says that a peer is gone, or that it
waited for one in vain, or that MindSpore itself ended because of that. In this order are named

1. a host whose supervisor is gone (it was restarted, say), where all that others tell is an exit,
2. a rank of which MindSpore's scheduler says that it no longer answers, where it has not failed by itself and
   nobody else did but by an exit that says nothing,
3. of what failed by itself the first,
4. where only victims are left: a host that is lost; whom the judge of all evidence would name from what the
   hosts have told so far (`diagnosis.judge`), said not to be sure;
5. nobody, with the ranks that reported.
"""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.control.health_findings import Finding
from orchestrator.control.run_record import Cause, HostView
from orchestrator.core.ends import UNASKED, End, EndKind, StopKind, StopReason
from orchestrator.core.log_signatures import Meaning, accused_by, meaning_of, telling_signature
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RankState

__all__ = [
    "cause_of",
    "cause_of_hang",
    "first_failure",
    "kind_of",
    "our_time",
    "refined",
    "tells_of_failure",
    "victims_of",
    "was_stopped_by_hand",
    "words_of",
]

Hosts = Mapping[str, HostView]
# How a process ends that was ended by MindSpore, or by an error of a library, for what another rank did.
_PASSIVE_SIGNALS = frozenset({signal.SIGTERM, signal.SIGABRT})
# What tells of another as well: of who is gone, or of what two have in common.
_NOTICED = frozenset({Meaning.VICTIM, Meaning.BETWEEN})


@dataclass(frozen=True, slots=True)
class _Failure:
    """A worker that ended badly, at `time` of our clock, give or take `error`.

    `rank` is None for what ended all of a host's workers.
    """

    host: str
    rank: int | None
    end: End
    time: float
    error: float

    @property
    def weight(self) -> int:
        """What is rather a cause than a consequence comes first: nobody is killed for what another did."""
        passive = self.end.kind is EndKind.EXITED or self.end.signal in _PASSIVE_SIGNALS
        return 1 if passive and self.rank is not None else 0

    @property
    def is_victim(self) -> bool:
        """Whether it has only noticed the end of another, by its own words."""
        return self.weight == 1 and meaning_of(words_of(self.end)) in _NOTICED

    @property
    def is_vague(self) -> bool:
        """Whether nothing says that it failed by itself, and nothing that it did not."""
        return self.weight == 1 and meaning_of(words_of(self.end)) is None

    def cause(self, reporters: tuple[int, ...] = ()) -> Cause:
        return Cause(self.host, self.rank, self.end, self.time, reporters=reporters)


def cause_of(hosts: Hosts, now: float) -> Cause | None:
    """What made the run fail, as far as the hosts have told; None where nothing has failed.

    The times of different hosts are compared by our clock. Where two are nearer than the clocks are known,
    what ended by itself goes before what reports an error.
    """
    failures = [found for name, view in hosts.items() for found in _failures(name, view, now)]
    members = _members(hosts)
    alone = len(members) == 1  # whatever peer its log speaks of is none of the run's
    own: list[_Failure] = []
    victims: list[_Failure] = []
    for each in sorted(failures, key=lambda failure: failure.time):
        (victims if each.is_victim and not alone else own).append(each)
    reporters = tuple(each.rank for each in victims if each.rank is not None)
    if all(each.is_vague for each in own):
        certain = next(_restarted(hosts, now), None)
        certain = certain or (next(_accused(members, now), None) if failures else None)
        if certain is not None:
            return dataclasses.replace(certain, reporters=reporters)
    if own:
        return _first(own).cause(reporters)
    loss = None if was_stopped_by_hand(hosts) else next(_losses(hosts, now), None)
    if loss is not None or not victims:
        return loss and dataclasses.replace(loss, reporters=reporters)
    suspect = _suspect(hosts, members, victims, now)
    if suspect is not None:
        return dataclasses.replace(suspect, sure=False, reporters=reporters)
    return Cause("", None, victims[0].end, victims[0].time, sure=False, reporters=reporters)


def cause_of_hang(hang: Finding, now: float) -> Cause:
    """The cause of a run that is ended for it hangs: who is unlike the others, if anybody, and not for sure.

    `missing` of the end are all ranks that are named, its message is where they are.
    """
    phase = "" if hang.phase is None else hang.phase.value
    seconds = now - hang.since
    end = End(EndKind.HANG, now, phase=phase, message=hang.detail, missing=hang.ranks, seconds=seconds)
    return Cause(hang.host, hang.ranks[0] if len(hang.ranks) == 1 else None, end, now, sure=False)


def kind_of(cause: Cause) -> str:
    """The kind of failure, of `diagnosis.signatures.KINDS`, as far as the log of the one that failed tells;
    empty where it does not."""
    row, _ = telling_signature(words_of(cause.end))
    return "" if row is None or row.meaning is not Meaning.CULPRIT else row.kind


def first_failure(hosts: Hosts, now: float) -> Cause | None:
    """The failure that was the first to be seen, be it the cause or not: for it the others are stopped."""
    failures = [found for name, view in hosts.items() for found in _failures(name, view, now)]
    return _first(failures).cause() if failures else None


def refined(before: Cause | None, found: Cause | None) -> Cause | None:
    """The cause, when one was known `before` and the hosts now tell `found`.

    Hosts tell one after the other, so what was found from their words before is found again from more of
    them. What was no host's word stays, unless the lost host itself tells better.
    """
    if before is None or found is None:
        return before or found
    if before.end.kind is EndKind.HANG:  # who fails while it is being ended is no cause of it
        return found if found.sure and found.time < before.time else before
    if not before.sure or before.end.kind not in (EndKind.LOST, EndKind.NO_FIRST_STEP):
        return found
    is_earlier = found.end.kind is not EndKind.LOST and found.time < before.time
    return found if found.sure and (found.host == before.host or is_earlier) else before


def victims_of(hosts: Hosts, cause: Cause | None) -> tuple[int, ...]:
    """The ranks that ended because of the cause, in order."""
    if cause is None:
        return ()
    ranks = [rank for view in hosts.values() for rank in view.ranks()]
    ended = {rank.rank for rank in ranks if rank.state is not RankState.SUCCEEDED}
    return tuple(sorted(ended - {cause.rank}))


def tells_of_failure(view: HostView) -> bool:
    """Whether anything of this host can make a cause; where none does, there is none."""
    if view.lost:
        return True
    status = view.status
    if status is None:
        return False
    states = {rank.state for rank in status.everyone()}
    if RankState.FAILED in states or RankState.LOST in states:
        return True
    return RankState.STOPPED in states and _is_unasked(status.stop)


def was_stopped_by_hand(hosts: Hosts) -> bool:
    """Whether somebody has asked for the end, on any host."""
    stops = [view.status.stop for view in hosts.values() if view.status is not None]
    return any(stop is not None and stop.kind is StopKind.REQUESTED for stop in stops)


def words_of(end: End) -> tuple[str, ...]:
    """What its log says of who failed; an agent of an earlier version kept the last lines only."""
    return end.evidence or end.tail


def _failures(host: str, view: HostView, now: float) -> Iterator[_Failure]:
    """Every worker of a host that failed, and what ended all of them though nobody asked for it."""
    if view.status is None:
        return
    error = view.clock.error if view.clock is not None else math.inf
    failed = [rank for rank in view.status.everyone() if rank.state is RankState.FAILED]
    times = {rank.rank: our_time(view, rank.end, now) for rank in failed}
    first = view.status.failed_first
    for rank in failed:
        # Its supervisor saw which one was first, also where it found several ends at once.
        time = min(times.values()) if rank.rank == first else times[rank.rank]
        yield _Failure(host, rank.rank, rank.end or End(EndKind.DESCRIBED), time, error)
    stop = view.status.stop
    stopped = [rank for rank in view.status.ranks if rank.state is RankState.STOPPED]
    if stopped and not failed and _is_unasked(stop):
        time = min(our_time(view, rank.end, now) for rank in stopped)
        yield _Failure(host, None, End(EndKind.SUPERVISOR_ENDED, time, reason=stop), time, error)


def _is_unasked(stop: StopReason | None) -> bool:
    """Whether this ended the workers there first; a reason that names a host came from that one."""
    return stop is not None and stop.kind in UNASKED and not stop.host


def our_time(view: HostView, end: End | None, now: float) -> float:
    """When it ended, by our clock as far as the host's is known."""
    if end is None or end.time is None:
        return now
    return view.ours(end.time)


def _first(failures: Sequence[_Failure]) -> _Failure:
    """The earliest, or what ended by itself among those that may have been as early."""
    first = min(failures, key=lambda each: each.time)

    def may_be_as_early(each: _Failure) -> bool:
        error = 0.0 if each.host == first.host else each.error + first.error
        return each.time - first.time <= error

    near = [each for each in failures if may_be_as_early(each)]
    return min(near, key=lambda each: (each.weight, each.time, -2 if each.rank is None else each.rank))


def _restarted(hosts: Hosts, now: float) -> Iterator[Cause]:
    """Ranks that their own host lost: its supervisor is gone, without a word."""
    for name, view in hosts.items():
        lost = [rank for rank in (view.status.ranks if view.status else ()) if rank.state is RankState.LOST]
        if lost and not was_stopped_by_hand(hosts):
            yield Cause(name, lost[0].rank, lost[0].end or End(EndKind.LOST), view.last_contact or now)


def _losses(hosts: Hosts, now: float) -> Iterator[Cause]:
    for name, view in hosts.items():
        if view.lost:
            lost = [rank for rank in view.ranks() if rank.state is RankState.LOST]
            end = (lost[0].end if lost else None) or End(EndKind.LOST, message=view.error)
            yield Cause(name, lost[0].rank if lost else None, end, view.last_contact or now)


_NO_END = End(EndKind.DESCRIBED)


_Members = dict[int, tuple[str, HostView, RankStatus]]


def _members(hosts: Hosts) -> _Members:
    """Each rank with its host, and with what its host has last said of it."""
    return {
        rank.rank: (name, view, rank)
        for name, view in hosts.items()
        if view.status is not None
        for rank in view.status.everyone()
    }


def _accused(members: _Members, now: float) -> Iterator[Cause]:
    """Ranks that the scheduler no longer heard, and that did not end by themselves."""
    for _, view, speaker in members.values():
        lines = words_of(speaker.end) if speaker.end is not None else ()
        for accused in accused_by(lines):
            if accused == speaker.rank or accused not in members:
                continue
            name, _, rank = members[accused]
            if rank.state in (RankState.FAILED, RankState.SUCCEEDED):
                continue
            line = next(line for line in lines if accused in accused_by([line]))
            yield Cause(name, accused, _suspected(rank, line), our_time(view, speaker.end, now))


def _suspect(hosts: Hosts, members: _Members, victims: Sequence[_Failure], now: float) -> Cause | None:
    """Whom the evidence so far leads to; nobody where it does not lead to one rank."""
    # late: only where nobody failed by himself
    from orchestrator.control.case_so_far import case_of
    from orchestrator.diagnosis.judge import judge

    found = judge(case_of(hosts, now))
    if found.culprit is None or found.culprit.rank not in members:
        return None
    name, view, rank = members[found.culprit.rank]
    is_stopped = (
        rank.state is RankState.STOPPED and meaning_of(words_of(rank.end or _NO_END)) is Meaning.CULPRIT
    )
    time = our_time(view, rank.end, now) if is_stopped else victims[0].time
    return Cause(name, rank.rank, _suspected(rank, found.proofs[0].text if found.proofs else ""), time)


def _suspected(rank: RankStatus, line: str) -> End:
    """The end of a rank that others tell of, or that we brought about: what is said of it is the message."""
    end = rank.end or End(EndKind.LOST)
    return dataclasses.replace(end, kind=EndKind.LOST, message=line.strip(), reason=None)
