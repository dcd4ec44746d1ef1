"""Hangs, silent ranks and none of it: what is said of ranks by what hosts tell of their steps and phases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.agent.mindformers_lines import EVALUATES
from orchestrator.config.run_terms import Health
from orchestrator.control.health import RunHealth
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.step_limits import StepLimits
from orchestrator.core.records import Phase, RankStatus, StallKind
from orchestrator.core.states import RankState

WALL = 1_000_000.0  # by which the wall clock is ahead of the steady one
EVERY = 2.0  # hosts tell of their steps


class Ranks:
    """Four ranks on two hosts, and who judges them; `now` is of a steady clock, in seconds."""

    def __init__(
        self,
        *,
        trains: bool = True,
        tells_all: bool = True,
        world: int = 4,
        per_host: int = 2,
        **rules: Any,
    ) -> None:
        self.now = 0.0
        limits = StepLimits(Health(**rules), EVERY, tells_all=tells_all)
        self.health = RunHealth(Health(**rules), limits, trains=trains, now=0.0)
        self.world, self.per_host = world, per_host
        self.ranks = {n: RankStatus(n, n % per_host, n % per_host, RankState.RUNNING) for n in range(world)}
        self.silent: set[str] = set()  # hosts that answer nothing
        self.ahead: dict[str, float] = {}
        self.found: tuple[Finding, ...] = ()
        self.first: dict[FindingKind, float] = {}
        self.tell()

    def host(self, rank: int) -> str:
        return f"h{rank // self.per_host}"

    def set(self, *ranks: int, **fields: Any) -> None:
        for rank in ranks or self.ranks:
            self.ranks[rank] = dataclasses.replace(self.ranks[rank], **fields)

    def phase(self, phase: Phase | None, *ranks: int) -> None:
        for rank in ranks or self.ranks:
            since = WALL + self.now + self.ahead.get(self.host(rank), 0.0)
            self.set(rank, phase=phase, phase_since=since)

    def step(self, step: int, *ranks: int, total: int = 10_000) -> None:
        for rank in ranks or self.ranks:
            written = WALL + self.now + self.ahead.get(self.host(rank), 0.0)
            self.set(rank, progress={"step": step, "total_steps": total, "time": written})

    def tell(self) -> None:
        for rank in range(0, self.world, self.per_host):
            if (host := self.host(rank)) not in self.silent:
                own = [self.ranks[each] for each in range(rank, rank + self.per_host)]
                self.health.heard(host, own, self.now, offset=self.ahead.get(host, 0.0))

    def passes(self, seconds: float, does: Callable[[], None] = lambda: None, *, tick: float = 1.0) -> None:
        """Time in which `does` happens once a tick; what is due is judged, and hosts answer what is asked."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + tick)
            does()
            self.tell()
            self.judge()

    def judge(self) -> None:
        for _ in range(3):
            self.found = self.health.judge(self.now, WALL + self.now)
            asked = self.health.to_ask()
            for host in asked:
                if host not in self.silent:
                    self.health.answered(host)
            if not asked:
                break
        for each in self.found:
            self.first.setdefault(each.kind, self.now)

    def steps(self, seconds: float, each: float = 1.0, *ranks: int, lines: int = 1) -> None:
        """All of these ranks make steps, of which they tell one in `lines`."""
        begun, start = self.now, max((r.progress.get("step", 0) for r in self.ranks.values()), default=0)

        def does() -> None:
            made = start + int((self.now - begun) / each + 1e-9)
            told = made // lines * lines
            if told > 0:
                self.step(told, *ranks)

        self.passes(seconds, does)

    @property
    def kinds(self) -> list[str]:
        return [str(each.kind) for each in self.found]


def hang_of(ranks: Ranks) -> Finding:
    (found,) = (each for each in ranks.found if each.kind is FindingKind.HANG)
    return found


# Hangs.


def test_a_run_that_goes_on_is_well() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(600)
    assert ranks.first == {} and ranks.health.due() > ranks.now


def test_no_step_of_anybody_for_the_floor_is_a_hang_since_the_last_step() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.passes(59)
    assert ranks.found == ()
    ranks.passes(2)
    found = hang_of(ranks)
    assert ranks.first[FindingKind.HANG] <= 100 + 60 + 1
    assert found.since == pytest.approx(WALL + 100, abs=1) and found.ranks == () and found.phases


