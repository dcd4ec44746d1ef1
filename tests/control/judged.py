"""Hosts, their agents and a clock that a watch can be given instead of real ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from orchestrator.config.job import Timeouts
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.control.watch import Watch
from orchestrator.core.ends import SCHEDULER, End, EndKind, StopReason
from orchestrator.core.host_answers import Told
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState

START = 1000.0
KINDS = {"stopped": EndKind.STOPPED, "lost": EndKind.LOST}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def rank(number: int, state: str = "running", **fields: Any) -> RankStatus:
    """One rank of a host that has two."""
    end, others = end_of(state, fields)
    return RankStatus(number, number % 2, number % 2, RankState(state), end=end, **others)


def scheduler(state: str = "running", **fields: Any) -> RankStatus:
    end, others = end_of(state, fields)
    return RankStatus(SCHEDULER, -1, -1, RankState(state), end=end, **others)


def end_of(state: str, fields: Mapping[str, Any]) -> tuple[End | None, dict[str, Any]]:
    """The end that these fields make of a rank in this state, and the fields that are not of its end."""
    names = {field.name for field in dataclasses.fields(End)}
    fields = {{"ended": "time"}.get(name, name): value for name, value in fields.items()}
    ending = {name: value for name, value in fields.items() if name in names}
    others = {name: value for name, value in fields.items() if name not in names}
    if not RankState(state).is_terminal:
        return None, others
    kind = KINDS.get(state) or (EndKind.SIGNALLED if fields.get("signal") else EndKind.EXITED)
    return End(**{"kind": kind, **ending}), others


def status(host: str, *ranks: RankStatus, phase: str = "committed", **fields: Any) -> HostStatus:
    return HostStatus(run_id="r1", job="job", host=host, updated=START, ranks=ranks, phase=phase, **fields)


def view(host: str, *ranks: RankStatus, phase: str = "committed", **fields: Any) -> HostView:
    """A host that has just answered; `fields` are the view's."""
    return HostView(status=status(host, *ranks, phase=phase), **{"last_contact": START, **fields})


class FakeHost:
    """The agent of a host: it says `status`, or fails with `error`; `told` are the reasons of its stops."""

    def __init__(self, name: str, *ranks: RankStatus, **fields: Any) -> None:
        self.name = name
        self.error: Exception | None = None
        self.asked = 0
        self.told: list[StopReason] = []
        self.dropped = 0
        self.says(*ranks, **fields)

    def says(self, *ranks: RankStatus, **fields: Any) -> None:
        """What it answers from now on."""
        self.error = None
        self.said = status(self.name, *ranks, **fields)

    def status(self, run_id: str, *, world_size: int, timeout: float) -> HostStatus:
        assert run_id == "r1" and world_size % 2 == 0
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.said

    def stop(self, run_id: str, reason: StopReason, *, timeout: float) -> Told:
        assert run_id == "r1"
        self.told.append(reason)
        return Told("stopping")


class FakeFleet:
    """Agents of these hosts."""

    def __init__(self, *hosts: FakeHost) -> None:
        self._by_name = {host.name: host for host in hosts}
        self.hosts: Mapping[str, Any] = {name: SimpleNamespace(name=name) for name in self._by_name}

    def agent(self, name: str) -> FakeHost:
        return self._by_name[name]

    def drop(self, name: str) -> None:
        self._by_name[name].dropped += 1


def record(*hosts: FakeHost, task: str = "command", created: float = START) -> RunRecord:
    """A run of two ranks a host of which nothing is known yet."""
    return RunRecord(
        run_id="r1",
        job="job",
        task=task,
        world_size=2 * len(hosts),
        created=created,
        hosts={host.name: HostView() for host in hosts},
    )


def watch(clock: Clock, *hosts: FakeHost, task: str = "command", **timeouts: float) -> Watch:
    limits = Timeouts(**{"unreachable": 60.0, "lost": 600.0, "start": 600.0, "grace": 10.0, **timeouts})
    return Watch(record(*hosts, task=task), FakeFleet(*hosts), limits, clock=clock, steady=clock)  # type: ignore[arg-type]


def round_of(watch: Watch) -> RunRecord:
    """One round, with all the time that answers need."""
    return watch.step(patience=10.0)


def states(run: RunRecord) -> list[str]:
    return [str(item.state) for item in run.ranks()]


def pass_time(clock: Clock, watched: Watch, seconds: float, step: float = 5.0) -> RunRecord:
    """Rounds until so much time is over."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        round_of(watched)
    return watched.record
