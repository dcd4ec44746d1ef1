"""What is told to whom, and when: the feed of a supervisor's status, with a clock that the tests set."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random

import pytest

from orchestrator.agent.status_feed import StatusFeed
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.ends import End, EndKind, StopReason
from orchestrator.core.push import Beat, Change, Digest, Mark, Pushed, Snapshot
from orchestrator.core.records import HostStatus, ProcessId, RankStatus, StallKind
from orchestrator.core.states import RankState

ME = ProcessId(7, 8, "boot")
EVERY, BEAT = 2.0, 15.0


def status(*ranks: RankStatus, **changes: object) -> HostStatus:
    made = HostStatus("r", "j", "h", 0.0, ranks, phase="committed", supervisor=ME)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def running(rank: int, step: int | None = None, **changes: object) -> RankStatus:
    progress = {} if step is None else {"step": step, "loss": 1.0 / (step + 1), "time": float(step)}
    made = RankStatus(rank, rank, rank, RankState.RUNNING, progress=progress)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def ended(rank: int, step: int, code: int = 0) -> RankStatus:
    state = RankState.FAILED if code else RankState.SUCCEEDED
    return running(rank, step, state=state, end=End(EndKind.EXITED, 1.0, exit_code=code))


class World:
    """A feed of two ranks, and its time."""

    def __init__(self, *ranks: RankStatus) -> None:
        self.now = 1000.0
        self.feed = StatusFeed(ME, status(*(ranks or (running(0), running(1)))))

    def watch(self, key: str = "a", since: Mark | None = None) -> None:
        self.feed.subscribe(key, since, EVERY, BEAT, self.now)

    def hear(self, key: str = "a", after: float = 0.0) -> list[Pushed]:
        """All that is due to this one."""
        self.now += after
        found: list[Pushed] = []
        while (event := self.feed.due(key, self.now, self.now + 0.5)) is not None:
            found.append(event)
            assert len(found) < 10
        return found


class Reader:
    """What a control node makes of what it hears: the oracle to compare with."""

    def __init__(self) -> None:
        self.sequence = -1
        self.ranks: dict[int, RankStatus] = {}
        self.phase = ""
        self.steps: dict[int, int] = {}

    def take(self, event: Pushed) -> None:
        if isinstance(event, Snapshot):
            assert event.sequence > self.sequence
            self.ranks = {rank.rank: rank for rank in event.status.ranks}
            self.phase = event.status.phase
            self.steps = {rank: each.progress.get("step", 0) for rank, each in self.ranks.items()}
        elif isinstance(event, Change):
            assert event.sequence == self.sequence + 1, "a change that cannot be joined on"
            self.ranks.update({rank.rank: rank for rank in event.ranks})
            self.steps.update({rank.rank: rank.progress.get("step", 0) for rank in event.ranks})
            self.phase = event.phase
        else:
            assert event.sequence == self.sequence
        if isinstance(event, Digest):
            runs = [rank for rank, each in self.ranks.items() if each.state is RankState.RUNNING]
            self.steps.update({rank: event.steps.get(str(rank), event.high) for rank in runs})
            assert event.low == min(self.steps[rank] for rank in runs)
        self.sequence = event.sequence

    @property
    def mark(self) -> Mark | None:
        return None if self.sequence < 0 else Mark(ME, self.sequence)


def kinds(events: list[Pushed]) -> list[str]:
    return [event.EVENT for event in events]


def test_first_all_there_is_then_only_what_is_new() -> None:
    world = World()
    world.watch()
    (first,) = world.hear()
    assert isinstance(first, Snapshot) and first.supervisor == ME and first.clock == world.now + 0.5
    assert world.hear(after=1.0) == []
    assert world.feed.observe(status(running(0), ended(1, 4, code=3), phase="stopping", failed_first=1))
    (change,) = world.hear()
    assert isinstance(change, Change) and change.sequence == first.sequence + 1
    assert [rank.rank for rank in change.ranks] == [1] and change.ranks[0].progress["step"] == 4
    assert (change.phase, change.failed_first, change.scheduler) == ("stopping", 1, None)


def test_digests_come_so_often_and_only_for_steps() -> None:
    world = World()
    world.watch()
    world.hear()
    assert not world.feed.observe(status(running(0, 1), running(1)), None)
    (told,) = world.hear(after=EVERY)
    assert isinstance(told, Digest)
    assert (told.low, told.high, dict(told.steps), told.rank) == (0, 1, {"1": 0}, 0)
    assert told.numbers["loss"] == 0.5 and told.seconds is None
    assert world.hear(after=EVERY) == []  # no step since
    world.feed.observe(status(running(0, 2), running(1, 2)), 1.5)
    world.feed.observe(status(running(0, 3), running(1, 2)), 1.5)
    assert kinds(world.hear()) == ["digest"]
    world.feed.observe(status(running(0, 4), running(1, 4)), 1.5)
    assert world.hear(after=EVERY / 2) == []
    (told,) = world.hear(after=EVERY / 2)
    assert isinstance(told, Digest) and (told.low, told.high, dict(told.steps)) == (4, 4, {})
    assert told.seconds == 1.5


def test_of_a_pipeline_the_rank_tells_its_numbers_that_knows_the_loss() -> None:
    def rank(number: int, step: int, loss: float | None) -> RankStatus:
        progress = {"step": step, "time": float(step), **({} if loss is None else {"loss": loss})}
        return running(number, progress=progress)

    world = World()
    world.watch()
    world.hear()
    world.feed.observe(status(rank(0, 3, None), rank(1, 3, 2.5)), None)
    (told,) = world.hear(after=EVERY)
    assert isinstance(told, Digest) and (told.rank, told.numbers["loss"]) == (1, 2.5)


def test_a_beat_only_after_silence() -> None:
    world = World()
    world.watch()
    world.hear()
    assert world.feed.wait("a", world.now) == BEAT
    world.feed.observe(status(running(0, 1), running(1)))
    assert world.feed.wait("a", world.now) == EVERY
    assert kinds(world.hear(after=BEAT - 1.0)) == ["digest"]
    assert world.hear(after=BEAT - 1.0) == []
    assert kinds(world.hear(after=1.0)) == ["beat"]
    assert world.hear() == []


@pytest.mark.parametrize(
    ("since", "heard"),
    [
        (None, ["snapshot"]),
        (Mark(ME, 3), []),
        (Mark(ME, 2), ["change"]),
        (Mark(ME, 1), ["snapshot"]),
        (Mark(ME, 99), ["snapshot"]),
        (Mark(ME, -1), ["snapshot"]),
        (Mark(ProcessId(7, 8, "another boot"), 3), ["snapshot"]),
        (Mark(ProcessId(7, 9, "boot"), 3), ["snapshot"]),
    ],
    ids=["nothing", "newest", "last", "older", "of the future", "negative", "boot", "supervisor"],
)
def test_what_one_who_comes_back_is_told(since: Mark | None, heard: list[str]) -> None:
    world = World()
    for rank in range(3):
        world.feed.observe(status(running(0), running(1, stalled_since=float(rank + 1))))
    assert world.feed.sequence == 3
    world.watch(since=since)
    assert kinds(world.hear()) == heard
    assert world.hear() == []


def test_one_who_comes_back_with_the_newest_hears_of_the_steps_made_meanwhile() -> None:
    """No more may come: else it would take the last that it heard for the last there is."""
    world = World()
    world.feed.observe(status(running(0, 5), running(1, 5)))
    world.watch(since=Mark(ME, 0))
    (told,) = world.hear()
    assert isinstance(told, Digest) and told.high == 5
    assert world.hear(after=EVERY) == []


def test_a_stall_is_a_change_and_so_is_its_end() -> None:
    world = World()
    world.watch()
    world.hear()
    stuck = running(1, 1, stalled=StallKind.STOPPED, stalled_since=3.0)
    assert world.feed.observe(status(running(0, 1), stuck))
    assert world.feed.observe(status(running(0, 1), running(1, 1)))
    assert world.feed.sequence == 2


def test_a_burst_is_one_snapshot_for_who_was_not_there() -> None:
    """Nothing is kept for it meanwhile."""
    world = World()
    for key in ("a", "b"):
        world.watch(key)
        world.hear(key)
    reader, before = Reader(), len(pickle.dumps(world.feed))
    for number in range(10_000):
        world.feed.observe(status(running(0, number, stalled_since=float(number)), running(1)))
        if number == 0:
            assert kinds(world.hear("b")) == ["change"]
    (told,) = world.hear()
    assert isinstance(told, Snapshot) and told.sequence == 10_000
    reader.take(told)
    assert reader.steps[0] == 9_999
    assert len(pickle.dumps(world.feed)) < before + 500


def test_who_asks_again_hears_in_the_new_way() -> None:
    world = World()
    world.watch()
    world.hear()
    world.feed.subscribe("a", Mark(ME, 0), 0.5, 1.0, world.now)
    world.feed.observe(status(running(0, 1), running(1)))
    assert kinds(world.hear(after=0.5)) == ["digest"]
    assert kinds(world.hear(after=1.0)) == ["beat"]
    world.feed.unsubscribe("a")
    assert world.hear(after=100.0) == [] and world.feed.wait("a", world.now) is None


def test_nothing_a_program_writes_for_its_step_makes_a_digest_that_is_none() -> None:
    odd = [-1, 10**20, "7", None, True, [1]]
    world = World(*(running(rank) for rank in range(len(odd))))
    world.watch()
    world.hear()
    world.feed.observe(status(*(running(rank, progress={"step": step}) for rank, step in enumerate(odd))))
    (told,) = world.hear(after=EVERY)
    assert isinstance(told, Digest) and (told.low, told.high, dict(told.steps)) == (0, 0, {})


def test_every_event_goes_over_the_line_unchanged() -> None:
    world = World(running(0, 3), running(1))
    world.watch()
    events = world.hear()
    world.feed.observe(
        status(ended(0, 4, code=1), running(1), phase="stopping", stop=StopReason.requested("enough"))
    )
    events += world.hear()
    world.feed.observe(status(ended(0, 4, code=1), running(1, 9), phase="stopping"), 2.0)
    events += world.hear(after=EVERY) + world.hear(after=BEAT)
    assert {"snapshot", "change", "digest", "beat"} == set(kinds(events))
    for event in events:
        assert from_json(type(event), json.loads(json.dumps(to_json(event)))) == event


def changed(rank: RankStatus, chance: random.Random) -> RankStatus:
    stalled = chance.choice([None, StallKind.NO_STEP, StallKind.BLOCKED])
    state = RankState.FAILED if chance.random() < 0.1 else rank.state
    return dataclasses.replace(rank, stalled=stalled, state=state)


@pytest.mark.parametrize("seed", range(200))
def test_however_slow_and_broken_a_reader_knows_the_newest_in_the_end(seed: int) -> None:
    """It listens now and then, breaks off, comes back with what it has, or with nothing."""
    chance = random.Random(seed)
    world, reader = World(*(running(rank) for rank in range(4))), Reader()
    now = [running(rank) for rank in range(4)]
    world.watch()
    told = 0
    for _ in range(120):
        step = chance.choice(["step", "step", "change", "listen", "listen", "break", "forget", "time"])
        rank = chance.randrange(4)
        is_running = now[rank].state is RankState.RUNNING
        if step == "step" and is_running:
            made = int(now[rank].progress.get("step", 0)) + 1
            now[rank] = dataclasses.replace(now[rank], progress={"step": made})
        elif step == "change" and is_running:
            now[rank] = changed(now[rank], chance)
        elif step == "listen":
            for event in world.hear():
                reader.take(event)
                told += 1
        elif step == "break":
            world.watch(since=reader.mark)
        elif step == "forget":
            reader = Reader()
            world.watch()
        elif step == "time":
            world.now += chance.choice([0.1, EVERY, BEAT])
        world.feed.observe(status(*now))
        world.feed.observe(status(*now))  # seen twice is told once
    for event in world.hear(after=EVERY):
        reader.take(event)
    assert [reader.ranks[rank].state for rank in range(4)] == [each.state for each in now]
    assert [reader.ranks[rank].stalled for rank in range(4)] == [each.stalled for each in now]
    assert reader.steps == {each.rank: each.progress.get("step", 0) for each in now}
    assert reader.sequence == world.feed.sequence and told < 200
    assert not [event for event in world.hear() if not isinstance(event, Beat)]