def test_a_hang_is_taken_back_by_one_new_step() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.passes(100)
    assert ranks.kinds == ["hang"]
    ranks.step(101, 3)
    ranks.passes(1)
    assert ranks.found == ()
    (ended,) = ranks.health.taken_back()
    assert ended.kind is FindingKind.HANG and ranks.health.taken_back() == []
    ranks.steps(30)
    ranks.passes(70)
    assert ranks.kinds == ["hang"]  # another one


@pytest.mark.parametrize(
    ("step", "limit"), [pytest.param(2.0, 60, id="floor"), pytest.param(30.0, 150, id="five steps")]
)
def test_the_limit_is_of_the_median_step(step: float, limit: float) -> None:
    ranks = Ranks()
    ranks.steps(20 * step, step)
    ended = ranks.now
    ranks.passes(limit + 10)
    assert ranks.first[FindingKind.HANG] - ended == pytest.approx(limit, abs=3)


def test_one_slow_step_does_not_move_the_median() -> None:
    ranks = Ranks()
    ranks.steps(50)
    ranks.passes(50)
    ranks.steps(50)
    ended = ranks.now
    ranks.passes(70)
    assert ranks.first[FindingKind.HANG] - ended == pytest.approx(60, abs=3)


def test_a_line_in_a_hundred_steps_is_no_hang() -> None:
    """MindFormers' sink mode: steps of 2 s, told each 200 s. What is learnt is the time between lines."""
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(3000, 2.0, lines=100)
    assert ranks.first == {}
    ended = ranks.now
    ranks.passes(1100)
    assert ranks.first[FindingKind.HANG] - ended == pytest.approx(1000, abs=5)


def test_before_the_pace_is_known_a_step_has_the_first_limit() -> None:
    ranks = Ranks()
    ranks.step(1)
    ranks.passes(1700)
    assert ranks.first == {}
    ranks.passes(200)
    assert ranks.kinds == ["hang"]


@pytest.mark.parametrize("phase", [Phase.IMPORT, Phase.INIT, Phase.COMPILE])
def test_before_the_first_step_each_phase_has_the_first_limit(phase: Phase) -> None:
    ranks = Ranks()
    ranks.passes(1000)
    ranks.phase(phase)
    ranks.passes(1700)
    assert ranks.first == {}
    ranks.passes(200)
    assert hang_of(ranks).phase is phase


@pytest.mark.parametrize("phase", [Phase.SAVE, Phase.EVALUATE, Phase.COMPILE])
def test_the_first_of_its_kind_has_the_first_limit_and_the_next_is_as_the_last(phase: Phase) -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.phase(phase)
    ranks.passes(300)
    assert ranks.first == {}
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.phase(phase)
    began = ranks.now
    ranks.passes(590)
    assert ranks.first == {}
    ranks.passes(20)
    found = hang_of(ranks)
    assert found.phase is phase and ranks.first[FindingKind.HANG] - began == pytest.approx(600, abs=3)
    ranks.phase(Phase.STEP)
    ranks.passes(1)
    assert ranks.found == () and len(ranks.health.taken_back()) == 1


def test_after_a_long_save_steps_have_twice_its_time() -> None:
    """As the rule has it: a program may save without telling, and no step is made meanwhile."""
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.phase(Phase.SAVE)
    ranks.passes(100)
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ended = ranks.now
    ranks.passes(210)
    assert ranks.first[FindingKind.HANG] - ended == pytest.approx(200, abs=3)


def test_a_short_save_has_the_floor() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    for _ in range(2):
        ranks.steps(20)
        ranks.phase(Phase.SAVE)
        ranks.passes(3)
        ranks.phase(Phase.STEP)
    ranks.steps(20)
    ranks.phase(Phase.SAVE)
    ranks.passes(58)
    assert ranks.first == {}
    ranks.passes(5)
    assert ranks.kinds == ["hang"]


