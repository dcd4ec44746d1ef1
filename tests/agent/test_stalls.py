"""Who has stalled, as a supervisor's decisions have it: no processes, and a clock that the tests set."""

from __future__ import annotations

import pytest

from orchestrator.agent.step_pace import StepPace
from orchestrator.agent.supervisor_state import Exit, SupervisorState
from orchestrator.core.records import Manifest, ProcessId, RankStatus, StallKind, WorkerSpec

WALL = 1_000_000.0  # what the host's clock is ahead of the steady one


class Host:
    """Ranks that run, looked at once a second."""

    def __init__(self, ranks: int = 2) -> None:
        self.now = 100.0
        specs = tuple(WorkerSpec(f"rank_{rank}", rank, rank, rank, ("x",)) for rank in range(ranks))
        self.state = SupervisorState(Manifest("r", "j", "h", 0.0, specs), self.now)
        self.state.start(self.now)
        for rank in range(ranks):
            self.state.started(rank, ProcessId(rank + 10, 1, "b"), self.now)
        self.state.commit()
        self.letters = ["S"] * ranks
        self.steps = [0] * ranks

    def live(self, seconds: int, *, step_every: int = 0, stuck: tuple[int, ...] = ()) -> None:
        for second in range(1, seconds + 1):
            self.now += 1.0
            for rank, letter in enumerate(self.letters):
                if step_every and second % step_every == 0 and rank not in stuck:
                    self.steps[rank] += 1
                    line = {"step": self.steps[rank], "total_steps": 1000, "time": WALL + self.now}
                    self.state.report_progress(rank, line)
                self.state.report_process(rank, letter, self.now)
            self.state.tick(self.now, WALL + self.now)

    def rank(self, rank: int) -> RankStatus:
        return self.state.workers[rank]


def test_who_makes_no_step_for_a_minute_has_stalled_and_goes_on() -> None:
    host = Host()
    host.live(20, step_every=2)
    last = host.now
    host.live(60, step_every=2, stuck=(1,))
    assert [host.rank(rank).stalled for rank in (0, 1)] == [None, None]
    host.live(2, step_every=2, stuck=(1,))
    assert [host.rank(rank).stalled for rank in (0, 1)] == [None, StallKind.NO_STEP]
    assert host.rank(1).stalled_since == WALL + last
    host.live(100, step_every=2, stuck=(1,))
    assert host.rank(1).stalled_since == WALL + last
    host.live(2, step_every=2)
    assert (host.rank(1).stalled, host.rank(1).stalled_since) == (None, None)
    assert host.state.phase == "committed"  # nobody is ended for it


def test_steps_that_take_long_are_given_five_of_them() -> None:
    host = Host(1)
    host.live(200, step_every=40)
    host.live(195)
    assert host.rank(0).stalled is None and host.state.step_seconds == 40.0
    host.live(10)
    assert host.rank(0).stalled is StallKind.NO_STEP


def test_before_the_first_step_and_after_the_last_nothing_is_known() -> None:
    host = Host(1)
    host.live(1000)
    assert host.rank(0).stalled is None
    host.steps[0] = 999
    host.live(1, step_every=1)
    host.live(1000)
    assert host.rank(0).stalled is None


@pytest.mark.parametrize(
    ("letter", "kind", "looks"),
    [("T", StallKind.STOPPED, 2), ("t", StallKind.STOPPED, 2), ("D", StallKind.BLOCKED, 12)],
)
def test_a_process_that_is_held_up(letter: str, kind: StallKind, looks: int) -> None:
    """One that is stopped is so at two looks; whether one that waits runs in between nobody knows here."""
    host = Host()
    host.live(4, step_every=2)
    host.letters[1] = letter
    host.live(looks - 1)
    assert host.rank(1).stalled is None
    host.live(1)
    assert host.rank(1).stalled is kind and host.rank(0).stalled is None
    assert host.rank(1).stalled_since == WALL + host.now - looks + 1
    host.letters[1] = "R"
    host.live(1)
    assert host.rank(1).stalled is None


def test_a_process_that_waits_for_its_disk_now_and_then_has_not_stalled() -> None:
    host = Host(1)
    for letter in ("D" * 10 + "S") * 5:
        host.letters[0] = letter
        host.live(1)
        assert host.rank(0).stalled is None


def test_a_process_that_makes_steps_has_not_stalled_however_often_it_waits() -> None:
    host = Host(1)
    host.letters[0] = "D"
    host.live(100, step_every=8)
    assert host.rank(0).stalled is None


def test_who_ends_has_not_stalled() -> None:
    host = Host(1)
    host.live(10, step_every=1)
    host.live(100)
    assert host.rank(0).stalled is StallKind.NO_STEP
    host.state.exited([Exit(0, -9, WALL + host.now)], host.now)
    assert (host.rank(0).stalled, host.rank(0).stalled_since) == (None, None)


def test_a_supervisor_that_slept_begins_anew() -> None:
    host = Host(1)
    host.live(10, step_every=1)
    host.letters[0] = "T"
    host.live(1)
    host.now += 3600.0
    host.state.woke(host.now)
    host.live(1)
    assert host.rank(0).stalled is None
    host.live(1)
    assert host.rank(0).stalled is StallKind.STOPPED


def test_a_clock_that_jumps_makes_no_step_long_or_short() -> None:
    pace = StepPace()
    for step in range(1, 20):
        jumped = 1e6 if 7 < step < 12 else -500.0
        pace.note({"step": step, "time": 2.25 * step + jumped}, now=float(round(2.25 * step)))
    assert pace.median == 2.25


@pytest.mark.parametrize("time", [None, "soon", float("nan"), float("inf"), True, -1e300, 10**400])
def test_a_time_that_is_none_is_not_counted_with(time: object) -> None:
    pace = StepPace()
    for step in range(1, 6):
        pace.note({"step": step, "time": time}, now=3.0 * step)
    assert pace.median == 3.0


@pytest.mark.parametrize("step", [10**400, -1, "7", 1.5, None, [1]], ids=lambda step: str(step)[:9])
def test_a_step_that_is_none_is_not_counted_with(step: object) -> None:
    pace = StepPace()
    for now, each in enumerate([1, step, 2, step]):
        pace.note({"step": each}, now=float(now))
    assert pace.median == 2.0


def test_a_step_that_goes_back_is_a_new_beginning() -> None:
    """A worker of the user's that starts over from a checkpoint."""
    pace = StepPace()
    for now, step in enumerate([1, 2, 3, 2, 3, 4]):
        pace.note({"step": step}, now=10.0 * now)
    assert pace.median == 10.0 and pace.stalled_since(50.0 + 60.5) == 50.0
