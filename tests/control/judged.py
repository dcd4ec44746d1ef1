"""Hosts, their agents and a clock that a watch can be given instead of real ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.config.run_terms import Timeouts
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.control.watch import Watch
from orchestrator.core.ends import SCHEDULER, End, EndKind
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState
from tests.hosts.push_host import Hands, HandScheduling, PushFleet, PushHost

START = 1000.0
KINDS = {"stopped": EndKind.STOPPED, "lost": EndKind.LOST}


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


class FakeHost(PushHost):
    """A host of this run: what it says, in ranks."""

    def __init__(self, name: str, *ranks: RankStatus, **fields: Any) -> None:
        super().__init__(name, status(name, *ranks, **fields))

    def says(self, *ranks: RankStatus, **fields: Any) -> None:
        """What holds from now on; who watches is told."""
        self.tells(status(self.name, *ranks, **fields))


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


def watch(clock: Hands, *hosts: FakeHost, task: str = "command", **timeouts: float) -> Watch:
    for host in hosts:
        host.hands = clock
    limits = Timeouts(**{"unreachable": 60.0, "lost": 600.0, "start": 600.0, "grace": 10.0, **timeouts})
    fleet: Any = PushFleet(*hosts)
    return Watch(record(*hosts, task=task), fleet, limits, scheduling=HandScheduling(clock))


def round_of(watch: Watch) -> RunRecord:
    """One round: all that has been said is taken, and judged."""
    return watch.step(patience=10.0)


def states(run: RunRecord) -> list[str]:
    return [str(item.state) for item in run.ranks()]


def pass_time(clock: Hands, watched: Watch, seconds: float, step: float = 5.0) -> RunRecord:
    """Rounds until so much time is over; hosts that answer let hear of themselves."""
    end = clock.now + seconds
    while clock.now < end:
        clock.passes(step)
        round_of(watched)
    return watched.record