def test_a_save_at_the_end_is_waited_for_as_long_as_those_behind_the_steps_took() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.set(can=("save",))
    ranks.steps(20)
    ranks.phase(Phase.SAVE)
    ranks.passes(1)
    ranks.phase(Phase.STEP)
    ranks.steps(20)
    ranks.phase(Phase.SAVE)  # and nobody has seen one become whole
    ranks.passes(1700)
    assert ranks.first == {}
    ranks.set(saved=20, save_stall=1.0, save_write=400.0)
    ranks.phase(Phase.STEP)
    ranks.steps(20)
    ranks.phase(Phase.SAVE)
    began = ranks.now
    ranks.passes(4000)
    assert ranks.first[FindingKind.HANG] - began == pytest.approx(2 * 1700, abs=3)


def test_a_short_stall_with_a_long_write_lets_no_steps_be_silent() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.set(can=("save",), saved=1, save_stall=1.0, save_write=400.0)
    for _ in range(2):
        ranks.steps(20)
        ranks.phase(Phase.SAVE)
        ranks.passes(1)
        ranks.phase(Phase.STEP)
    ranks.steps(20)
    ended = ranks.now
    ranks.passes(100)
    assert ranks.first[FindingKind.HANG] - ended == pytest.approx(60, abs=3)


def test_of_a_save_the_write_counts_and_what_a_host_says_of_it_is_bounded() -> None:
    for told, limit in ((400.0, 800.0), (9e5, 3600.0)):
        ranks = Ranks()
        ranks.phase(Phase.STEP)
        ranks.set(can=("save",), saved=1, save_stall=1.0, save_write=told)
        ranks.steps(20)
        ranks.phase(Phase.SAVE)
        ranks.passes(1)
        ranks.phase(Phase.STEP)
        ranks.steps(20)
        ranks.phase(Phase.SAVE)
        began = ranks.now
        ranks.passes(4000)
        assert ranks.first[FindingKind.HANG] - began == pytest.approx(limit, abs=3)


def test_the_others_wait_as_long_as_the_one_that_saves() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.phase(Phase.SAVE, 0)
    ranks.passes(1700)
    assert ranks.first == {}
    ranks.passes(200)
    found = hang_of(ranks)
    assert (found.ranks, found.host, found.device, found.phase) == ((0,), "h0", 0, Phase.SAVE)


def test_the_longest_save_of_all_ranks_is_the_last_save() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(50)
    ranks.phase(Phase.SAVE)
    ranks.passes(10)
    ranks.phase(Phase.STEP, 0, 1, 2)
    ranks.passes(190)
    ranks.phase(Phase.STEP, 3)
    ranks.steps(50)
    ranks.phase(Phase.SAVE)
    ranks.passes(390)
    assert ranks.first == {}
    ranks.passes(20)
    assert ranks.kinds == ["hang"]


def test_who_comes_in_the_middle_of_a_save_learns_its_length_from_the_host() -> None:
    """A new monitor; and a host whose clock is an hour ahead."""
    ranks = Ranks()
    ranks.ahead["h1"] = 3600.0
    ranks.steps(1)
    for rank in ranks.ranks:
        ahead = ranks.ahead.get(ranks.host(rank), 0.0)
        ranks.set(rank, phase=Phase.SAVE, phase_since=WALL + ahead - 200.0)
    ranks.passes(10)
    ranks.phase(Phase.STEP)
    ranks.steps(50)
    ranks.phase(Phase.SAVE)
    ranks.passes(400)
    assert ranks.first == {}
    ranks.passes(40)
    assert ranks.kinds == ["hang"]


def test_a_clock_that_is_set_in_a_save_makes_it_no_longer() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(50)
    ranks.phase(Phase.SAVE)
    ranks.passes(40)
    ranks.ahead = {"h0": -500.0, "h1": 90_000.0}
    ranks.phase(Phase.STEP)
    ranks.steps(50)
    ranks.phase(Phase.SAVE)
    ranks.passes(75)
    assert ranks.first == {}
    ranks.passes(10)
    assert ranks.kinds == ["hang"]


def test_a_save_of_one_that_makes_steps_holds_up_nobody() -> None:
    """Written in the background: its phase says nothing of steps."""
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(50)
    ranks.phase(Phase.SAVE)
    ranks.steps(50)
    ended = ranks.now
    ranks.passes(70)
    assert ranks.first[FindingKind.HANG] - ended == pytest.approx(60, abs=3)


