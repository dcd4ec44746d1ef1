"""The tally of a run's hosts: how many ranks are in which state, kept as hosts change.

So what is judged of a run costs by what has changed, not by how many hosts it has. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.control.cause import tells_of_failure
from orchestrator.control.host_loss import step_of
from orchestrator.control.run_record import HostView
from orchestrator.core.ends import StopKind
from orchestrator.core.states import RankState, RunState, fold

__all__ = ["RunTally", "fold_run"]


_RUNS = ("started", "committed")


@dataclass(frozen=True, slots=True)
class _Part:
    """What one host adds."""

    states: Mapping[RankState, int]
    is_over: bool
    is_finished: bool
    is_unheard: bool
    answers: bool
    reports_steps: bool
    without_step: int
    is_notable: bool
    by_hand: bool
    stopped_apart: bool
    runs: bool
    saved: int | None

    @classmethod
    def of(cls, view: HostView) -> _Part:
        ranks = view.ranks()
        stop = view.status.stop if view.status is not None else None
        states: dict[RankState, int] = {}
        for rank in ranks:
            states[rank.state] = states.get(rank.state, 0) + 1
        is_seen = not view.error
        running = [rank for rank in ranks if not rank.state.is_terminal] if is_seen else []
        return cls(
            states=states,
            is_over=view.is_over,
            is_finished=view.lost or view.is_over,
            is_unheard=is_seen and view.status is None and not view.lost,
            answers=is_seen and view.status is not None and not view.is_over,
            reports_steps=any(step_of(rank) is not None for rank in running),
            without_step=sum(not rank.progress for rank in running),
            is_notable=tells_of_failure(view),
            by_hand=stop is not None and stop.kind is StopKind.REQUESTED,
            stopped_apart=stop is not None and RankState.STOPPED in states,
            runs=is_seen and view.status is not None and view.status.phase in _RUNS,
            saved=_saved_step(view),
        )


def _saved_step(view: HostView) -> int | None:
    """The newest step of which every rank of a host has saved its shard; where copies are made, of which the
    copies are there, too: what is kept is what can be gone on from without the host."""
    saved = [rank.saved for rank in view.ranks()]
    copies = view.status.copies if view.status is not None else None
    if copies is not None:
        saved.append(copies.step)
    steps = [step for step in saved if step is not None]
    return min(steps, default=None) if len(steps) == len(saved) else None


class RunTally:
    """Of all hosts of a run; `update` is told of each host that has changed.

    `notable` are the hosts that tell of a failure, `running` those that answer and whose workers run,
    `stopped_apart` those whose workers somebody has stopped. `without_step` ranks run and have made none.
    """

    def __init__(self, hosts: Mapping[str, HostView]) -> None:
        self._parts: dict[str, _Part] = {}
        self.states: Counter[RankState] = Counter()
        self.over = self.finished = self.answering = self.reporting = self.without_step = self.by_hand = 0
        self.unheard = 0
        self.notable: dict[str, None] = {}
        self.stopped_apart: dict[str, None] = {}
        self.running: dict[str, None] = {}
        self._saved: dict[str, int] = {}
        for name, view in hosts.items():
            self.update(name, view)

    def update(self, name: str, view: HostView) -> bool:
        """Whether that makes any difference here."""
        part = _Part.of(view)
        before = self._parts.get(name)
        if before == part:
            return False
        self._parts[name] = part
        if before is not None:
            self._add(before, -1)
        self._add(part, 1)
        _put(self.notable, name, part.is_notable)
        _put(self.stopped_apart, name, part.stopped_apart)
        _put(self.running, name, part.runs)
        self._saved.pop(name, None)
        if part.saved is not None:
            self._saved[name] = part.saved
        return True

    def has_steps(self, name: str) -> bool:
        """Whether every rank that runs there has made a step, so that one more makes no difference here."""
        part = self._parts.get(name)
        return part is not None and part.reports_steps and not part.without_step

    @property
    def hosts(self) -> int:
        return len(self._parts)

    @property
    def asked(self) -> int:
        """The hosts that are not over."""
        return len(self._parts) - self.over

    @property
    def ranks(self) -> int:
        """How many ranks are known of."""
        return self.states.total()

    def saved_step(self, host_count: int) -> int | None:
        """The newest step of which every rank of so many hosts has saved its shard; None: there is none."""
        return min(self._saved.values()) if len(self._saved) == host_count > 0 else None

    def state(self, host_count: int, *, failed: bool) -> RunState:
        """The run's state. It ends only when every host's part has ended or is lost; until then it runs.

        It starts until every host has told of its ranks, or cannot be asked.
        """
        present = {state for state, count in self.states.items() if count}
        if self.by_hand and RankState.LOST in present:
            # That a host went away while all were being stopped makes no failure of it.
            present = present - {RankState.LOST} | {RankState.STOPPED}
        state = fold(present)
        if self.hosts == host_count == self.finished:
            return RunState.FAILED if failed else state
        is_starting = state is RunState.STARTING or (self.unheard > 0 and not self.finished)
        return RunState.STARTING if is_starting else RunState.RUNNING

    def _add(self, part: _Part, sign: int) -> None:
        for state, count in part.states.items():
            self.states[state] += sign * count
        self.over += sign * part.is_over
        self.finished += sign * part.is_finished
        self.unheard += sign * part.is_unheard
        self.answering += sign * part.answers
        self.reporting += sign * part.reports_steps
        self.without_step += sign * part.without_step
        self.by_hand += sign * part.by_hand


def fold_run(hosts: Mapping[str, HostView], host_count: int, *, failed: bool) -> RunState:
    """The state of a run of so many hosts."""
    return RunTally(hosts).state(host_count, failed=failed)


def _put(names: dict[str, None], name: str, belongs: bool) -> None:
    if belongs:
        names[name] = None
    else:
        names.pop(name, None)
