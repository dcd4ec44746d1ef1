"""What ranks tell of their phases, as a supervisor's decisions have it: no processes, a clock that is set."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.agent.status_feed import StatusFeed
from orchestrator.agent.supervisor_state import SupervisorState
from orchestrator.core.codec import DecodeError, from_json, to_json
from orchestrator.core.push import Change, Digest
from orchestrator.core.records import Manifest, Phase, ProcessId, RankStatus, StallKind, WorkerSpec

WALL = 1_000_000.0


class Host:
    """One rank whose metrics are looked at once a second."""

    def __init__(self) -> None:
        self.now = 100.0
        spec = WorkerSpec("rank_0", 0, 0, 0, ("x",))
        self.state = SupervisorState(Manifest("r", "j", "h", 0.0, (spec,)), self.now)
        self.state.start(self.now)
        self.state.started(0, ProcessId(10, 1, "b"), WALL + self.now)
        self.state.commit()

    @property
    def rank(self) -> RankStatus:
        return self.state.workers[0]

    def say(
        self, *lines: dict[str, Any], after: float = 1.0, letter: str = "S", switches: int | None = None
    ) -> None:
        """So many seconds later these lines are found."""
        for second in range(1, int(after) + 1):
            self.now += 1.0
            if second == int(after):
                self.state.report_lines(0, lines, self.now, WALL + self.now)
            self.state.report_process(0, letter, self.now, switches)
            self.state.tick(self.now, WALL + self.now)

    def line(self, **values: Any) -> dict[str, Any]:
        return {"time": WALL + self.now + 0.5, **values}

    def step(self, *numbers: int, every: float = 1.0) -> None:
        for number in numbers:
            self.say(self.line(step=number, total_steps=1000), after=every)


def test_phases_with_their_times_and_what_is_announced() -> None:
    host = Host()
    assert (host.rank.phase, host.rank.can) == (None, ())
    host.say(host.line(phase="import", can=["stacks"]))
    assert (host.rank.phase, host.rank.phase_since) == (Phase.IMPORT, WALL + 100.5)
    host.say(host.line(phase="compile", can=["stacks", "save"]))
    host.say(host.line(step=1), host.line(phase="save", step=1), host.line(phase="step", saved=1))
    assert (host.rank.phase, host.rank.can, host.rank.saved) == (Phase.STEP, ("stacks", "save"), 1)
    assert host.rank.progress["step"] == 1 and "phase" not in host.rank.progress


def test_a_phase_line_behind_it_does_not_hide_a_step() -> None:
    host = Host()
    host.say(host.line(step=7, loss=1.0), host.line(phase="save", step=7))
    assert host.rank.progress["loss"] == 1.0 and host.rank.phase is Phase.SAVE


def test_a_changed_phase_is_told_at_once_and_one_that_goes_on_is_not() -> None:
    host = Host()
    feed = StatusFeed(None, host.state.status(0.0))
    feed.subscribe("a", None, 2.0, 15.0, 0.0)
    feed.due("a", 0.0, 0.0)

    def told() -> list[object]:
        feed.observe(host.state.status(0.0))
        event = feed.due("a", 0.1, 0.0)
        return [] if not isinstance(event, Change) else [rank.phase for rank in event.ranks]

    host.say(host.line(phase="compile"))
    assert told() == [Phase.COMPILE]
    host.say(host.line(phase="compile"))
    assert told() == []
    host.say(host.line(phase="step"))
    assert told() == [Phase.STEP]
    for step in range(1, 4):
        host.say(host.line(phase="step", step=step))  # a program that says both in each line
        assert told() == []


@pytest.mark.parametrize("time", [None, "soon", 5.0, 1e14, -1.0], ids=repr)
def test_a_time_that_cannot_be_is_not_believed(time: object) -> None:
    host = Host()
    host.say({"phase": "save", "time": time})
    assert host.rank.phase_since == WALL + host.now


@pytest.mark.parametrize("phase", ["save", "evaluate", "compile"])
def test_who_makes_no_step_in_a_phase_without_steps_has_not_stalled(phase: str) -> None:
    host = Host()
    host.step(*range(1, 10))
    host.say(host.line(phase=phase))
    host.say(after=3600)
    assert host.rank.stalled is None
    host.say(letter="T")
    host.say(letter="T")
    assert host.rank.stalled is StallKind.STOPPED  # that counts at any time
    host.say(host.line(phase="step"))
    host.say(after=59)
    assert host.rank.stalled is None  # from now on it has as long as ever
    host.say(after=3)
    assert host.rank.stalled is StallKind.NO_STEP


def test_who_makes_steps_makes_steps_whatever_it_has_said() -> None:
    """The line of the step before a save may come late; two steps on it saves no more."""
    host = Host()
    host.step(1, 2, 3)
    host.say(host.line(phase="save"), host.line(step=4))
    assert host.rank.phase is Phase.SAVE
    host.step(5)
    assert host.rank.phase is Phase.STEP


def test_how_long_saves_take_is_learnt() -> None:
    host = Host()
    host.step(*range(1, 6))
    assert host.state.save_seconds is None
    began = host.now
    host.say({"phase": "save", "step": 5, "time": WALL + began + 0.25})
    host.say({"phase": "step", "saved": 5, "time": WALL + began + 30.75}, after=30)
    assert host.state.save_seconds == 30.5
    host.say({"phase": "save", "time": WALL + host.now}, {"phase": "evaluate", "time": WALL + host.now + 0.5})
    assert host.state.save_seconds == 0.5  # between two looks
    host.say({"phase": "save", "time": WALL + host.now})
    host.say({"phase": "step", "time": WALL + host.now - 5000}, after=10)  # its clock was set back
    assert host.state.save_seconds == pytest.approx(10.0, abs=1.5)


def test_a_save_behind_the_steps_takes_until_it_is_whole() -> None:
    """A stop waits for it: what held the steps up is not how long that takes."""
    host = Host()
    host.say(host.line(phase="step", can=["save"]))
    host.step(*range(1, 6))
    host.say(host.line(phase="save", step=5), host.line(phase="step"))
    assert host.rank.phase is Phase.STEP and host.rank.saved is None
    assert host.state.save_seconds is None, "nobody has seen it whole"
    host.step(6, 7, 8)
    host.say(host.line(phase="step", saved=5, stall_s=0.25, write_s=44.0))
    assert (host.rank.saved, host.rank.save_stall, host.rank.save_write) == (5, 0.25, 44.0)
    assert host.state.save_seconds == 44.0
    host.say(host.line(phase="save", step=9), host.line(phase="step"))
    assert host.state.save_seconds == 44.0


def test_a_checkpoint_that_becomes_whole_in_the_next_save_ends_no_phase() -> None:
    host = Host()
    host.say(host.line(phase="step", can=["save"]))
    host.step(1, 2, 3)
    host.say(host.line(phase="save", step=3))
    since = host.rank.phase_since
    host.say(host.line(phase="save", saved=2, stall_s=0.25, write_s=44.0), after=3)
    assert (host.rank.phase, host.rank.phase_since, host.rank.saved) == (Phase.SAVE, since, 2)


def test_long_saves_make_no_step_long() -> None:
    host = Host()
    for step in range(2, 40, 2):
        host.step(step, step + 1)
        host.say(host.line(phase="save"))
        host.say(host.line(phase="step"), after=30)
    assert host.state.step_seconds is not None and host.state.step_seconds < 3.0


def test_the_seconds_that_a_rank_computes_are_the_median_of_its_last_ten() -> None:
    host = Host()
    host.step(1, 2)
    assert host.state.compute == {}
    for step in range(3, 40):
        host.say(host.line(step=step, compute_s=100.0 if step < 30 else 0.1 * step))
    assert host.state.compute == {"0": pytest.approx(3.5)}
    feed = StatusFeed(None, host.state.status(0.0))
    feed.subscribe("a", None, 2.0, 15.0, 0.0)
    feed.due("a", 0.0, 0.0)
    host.step(40)
    feed.observe(host.state.status(0.0), host.state.step_seconds, host.state.compute)
    told = feed.due("a", 3.0, 0.0)
    assert isinstance(told, Digest) and told.compute == {"0": pytest.approx(3.5)}


def test_a_process_that_waits_for_its_disk_again_and_again_is_not_blocked() -> None:
    """Found waiting at each look, it has run in between; who has not is blocked after three seconds."""
    host = Host()
    host.step(1, 2)
    for switches in range(40):
        host.say(letter="D", switches=switches)
        assert host.rank.stalled is None
    host.say(letter="D", switches=39, after=2)
    assert host.rank.stalled is None
    host.say(letter="D", switches=39)
    assert host.rank.stalled is StallKind.BLOCKED
    host.say(letter="D", switches=40)
    assert host.rank.stalled is None


def test_what_our_wrapper_announces_comes_and_goes() -> None:
    host = Host()
    host.state.report_ability(0, "stacks", True)
    host.say(host.line(phase="compile", can=["save"]))
    assert host.rank.can == ("stacks", "save")
    host.state.report_ability(0, "stacks", False)
    assert host.rank.can == ("save",)


def test_whatever_is_written_there_is_bounded() -> None:
    host = Host()
    for number in range(200):
        host.say({"phase": "save", "step": number, "can": [f"w{number}_{each}" for each in range(50)]})
    assert len(host.rank.can) <= 16


def test_a_phase_of_a_later_version_is_none_here() -> None:
    told = to_json(RankStatus(0, 0, 0, phase=Phase.SAVE))
    assert from_json(RankStatus, told).phase is Phase.SAVE
    assert from_json(RankStatus, {**told, "phase": "profile"}).phase is None
    with pytest.raises(DecodeError):
        from_json(RankStatus, {**told, "phase": 7})


def test_the_seconds_of_all_saves_are_told_also_of_those_between_two_looks() -> None:
    host = Host()
    host.step(1)
    begun = WALL + host.now
    host.say(
        {"phase": "save", "step": 1, "time": begun + 0.1}, {"phase": "step", "saved": 1, "time": begun + 0.5}
    )
    assert host.rank.saving == pytest.approx(0.4)
    host.say({"phase": "save", "step": 2, "time": begun + 1.0})
    assert host.rank.saving == pytest.approx(0.4)  # it goes on
    host.say({"phase": "step", "saved": 2, "time": begun + 8.0}, after=10.0)
    assert host.rank.saving == pytest.approx(7.4)