def test_workers_that_tell_no_phases_are_learnt_from() -> None:
    """The first save is taken for a hang, and told as what may be one; the next one is known."""
    ranks = Ranks(trains=False)
    ranks.steps(100)
    ranks.passes(90)
    assert ranks.kinds == ["hang"] and not hang_of(ranks).phases
    ranks.steps(100)
    ranks.first.clear()
    ranks.passes(170)
    assert ranks.first == {}


def test_who_has_made_the_last_step_has_time_to_end() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.step(200, total=200)
    ranks.passes(900)
    ranks.phase(Phase.SAVE)
    ranks.passes(900)
    assert ranks.first == {}


def test_where_nobody_reports_steps_nothing_is_said_of_steps() -> None:
    ranks = Ranks(trains=False)
    ranks.passes(10_000, tick=10)
    assert ranks.first == {} and ranks.health.due() == math.inf


def test_ranks_that_have_ended_are_no_hang() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.set(state=RankState.SUCCEEDED)
    ranks.passes(3000, tick=5)
    assert ranks.first == {}


# Who is why.


def test_a_rank_that_is_behind_in_steps_is_suspect() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.step(101, 0, 1, 3)
    ranks.passes(62)
    found = hang_of(ranks)
    assert (found.ranks, found.host, found.device) == ((2,), "h1", 0)


def test_one_that_is_stopped_is_named_at_once_and_is_the_suspect() -> None:
    ranks = Ranks()
    ranks.ahead["h1"] = 100.0
    ranks.steps(100)
    ranks.set(3, stalled=StallKind.STOPPED, stalled_since=WALL + 100 + 100.0)
    ranks.passes(1)
    (found,) = ranks.found
    assert (found.kind, found.ranks, found.host, found.device) == (FindingKind.STOPPED, (3,), "h1", 1)
    assert found.since == WALL + 100
    ranks.passes(61)
    assert ranks.kinds == ["hang", "stopped"] and hang_of(ranks).ranks == (3,)
    ranks.set(3, stalled=None, stalled_since=None)
    ranks.steps(2)
    assert ranks.found == ()


def test_those_that_are_blocked_on_a_host_are_one_finding() -> None:
    ranks = Ranks()
    ranks.set(0, 1, stalled=StallKind.BLOCKED, stalled_since=WALL + 5)
    ranks.passes(1)
    (found,) = ranks.found
    assert (found.kind, found.ranks, found.host, found.device) == (FindingKind.BLOCKED, (0, 1), "h0", None)


def test_that_its_supervisor_saw_no_step_is_no_finding() -> None:
    """It cannot know how seldom lines come, or that all wait for a save."""
    ranks = Ranks()
    ranks.set(2, stalled=StallKind.NO_STEP, stalled_since=WALL)
    ranks.passes(10)
    assert ranks.found == ()


def test_where_half_do_something_else_nobody_is_suspect() -> None:
    ranks = Ranks(first=100.0)
    ranks.phase(Phase.SAVE, 0, 1)
    ranks.phase(Phase.EVALUATE, 2, 3)
    ranks.passes(110)
    assert hang_of(ranks).ranks == ()


def test_stacks_name_the_suspect_of_a_hang() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.passes(62)
    ranks.health.suspect((2,), "load (data.py:8)")
    ranks.passes(1)
    found = hang_of(ranks)
    assert (found.ranks, found.host, found.device, found.detail) == ((2,), "h1", 0, "load (data.py:8)")
    ranks.health.suspect((), "all_reduce (comm.py:1)")
    ranks.passes(1)
    assert hang_of(ranks).ranks == (2,)


# One is silent.


def test_one_that_makes_no_steps_while_others_do_is_named_and_no_hang() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.steps(59, 1.0, 0, 1, 3)
    assert ranks.found == ()
    ranks.steps(8, 1.0, 0, 1, 3)
    (found,) = ranks.found
    assert (found.kind, found.ranks, found.host) == (FindingKind.SILENT, (2,), "h1")
    assert found.since == pytest.approx(WALL + 100, abs=2)
    ranks.steps(10)
    assert ranks.found == ()


def test_ranks_that_never_report_are_not_silent() -> None:
    """Only one of a gang writes metrics."""
    ranks = Ranks()
    ranks.steps(1000, 1.0, 0)
    assert ranks.first == {}


