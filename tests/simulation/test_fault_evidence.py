"""What a fault schedule itself says of the verdict: whom it should name, or that it must abstain."""

from __future__ import annotations

import pytest

from orchestrator.control.run_record import Cause
from orchestrator.core.ends import End, EndKind
from orchestrator.simulation.fault_evidence import Circumstances, Expected, expected, named_by
from orchestrator.simulation.faults import Fault

AROUND = Circumstances({"a": (0, 1), "b": (2, 3), "c": (4, 5)})
VICTIM = ("RuntimeError: connection to rank 1 was lost",)


def judged(*faults: Fault, around: Circumstances = AROUND) -> Expected:
    return expected(faults, around)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (Fault(500, "kill", rank=3), ("b", 3)),
        (Fault(500, "exit", rank=0, lines=("KeyError: 'x'",)), ("a", 0)),
        (Fault(500, "exit", rank=0), ("a", 0)),
        (Fault(500, "reboot", host="c"), ("c", None)),
        (Fault(500, "power_off", host="c"), ("c", None)),
    ],
    ids=["kill", "exit", "silent-exit", "reboot", "power-off"],
)
def test_one_that_ends_the_run_is_named(fault: Fault, named: tuple[str, int | None]) -> None:
    assert judged(fault) == Expected(True, frozenset({named}), suffices=True)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500, "clock_jump", host="a", jump=3600),
        Fault(500, "monitor_kill"),
        Fault(500, "return", host="a"),
    ],
    ids=lambda fault: fault.kind,
)
def test_what_hurts_nobody_ends_no_run(fault: Fault) -> None:
    assert judged(fault) == Expected(False)


def test_for_a_rank_that_hangs_nobody_is_named_and_for_a_frozen_one_nobody_else() -> None:
    hangs, frozen = judged(Fault(500, "hang", rank=0)), judged(Fault(500, "freeze", rank=0))
    assert not hangs.named and hangs.allows(None) and not hangs.allows(("a", 0))
    assert frozen.allows(("a", 0)) and frozen.allows(None) and not frozen.allows(("a", 1))


def test_for_words_of_a_victim_nobody_is_named() -> None:
    found = judged(Fault(500, "exit", rank=4, lines=VICTIM))
    assert found == Expected(True)
    assert found.allows(None) and not found.allows(("c", 4))


def test_who_fails_after_a_victim_may_find_a_run_that_has_ended() -> None:
    found = judged(Fault(500, "exit", rank=4, lines=VICTIM), Fault(530, "kill", rank=0))
    assert not found.suffices and found.allows(None) and found.allows(("a", 0))


def test_an_exit_without_an_error_is_no_failure() -> None:
    assert not judged(Fault(500, "exit", rank=4, code=0)).suffices


def test_of_two_in_the_same_second_either_may_be_named() -> None:
    found = judged(Fault(500, "kill", rank=0), Fault(500.5, "kill", rank=5))
    assert found.allows(("a", 0)) and found.allows(("c", 5))
    assert not found.allows(("b", 2)) and not found.allows(None)


def test_what_comes_after_the_end_is_not_the_cause() -> None:
    found = judged(Fault(500, "kill", rank=0), Fault(5000, "kill", rank=5))
    assert not found.allows(("c", 5))


def test_a_rank_that_is_killed_where_nobody_can_see_may_be_named_with_its_host_or_not_at_all() -> None:
    found = judged(Fault(400, "partition", host="a", seconds=7200), Fault(500, "kill", rank=0))
    assert found.fails is None and not found.suffices
    assert found.allows(None) and found.allows(("a", 0)) and found.allows(("a", None))
    assert not found.allows(("b", 2))


def test_a_host_that_is_seen_again_by_then_tells() -> None:
    found = judged(Fault(100, "partition", host="a", seconds=60), Fault(500, "kill", rank=0))
    assert found.suffices


def test_where_no_host_is_left_that_answers_nobody_is_named() -> None:
    two = Circumstances({"a": (0,), "b": (1,)})
    found = judged(Fault(500, "power_off", host="a"), Fault(501, "power_off", host="b"), around=two)
    assert found.fails is None and not found.suffices


def test_before_all_workers_run_and_when_the_work_is_done_nothing_is_certain() -> None:
    assert not judged(Fault(5, "kill", rank=0)).suffices
    done = Circumstances(AROUND.hosts, done=510.0)
    assert not judged(Fault(500, "kill", rank=0), around=done).suffices
    assert judged(Fault(520, "kill", rank=0), around=done) == Expected(False)


def test_whom_a_verdict_names() -> None:
    end = End(EndKind.SIGNALLED, signal=9)
    assert named_by(None) is None
    assert named_by(Cause("a", 0, end, 1.0)) == ("a", 0)
    assert named_by(Cause("a", 0, end, 1.0, sure=False)) is None
    late = End(EndKind.NO_FIRST_STEP, missing=(0, 1, 2))
    assert named_by(Cause("a", 0, late, 1.0)) is None
