"""Stopping a run: how often hosts are looked at, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.control.run_record import RunRecord, Waits
from orchestrator.control.stop import stop_everywhere
from orchestrator.control.stop_progress import MARGIN, StopProgress, saving_line, saving_seconds
from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.host_answers import Told
from orchestrator.core.records import HostStatus
from orchestrator.core.states import RankState
from orchestrator.hosts.scheduling import Pool, Scheduling, Signal
from tests.control.judged import rank, status
from tests.control.recorded import run_of, with_rank, with_view
from tests.control.test_monitor import ScriptedFleet, ScriptedHost

BECAUSE = StopReason.requested("because")


class Still(Scheduling):
    """Time passes only where somebody sleeps."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def signal(self) -> Signal:
        raise NotImplementedError

    def pool(self, workers: int) -> Pool:
        raise NotImplementedError


def host(name: str, number: int, is_over: Callable[[], bool], asked: list[str]) -> ScriptedHost:
    def look() -> HostStatus:
        asked.append(name)
        if is_over():
            return status(name, rank(number, "stopped"), phase="over")
        return status(name, rank(number), phase="stopping")

    return ScriptedHost(name, iter(lambda: look, None))


def stop(hosts: list[ScriptedHost], time: Still, seconds: float) -> dict[str, Any]:
    fleet: Any = ScriptedFleet(*hosts)
    return dict(stop_everywhere(fleet, "r1", BECAUSE, 10.0, time.now + seconds, time))


def test_hosts_that_take_long_are_looked_at_seldom() -> None:
    time, asked = Still(), list[str]()
    hosts = [host(f"n{number}", number, lambda: time.now > 1030, asked) for number in range(20)]
    assert stop(hosts, time, 60.0) == {}
    assert 1030 < time.now <= 1032 and len(asked) < 20 * 25  # five times a second: 3,000


def test_hosts_that_are_over_are_not_looked_at_again_and_those_that_end_at_once_are_seen_soon() -> None:
    time, asked = Still(), list[str]()
    hosts = [host("quick", 0, lambda: True, asked), host("slow", 1, lambda: time.now > 1000.3, asked)]
    assert stop(hosts, time, 60.0) == {} and time.now < 1000.6
    assert asked.count("quick") == 1


def test_the_time_of_each_host_begins_with_the_last_sign_of_progress() -> None:
    """Forty hosts, one after the other, take ten times as long as any of them is given."""
    time, asked = Still(), list[str]()
    hosts = [
        host(f"n{number}", number, lambda number=number: time.now > 1000 + 5 * number, asked)  # type: ignore[misc]
        for number in range(40)
    ]
    assert stop(hosts, time, 20.0) == {} and time.now > 1190
    stuck = [host("never", 0, lambda: False, asked)]
    begun = time.now
    assert [str(error) for error in stop(stuck, time, 20.0).values()] == [
        "never: workers still run after 10 s of grace"
    ]
    assert 20 <= time.now - begun < 23


# The progress of a stop that a monitor makes.


def over(record: RunRecord, name: str) -> RunRecord:
    said = record.hosts[name].status
    assert said is not None
    return with_view(record, name, status=replace(said, phase="over"))


def test_a_monitor_waits_until_all_hosts_are_over() -> None:
    record = run_of(2)
    progress = StopProgress(grace=2.0, patience=5.0, now=0.0)
    assert progress.note(record, 0.0) == [] and not progress.is_done(record)
    record = over(record, "h1")
    assert progress.note(record, 1.0) == ["h1"] and not progress.is_done(record)
    record = over(record, "h0")
    assert progress.note(record, 1.5) == ["h0"] and progress.is_done(record)
    assert progress.errors(record) == {}


def test_a_monitor_gives_up_so_long_after_the_last_sign_of_progress() -> None:
    record, limit = run_of(30), 2.0 + MARGIN
    progress = StopProgress(grace=2.0, patience=5.0, now=0.0)
    moment = 0.0
    for number in range(30):  # a busy host: each rank that ends is a sign
        moment += limit - 1
        record = with_rank(record, f"h{number}", state=RankState.STOPPED)
        progress.note(record, moment)
        assert not progress.is_done(record)
    progress.note(record, moment + limit - 0.1)
    assert not progress.is_done(record)
    progress.note(record, moment + limit)
    assert progress.is_done(record)
    error = progress.errors(record)["h3"]
    assert (str(error), error.exit_code) == (
        "h3: workers ran when it was last heard, and 2 s of grace are over",
        4,
    )


