"""What the hosts' records mean for the run: its state, the cause of a failure, and who died of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.control.run_record import Cause, HostView
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


def cause_of(hosts: Mapping[str, HostView], now: float) -> Cause | None:
    """The first failure: of the workers that ended badly the earliest; else a host that is lost."""
    failures = [
        (rank.ended or now, name, rank)
        for name, view in hosts.items()
        for rank in _broken(view)
        if rank.state is RankState.FAILED
    ]
    if failures:
        when, host, rank = min(failures, key=lambda item: (item[0], item[2].rank))
        return Cause(host, rank.label, describe_end(rank), when, rank.tail)
    for name, view in hosts.items():
        lost = [rank for rank in view.ranks() if rank.state is RankState.LOST]
        if view.lost or lost:
            what = view.error or (lost[0].reason if lost else "")
            return Cause(name, lost[0].label if lost else "", f"was lost: {what}", view.last_contact or now)
    return None


def victims_of(hosts: Mapping[str, HostView], cause: Cause | None) -> tuple[str, ...]:
    """The workers that ended because of the cause, in rank order."""
    if cause is None:
        return ()
    ranks = [(rank.rank, rank.label) for view in hosts.values() for rank in view.ranks()]
    ended = {
        rank.label
        for view in hosts.values()
        for rank in view.ranks()
        if rank.state is not RankState.SUCCEEDED and rank.label != cause.label
    }
    return tuple(label for _, label in sorted(ranks) if label in ended)


def describe_end(rank: RankStatus) -> str:
    """How a worker ended, for people."""
    if rank.signal is not None:
        return f"was killed by signal {rank.signal}"
    if rank.exit_code is not None and not rank.reason:
        return f"exited with code {rank.exit_code}"
    return f"failed: {rank.reason}" if rank.reason else "failed"


def _broken(view: HostView) -> Iterable[RankStatus]:
    scheduler = view.status.scheduler if view.status else None
    return (*view.ranks(), *([scheduler] if scheduler else []))
