"""What the hosts' records mean for the run: its state, the cause of a failure, and who died of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.control.run_record import Cause, HostView
from orchestrator.core.ends import End, EndKind
from orchestrator.core.records import RankStatus
from orchestrator.core.states import RankState, RunState, fold

__all__ = ["cause_of", "fold_run", "victims_of"]


def fold_run(hosts: Mapping[str, HostView], host_count: int, *, failed: bool) -> RunState:
    """The run's state. It ends only when every host's part has ended or is lost; until then it runs."""
    ranks = [rank for view in hosts.values() for rank in view.ranks()]
    state = fold(rank.state for rank in ranks)
    everyone_is_over = len(hosts) == host_count and all(
        view.lost or (view.status is not None and view.status.is_over) for view in hosts.values()
    )
    if everyone_is_over:
        return RunState.FAILED if failed else state
    return RunState.STARTING if state is RunState.STARTING else RunState.RUNNING


@dataclass(frozen=True, slots=True)
class _Failure:
    """A worker that ended badly, at `time` of our clock, give or take `error`."""

    host: str
    rank: RankStatus
    end: End
    time: float
    error: float

    @property
    def weight(self) -> int:
        """What is rather a cause than a consequence comes first.

        A peer that was lost shows itself as an exit with an error; nobody is killed by a signal, or cannot be
        started, for what another rank did.
        """
        return 0 if self.end.kind is not EndKind.EXITED else 1

    def cause(self) -> Cause:
        return Cause(self.host, self.rank.rank, self.end, self.time)


def cause_of(hosts: Mapping[str, HostView], now: float) -> Cause | None:
    """The first failure: of the workers that ended badly the earliest; else a host that is lost.

    The times of different hosts are compared by our clock. Where two are nearer than the clocks are known,
    what ended by itself goes before what reports an error.
    """
    failures = [found for name, view in hosts.items() for found in _first_failure(name, view, now)]
    if failures:
        first = min(failures, key=lambda failure: failure.time)
        near = [each for each in failures if each.time - first.time <= each.error + first.error]
        return min(near, key=lambda each: (each.weight, each.time, each.rank.rank)).cause()
    return next((cause for name, view in hosts.items() for cause in _loss(name, view, now)), None)


def victims_of(hosts: Mapping[str, HostView], cause: Cause | None) -> tuple[int, ...]:
    """The ranks that ended because of the cause, in order."""
    if cause is None:
        return ()
    ranks = [rank for view in hosts.values() for rank in view.ranks()]
    ended = {rank.rank for rank in ranks if rank.state is not RankState.SUCCEEDED}
    return tuple(sorted(ended - {cause.rank}))


def _first_failure(host: str, view: HostView, now: float) -> Iterator[_Failure]:
    """Of the workers of one host: its supervisor saw which one was first."""
    if view.status is None:
        return
    failed = [rank for rank in view.status.everyone() if rank.state is RankState.FAILED]
    if not failed:
        return
    offset, known_first = view.clock, view.status.failed_first
    ends = {rank.rank: rank.end or End(EndKind.DESCRIBED) for rank in failed}

    def time_of(rank: RankStatus) -> float:
        ended = ends[rank.rank].time
        return now if ended is None else ended if offset is None else offset.ours(ended)

    first = min(failed, key=lambda rank: (rank.rank != known_first, time_of(rank), rank.rank))
    yield _Failure(host, first, ends[first.rank], time_of(first), offset.error if offset else 0.0)


def _loss(host: str, view: HostView, now: float) -> Iterator[Cause]:
    lost = [rank for rank in view.ranks() if rank.state is RankState.LOST]
    if view.lost or lost:
        end = (lost[0].end if lost else None) or End(EndKind.LOST, message=view.error)
        yield Cause(host, lost[0].rank if lost else None, end, view.last_contact or now)
