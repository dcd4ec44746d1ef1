"""Stragglers: whose own computing takes longer than that of their peers, over ten steps, and no longer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from orchestrator.config.run_terms import Health
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.stragglers import Stragglers


class World:
    """Ranks, two on a host, that each tell the median of their last ten steps at every step."""

    def __init__(self, count: int = 8, stages: Mapping[int, int] | None = None, **rules: float) -> None:
        self.stragglers = Stragglers(Health(**rules), stages or {})  # type: ignore[arg-type]
        self.count, self.step, self.time = count, 0, 1000.0

    def steps(self, count: int, **slow: float) -> tuple[Finding, ...]:
        """Each takes a second, of `r<n>` that many."""
        found: tuple[Finding, ...] = ()
        for _ in range(count):
            self.step += 1
            self.time += 1.0
            for host in range(self.count // 2):
                ranks = (2 * host, 2 * host + 1)
                seconds = {str(rank): slow.get(f"r{rank}", 1.0) for rank in ranks}
                self.stragglers.heard(
                    f"h{host}", seconds, dict.fromkeys(ranks, self.step), {rank: rank % 2 for rank in ranks}
                )
            found = self.stragglers.judge(self.time)
        return found


def named(found: tuple[Finding, ...]) -> list[tuple[int, ...]]:
    return [each.ranks for each in found]


def test_equal_ranks_have_no_straggler() -> None:
    assert World().steps(100, r3=1.29, r5=0.2) == ()


def test_one_that_computes_longer_over_ten_steps_is_named_with_its_device() -> None:
    world = World()
    assert world.steps(10, r3=1.5) == ()
    (found,) = world.steps(1, r3=1.5)
    assert found == Finding(FindingKind.STRAGGLER, 1001.0, (3,), "h1", 1, factor=1.5)
    assert world.steps(50, r3=2.5) == (found,)  # the same, not written down anew at each step


def test_one_that_becomes_slow_is_named_since_then() -> None:
    world = World()
    world.steps(50)
    (found,) = world.steps(1, r7=1.3)
    assert found.since == 1051.0


def test_it_is_taken_back_when_it_has_come_nearer_and_not_at_the_edge() -> None:
    world = World()
    assert named(world.steps(20, r3=1.4)) == [(3,)]
    assert named(world.steps(20, r3=1.28)) == [(3,)]
    assert world.steps(1, r3=1.1) == ()
    assert world.steps(20, r3=1.28) == ()


def test_the_factor_and_the_steps_are_the_jobs() -> None:
    world = World(straggler=2.0, steps=30)
    assert world.steps(60, r3=1.9) == ()
    assert world.steps(20, r3=2.1) == ()
    assert named(world.steps(1, r3=2.1)) == [(3,)]


def test_half_of_the_ranks_may_be_slow() -> None:
    """Of two, the quicker counts."""
    assert named(World(2).steps(20, r1=2.0)) == [(1,)]
    assert named(World(4).steps(20, r0=2.0, r1=2.0)) == [(0,), (1,)]


def test_a_rank_alone_has_no_peers() -> None:
    stragglers = Stragglers(Health(), {})
    for step in range(100):
        stragglers.heard("h", {"0": 1.0 + step}, {0: step}, {})
        assert stragglers.judge(0.0) == ()


def test_peers_are_of_the_same_pipeline_stage() -> None:
    """The last stage has the loss and takes longer: that is no straggler. One in it that does is."""
    stages = {rank: rank // 4 for rank in range(8)}
    last = dict.fromkeys(("r4", "r5", "r6", "r7"), 2.0)
    assert World(8, stages).steps(50, **last) == ()
    assert named(World(8, stages).steps(50, **{**last, "r6": 2.8})) == [(6,)]
    assert named(World(8).steps(50, **last)) == [(4,), (5,), (6,), (7,)]


def test_of_a_host_that_does_not_answer_nothing_is_said() -> None:
    world = World()
    world.steps(20, r3=3.0)
    world.stragglers.forget("h1")
    assert world.stragglers.judge(world.time) == ()
    assert world.steps(5, r3=3.0) == ()
    assert named(world.steps(10, r3=3.0)) == [(3,)]


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param({"3": float("nan")}, id="nan"),
        pytest.param({"3": -1.0}, id="negative"),
        pytest.param({"3": 0.0}, id="zero"),
        pytest.param({"x": 9.0}, id="no rank"),
        pytest.param({"3": float("inf")}, id="infinite"),
    ],
)
def test_what_is_no_time_is_passed_over(seconds: dict[str, float]) -> None:
    world = World()
    world.steps(20)
    for step in range(50):
        world.stragglers.heard("h1", seconds, {3: 20 + step}, {})
        assert world.stragglers.judge(world.time) == ()


def test_judging_costs_nothing_where_nobody_has_told_anything() -> None:
    world = World()
    world.steps(1)
    assert not world.stragglers.is_changed