def test_ranks_that_tell_of_their_steps_more_seldom_than_others_are_not_silent() -> None:
    """The first of a gang writes a line at each step, the others one in a hundred."""
    ranks = Ranks()
    for hundred in range(1, 6):
        ranks.step(100 * (hundred - 1), 1, 2, 3)
        for step in range(100):
            ranks.step(100 * (hundred - 1) + step, 0)
            ranks.passes(3.0)
    assert ranks.first == {}
    # One whose line then does not come is late by what lies between two of its lines.
    for step in range(500, 800):
        ranks.step(step, 0)
        ranks.step(step // 100 * 100, 1, 2)
        ranks.passes(3.0)
    (found,) = ranks.found
    assert (found.kind, found.ranks) == (FindingKind.SILENT, (3,))


def test_one_that_saves_alone_has_the_time_of_saves() -> None:
    ranks = Ranks()
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.phase(Phase.SAVE, 2)
    ranks.steps(300, 1.0, 0, 1, 3)
    assert ranks.first == {}


def test_in_a_hang_nobody_is_silent_besides() -> None:
    """Hosts tell of their last steps at different times."""
    ranks = Ranks()
    ranks.steps(100)
    ranks.step(101, 0, 1)
    ranks.passes(2)
    ranks.step(102, 0, 1)
    ranks.passes(200)
    assert set(ranks.first) == {FindingKind.HANG}


def test_who_has_made_its_last_step_is_not_silent() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.step(150, 2, total=150)
    ranks.steps(500, 1.0, 0, 1, 3)
    assert ranks.first == {}


# Not seeing is not knowing.


def test_a_hang_is_told_only_when_every_host_has_said_that_nothing_is_new() -> None:
    """Their network may be away: until one has failed to answer nobody knows."""
    ranks = Ranks()
    ranks.steps(100)
    ranks.silent.add("h1")
    ranks.passes(70)
    assert ranks.found == ()
    ranks.silent.clear()
    ranks.passes(10)
    assert ranks.kinds == ["hang"]


def test_a_host_that_does_not_answer_starts_every_timer_anew_and_is_not_accused() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.set(2, stalled=StallKind.STOPPED, stalled_since=WALL + 99)
    ranks.passes(50)
    ranks.silent.add("h1")
    ranks.health.lost_sight("h1", ranks.now)
    ranks.first.clear()
    ranks.passes(600)
    assert ranks.first == {}  # its ranks may go on
    ranks.silent.clear()
    ranks.set(2, stalled=None, stalled_since=None)
    ranks.passes(55)
    assert ranks.first == {}
    ranks.passes(10)
    assert ranks.kinds == ["hang"]


def test_all_that_can_be_seen_stand_still_for_very_long() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.silent.add("h1")
    ranks.health.lost_sight("h1", ranks.now)
    ranks.passes(1810, tick=5)
    found = hang_of(ranks)
    assert found.blind == ("h1",) and not set(found.ranks) & {2, 3}


def test_the_network_of_all_hosts_is_away_for_minutes() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.silent |= {"h0", "h1"}
    ranks.passes(75)
    for host in ("h0", "h1"):
        ranks.health.lost_sight(host, ranks.now)
    ranks.passes(300)
    ranks.silent.clear()
    ranks.steps(100)
    assert ranks.first == {}


def test_a_monitor_that_slept_starts_every_timer_anew() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.passes(50)
    ranks.now += 3000  # it slept, and hears nothing for a while
    ranks.health.start_anew(ranks.now)
    ranks.passes(55)
    assert ranks.first == {}
    ranks.passes(10)
    assert hang_of(ranks).since == pytest.approx(WALL + 100, abs=2)  # as its hosts wrote it down


def test_the_time_asleep_is_no_time_of_a_step() -> None:
    ranks = Ranks()
    ranks.steps(100)
    for _ in range(20):
        ranks.now += 5000
        ranks.health.start_anew(ranks.now)
        ranks.steps(3)
    ended = ranks.now
    ranks.passes(70)
    assert ranks.first[FindingKind.HANG] - ended == pytest.approx(60, abs=3)


def test_a_supervisor_that_is_silent_is_named_and_its_ranks_are_not_seen() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.health.stale("h1", WALL + 70, ranks.now)
    ranks.judge()
    (found,) = ranks.found
    assert (found.kind, found.ranks, found.host, found.since) == (FindingKind.SILENT, (), "h1", WALL + 70)
    ranks.passes(600)
    assert set(ranks.first) == {FindingKind.SILENT}  # they may go on
    ranks.health.stale("h1", None, ranks.now)
    ranks.steps(20)
    assert ranks.found == ()


def test_a_host_that_is_over_or_lost_is_waited_for_by_nobody() -> None:
    ranks = Ranks()
    ranks.steps(100)
    ranks.health.lost_sight("h1", ranks.now)
    ranks.silent.add("h1")
    ranks.health.over("h1")
    ranks.passes(70)
    assert hang_of(ranks).blind == ()


def test_what_is_no_step_is_none() -> None:
    ranks = Ranks(trains=False)
    for step in ("7", -1, True, 10**15, 1.5, None):
        ranks.set(progress={"step": step})
        ranks.passes(100)
    assert ranks.first == {}


def test_what_is_due_is_due_once() -> None:
    """Whenever that is looked at: else the watch would turn and turn."""
    ranks = Ranks()
    ranks.steps(100)
    looks = 0
    while (due := ranks.health.due()) < 400:
        ranks.now = max(ranks.now, due)
        ranks.health.judge(ranks.now, WALL + ranks.now)
        looks += 1
        assert looks < 100  # its hosts never answer: they are asked again now and then
    ranks.health.to_ask()
    for host in ("h0", "h1"):
        ranks.health.answered(host)
    assert ranks.health.due() <= ranks.now
    ranks.judge()
    assert ranks.kinds == ["hang"] and ranks.health.due() == math.inf


def test_two_lines_at_once_tell_that_more_lines_come_than_one() -> None:
    """A program that is quick, and hangs before more was told of it; then one that a new monitor meets."""
    for span, limit in ((3.0, 60.0), (40.0, 200.0), (90_000.0, 1800.0)):
        ranks = Ranks()
        first = {"step": 1, "time": WALL - span}
        ranks.set(progress={"step": 50, "time": WALL, "first": first})
        ranks.passes(limit - 5, tick=5)
        assert ranks.first == {}
        ranks.passes(10, tick=5)
        assert ranks.kinds == ["hang"]


# Phases that a log tells, not each of them when it begins.


def test_pauses_of_which_a_log_tells_no_begin_are_learnt() -> None:
    ranks = Ranks(trains=False, tells_all=False)
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.passes(90)
    assert ranks.kinds == ["hang"]
    ranks.steps(100)
    ranks.first.clear()
    ranks.passes(170)
    assert ranks.first == {}
    ranks.passes(20)
    assert ranks.kinds == ["hang"]


def test_of_those_that_tell_all_no_pause_is_learnt() -> None:
    ranks = Ranks(trains=False)
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.passes(90)
    ranks.steps(100)
    ranks.first.clear()
    ranks.passes(70)
    assert ranks.kinds == ["hang"]


def test_a_first_evaluation_that_will_come_without_a_word_has_the_first_limit() -> None:
    ranks = Ranks(trains=False, tells_all=False)
    ranks.set(can=(EVALUATES,))
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.passes(1700)
    assert ranks.first == {}
    ranks.steps(100)  # it was 1700 s: the next is as long, or twice
    ranks.passes(3300)
    assert ranks.first == {}
    ranks.passes(120)
    assert ranks.kinds == ["hang"]


def test_a_save_that_a_log_tells_has_the_limit_of_saves() -> None:
    ranks = Ranks(trains=False, tells_all=False)
    ranks.phase(Phase.STEP)
    ranks.steps(100)
    ranks.phase(Phase.SAVE)
    ranks.passes(1700)
    ranks.phase(Phase.STEP)
    assert ranks.first == {}


def test_a_run_whose_steps_cannot_be_read_hangs_nowhere() -> None:
    """The phases of a form to come are known, its steps are not: nobody knows whether there are any."""
    ranks = Ranks(trains=False, tells_all=False)
    for phase in (Phase.INIT, Phase.COMPILE):
        ranks.phase(phase)
        ranks.passes(10_000, tick=10)
    assert ranks.first == {}
