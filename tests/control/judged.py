"""Hosts, their agents and a clock that a watch can be given instead of real ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from orchestrator.config.job import Timeouts
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.control.watch import Watch
from orchestrator.core.host_answers import Told
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState

START = 1000.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def rank(number: int, state: str = "running", **fields: Any) -> RankStatus:
    """One rank of a host that has two."""
    known = {"label": f"rank_{number}", "local_rank": number % 2, "device_id": number % 2, **fields}
    return RankStatus(rank=number, state=RankState(state), **known)


def scheduler(state: str = "running", **fields: Any) -> RankStatus:
    return RankStatus(
        label="scheduler", rank=-1, local_rank=-1, device_id=-1, state=RankState(state), **fields
    )


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
        self.told: list[str] = []
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

    def stop(self, run_id: str, reason: str, *, timeout: float) -> Told:
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
    limits = Timeouts(**{"unreachable": 60.0, "start": 600.0, "grace": 10.0, **timeouts})
    return Watch(record(*hosts, task=task), FakeFleet(*hosts), limits, clock=clock)  # type: ignore[arg-type]


def round_of(watch: Watch) -> RunRecord:
    """One round, with all the time that answers need."""
    return watch.step(patience=10.0)
