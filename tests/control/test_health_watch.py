"""The watch over health: hosts that push, are asked before a hang is told, and tell stacks or do not."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run_terms import Health, Timeouts
from orchestrator.control.health_findings import FindingKind
from orchestrator.control.run_record import RunRecord
from orchestrator.control.watch import Watch
from orchestrator.core.codec import to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import ConnectError
from orchestrator.core.host_answers import RankStacks, StacksAnswer
from orchestrator.core.push import Digest
from orchestrator.core.records import Phase, StallKind
from tests.control.judged import START, FakeHost, pass_time, rank, record, round_of
from tests.control.test_hang_stacks import READS, waits
from tests.hosts.push_host import Hands, HandScheduling, MemoryChannel, PushFleet


class Host(FakeHost):
    """One whose ranks make steps, and that tells stacks."""

    stacks: Mapping[str, RankStacks] | None = None
    asked_stacks = 0
    step = 0

    def _stacks(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        self.asked_stacks += 1
        if self.stacks is not None:
            self._reply(channel, number, to_json(StacksAnswer(self.stacks)))

    def steps(self, *, compute: Mapping[str, float] | None = None) -> None:
        self.step += 1
        numbers = {"step": self.step, "total_steps": 1000, "time": self.clock}
        first = self.said.ranks[0].rank
        told = Digest(self.sequence, self.clock, self.step, self.step, {}, 1.0, first, numbers, compute or {})
        self.push(told)


class Hung:
    """Two hosts of two ranks that have made steps for a minute, and then none."""

    def __init__(
        self, folder: Path, *, ends_hangs: bool = False, task: str = "pretrain", **rules: Any
    ) -> None:
        self.clock = Hands(START)
        ranks = [
            dataclasses.replace(rank(number), phase=Phase.STEP, phase_since=START) for number in range(4)
        ]
        if task == "pretrain":
            ranks = [rank(number) for number in range(4)]
        self.a, self.b = Host("a", *ranks[:2]), Host("b", *ranks[2:])
        for host in (self.a, self.b):
            host.hands = self.clock
        self.file = folder / "stacks.txt"
        fleet: Any = PushFleet(self.a, self.b)
        self.watch = Watch(
            record(self.a, self.b, task=task),
            fleet,
            Timeouts(unreachable=60.0, start=7200.0),
            scheduling=HandScheduling(self.clock),
            health=Health(**rules),
            stacks_file=self.file,
            ends_hangs=ends_hangs,
        )

    def steps(self, count: int, **more: Any) -> RunRecord:
        for _ in range(count):
            self.clock.passes(1.0)
            for host in (self.a, self.b):
                host.steps(**more)
            round_of(self.watch)
        return round_of(self.watch)

    def stands(self, seconds: float) -> RunRecord:
        return pass_time(self.clock, self.watch, seconds, step=1.0)


@pytest.fixture
def hung(tmp_path: Path) -> Any:
    found = Hung(tmp_path)
    yield found
    found.watch.close()


def kinds(run: RunRecord) -> list[FindingKind]:
    return [each.kind for each in run.health]


def test_a_hang_is_named_with_the_one_whose_stack_is_unlike_and_its_stacks_are_kept(hung: Hung) -> None:
    hung.a.stacks = {"0": waits(0), "1": waits(1)}
    hung.b.stacks = {"2": RankStacks("faulthandler", READS), "3": waits(3), "77": waits(9)}
    assert hung.steps(60).health == ()
    ended = hung.clock.wall
    run = hung.stands(66)
    (found,) = run.health
    assert (found.kind, found.ranks, found.host, found.detail) == (
        FindingKind.HANG,
        (2,),
        "b",
        "load_batch (data.py:41)",
    )
    assert found.since == pytest.approx(ended, abs=1.5) and found.seconds == pytest.approx(60, abs=2)
    assert (hung.a.asked_stacks, hung.b.asked_stacks) == (1, 1) and not hung.a.told
    text = hung.file.read_text()
    assert "3 ranks: 0-1,3" in text and "77" not in text.replace("0x", "")
    assert stat.S_IMODE(hung.file.stat().st_mode) == 0o600
    run = hung.steps(1)
    assert run.health == () and run.recovered[0].kind is FindingKind.HANG
    assert run.recovered[0].ended == pytest.approx(hung.clock.wall, abs=1)
    hung.stands(220)  # twice as long as before: it tells no phases
    assert hung.a.asked_stacks == 2  # once a hang


def test_where_the_others_wait_is_not_said_of_the_one_that_is_stopped(hung: Hung) -> None:
    hung.a.stacks = {"0": waits(0), "1": waits(1)}
    hung.b.stacks = {"2": RankStacks("kernel", "", "State:\tT (stopped)"), "3": waits(3)}
    hung.steps(60)
    hung.b.says(dataclasses.replace(rank(2), stalled=StallKind.STOPPED, stalled_since=START), rank(3))
    found = hung.stands(66).health[0]
    assert (found.kind, found.ranks, found.detail) == (FindingKind.HANG, (2,), "")


def test_a_host_that_tells_no_stacks_costs_nothing(hung: Hung) -> None:
    """It takes the question and says nothing; others refuse it."""
    hung.a.stacks = {"0": waits(0), "1": waits(1)}
    hung.steps(60)
    run = hung.stands(200)
    (found,) = run.health
    assert found.kind is FindingKind.HANG and found.detail == "all_reduce (collectives.py:17)"
    assert not any(view.error for view in run.hosts.values())
    assert "No stacks came from b." in hung.file.read_text()


def test_hosts_are_asked_before_a_hang_is_told(hung: Hung) -> None:
    hung.steps(60)
    hung.b.is_deaf = True  # the way to it is cut, and nobody knows yet
    run = hung.stands(64)
    assert run.health == ()
    run = hung.stands(20)
    assert run.health == () and run.hosts["b"].error
    hung.b.is_deaf = False
    run = hung.stands(30)
    assert not run.hosts["b"].error and run.health == ()
    run = hung.stands(70)
    assert kinds(run) == [FindingKind.HANG]


def test_who_cannot_be_reached_is_not_accused(hung: Hung) -> None:
    hung.steps(60)
    stopped = dataclasses.replace(rank(3), stalled=StallKind.STOPPED, stalled_since=START)
    hung.b.says(rank(2), stopped)
    assert [(each.kind, each.ranks) for each in round_of(hung.watch).health] == [(FindingKind.STOPPED, (3,))]
    hung.b.error = ConnectError("timed out", where="b")
    run = hung.stands(30)
    assert run.hosts["b"].error and run.health == ()


def test_a_monitor_that_slept_says_nothing_of_that_time(hung: Hung) -> None:
    hung.steps(60)
    hung.clock.passes(3600.0)
    assert round_of(hung.watch).health == ()
    assert hung.stands(50).health == ()
    assert kinds(hung.stands(20)) == [FindingKind.HANG]


def test_a_straggler_is_named_by_what_hosts_tell_of_its_own_computing(hung: Hung) -> None:
    for _ in range(30):
        hung.clock.passes(1.0)
        hung.a.steps(compute={"0": 1.0, "1": 1.0})
        hung.b.steps(compute={"2": 1.0, "3": 1.5})
        round_of(hung.watch)
    (found,) = round_of(hung.watch).health
    assert (found.kind, found.ranks, found.host, found.device) == (FindingKind.STRAGGLER, (3,), "b", 1)
    for _ in range(30):
        hung.clock.passes(1.0)
        hung.a.steps(compute={"0": 1.0, "1": 1.0})
        hung.b.steps(compute={"2": 1.0, "3": 1.0})
        round_of(hung.watch)
    assert round_of(hung.watch).health == ()


def test_a_run_that_is_being_ended_does_not_hang(hung: Hung) -> None:
    hung.steps(60)
    hung.watch.stop(StopReason.requested("enough"))
    assert hung.stands(300).health == ()


def test_health_can_be_off(tmp_path: Path) -> None:
    off = Hung(tmp_path, enabled=False)
    off.steps(60)
    assert off.stands(300).health == () and off.a.asked_stacks == 0
    off.watch.close()


@pytest.mark.parametrize(("task", "is_learnt"), [("mindformers", True), ("command", False)])
def test_a_pause_is_learnt_where_phases_are_read_from_a_log(
    tmp_path: Path, task: str, is_learnt: bool
) -> None:
    """Of an evaluation in training MindFormers' log does not tell when it begins."""
    hung = Hung(tmp_path, task=task)
    hung.a.stacks, hung.b.stacks = {"0": waits(0), "1": waits(1)}, {"2": waits(2), "3": waits(3)}
    hung.steps(60)
    assert kinds(hung.stands(80)) == [FindingKind.HANG]
    assert hung.steps(60).health == ()
    assert kinds(hung.stands(110)) == ([] if is_learnt else [FindingKind.HANG])
    hung.watch.close()


def test_the_pace_of_steps_is_in_the_record_and_not_written_anew_at_each(hung: Hung) -> None:
    before = hung.steps(30).step_interval
    assert before == pytest.approx(1.0, abs=0.3)
    assert hung.steps(30).step_interval == before


def test_judging_costs_by_change(hung: Hung) -> None:
    """While steps go on and nothing else is new nothing of a rank is looked at but what has come."""
    hung.steps(60)
    run = hung.watch.record
    for _ in range(20):
        hung.clock.passes(0.5)
        round_of(hung.watch)
    assert hung.watch.record.health is run.health and hung.watch.record.hosts is run.hosts