def test_a_host_that_says_nothing_of_the_stop_is_not_said_to_run() -> None:
    record = over(run_of(2), "h0")
    progress = StopProgress(grace=2.0, patience=5.0, now=0.0)
    progress.note(record, 0.0)
    progress.note(record, 2.0 + MARGIN)
    assert progress.is_done(record)
    error = progress.errors(record)["h1"]
    assert str(error) == f"h1: told to stop, it has said nothing of that within {2 + MARGIN:g} s"
    assert error.exit_code == 3


@pytest.mark.parametrize("since", [0.0, 3.0])
def test_a_host_that_is_not_reached_is_given_a_while_and_no_more(since: float) -> None:
    record = over(run_of(2), "h0")
    progress = StopProgress(grace=60.0, patience=5.0, now=0.0)
    progress.note(record, 0.0)
    deaf = with_view(record, "h1", error="h1: login refused", waits=Waits.LOGIN)
    progress.note(deaf, since)
    progress.note(deaf, since + 4.9)
    assert not progress.is_done(deaf)
    progress.note(record, since + 4.95)  # it answers again
    progress.note(deaf, since + 5.0)
    assert not progress.is_done(deaf)
    progress.note(deaf, since + 10.0)
    assert progress.is_done(deaf)
    error = progress.errors(deaf)["h1"]
    assert (str(error), error.exit_code) == ("h1: login refused", 3)


def test_a_host_that_has_nothing_of_the_run_is_over() -> None:
    record = with_view(over(run_of(2), "h0"), "h1", error="h1: nothing", lost=True, waits=Waits.NO_RUN)
    progress = StopProgress(grace=60.0, patience=5.0, now=0.0)
    assert progress.note(record, 0.0) == ["h0", "h1"] and progress.is_done(record)


# A stop at which ranks save.


def saving(record: RunRecord, name: str, grace: float) -> RunRecord:
    """The host ends its ranks, which have announced that they save then."""
    said = record.hosts[name].status
    assert said is not None
    ranks = tuple(replace(each, can=("save",)) for each in said.ranks)
    return with_view(
        record, name, status=replace(said, ranks=ranks, phase="stopping", stop=BECAUSE, grace=grace)
    )


def test_ranks_that_save_are_waited_for_as_long_as_their_host_gives_them() -> None:
    record = run_of(2)
    progress = StopProgress(grace=2.0, patience=5.0, now=0.0)
    progress.note(record, 0.0)
    assert progress.saving is None
    record = saving(saving(record, "h0", 300.0), "h1", 200.0)
    progress.note(record, 1.0)
    assert progress.saving == 300.0
    progress.note(record, 1.0 + 300.0 + MARGIN - 0.1)
    assert not progress.is_done(record)
    progress.note(record, 1.0 + 300.0 + MARGIN)
    assert progress.is_done(record)
    assert "300 s of grace are over" in str(progress.errors(record)["h0"])


def test_a_host_whose_ranks_do_not_save_gives_none_the_time_for_it() -> None:
    record = saving(run_of(1), "h0", 300.0)
    assert saving_seconds(record.hosts["h0"]) == 300.0
    said = record.hosts["h0"].status
    assert said is not None
    for other in (
        replace(said, phase="committed", stop=None),
        replace(said, stop=StopReason(StopKind.WORKER_FAILED, "h1", 3)),
        replace(said, ranks=tuple(replace(each, can=()) for each in said.ranks)),
        replace(said, ranks=tuple(replace(each, state=RankState.STOPPED) for each in said.ranks)),
    ):
        assert saving_seconds(replace(record.hosts["h0"], status=other)) is None


class SavingHost(ScriptedHost):
    """Its ranks save when it is told to stop."""

    def stop(self, run_id: str, reason: StopReason, **_: Any) -> Any:
        return Told("stopping", grace=100.0, saves=True)


def test_without_a_monitor_ranks_that_save_are_waited_for_too() -> None:
    time, asked, told = Still(), list[str](), list[float]()
    slow = host("slow", 0, lambda: time.now > 1090, asked)
    fleet: Any = ScriptedFleet(SavingHost("slow", slow.script))
    found = stop_everywhere(fleet, "r1", BECAUSE, 10.0, time.now + 30.0, time, saving=told.append)
    assert found == {} and told == [100.0]
    assert saving_line(100.0) == "saving a checkpoint: up to 100 s; --now ends it at once"
