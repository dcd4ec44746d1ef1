"""A hang ends a run where its policy says so: after two sets of stacks that are the same, and never else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.sentences import cause_sentence, stop_sentence
from orchestrator.config.run_terms import Restart
from orchestrator.control.cause import refined
from orchestrator.control.hang_proof import HangProof
from orchestrator.control.hang_stacks import StackFold
from orchestrator.control.health_findings import FindingKind
from orchestrator.control.run_record import Cause
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import ConnectError
from orchestrator.core.host_answers import RankStacks
from orchestrator.core.states import RunState
from tests.control.judged import rank
from tests.control.test_hang_stacks import READS, waits
from tests.control.test_health_watch import Hung

SLEEPS = RankStacks("kernel", "", "State:\tS (sleeping)")
OTHER = RankStacks("faulthandler", READS.replace("load_batch", "decode"))


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Hung]:
    """A run that has made steps for a minute and stands still; rank 2 reads, the others wait for it."""
    found = Hung(tmp_path, ends_hangs=True)
    found.a.stacks = {"0": waits(0), "1": waits(1)}
    found.b.stacks = {"2": RankStacks("faulthandler", READS), "3": waits(3)}
    found.steps(60)
    yield found
    found.watch.close()


def test_a_run_whose_stacks_stay_the_same_is_ended(hung: Hung) -> None:
    run = hung.stands(66)
    assert [each.kind for each in run.health] == [FindingKind.HANG] and run.cause is None
    assert hung.a.asked_stacks == 1 and hung.a.told == []
    hung.stands(26)
    assert hung.a.asked_stacks == 1
    run = hung.stands(14)  # half a limit after the first set, and until a step would have been told of
    cause = run.cause
    assert cause is not None and hung.a.asked_stacks == 2
    assert (cause.host, cause.rank, cause.sure, cause.end.kind) == ("b", 2, False, EndKind.HANG)
    assert cause.end.missing == (2,) and cause.end.message == "load_batch (data.py:41)"
    for host in (hung.a, hung.b):
        told = host.told[-1]
        assert (told.kind, told.host, told.rank) == (StopKind.WORKER_FAILED, "b", 2)
        assert told.end is not None and told.end.kind is EndKind.HANG
    hung.a.says(rank(0, "stopped"), rank(1, "failed", exit_code=1, tail=("connection closed",)), phase="over")
    hung.b.says(rank(2, "stopped"), rank(3, "stopped"), phase="over")
    run = hung.stands(2)
    assert (run.state, run.exit_code, run.cause) == (RunState.FAILED, 1, cause)
    assert [each.kind for each in run.health] == [FindingKind.HANG]
    sentence = cause_sentence(cause)
    assert sentence.startswith("no rank made a new step for 1m ")
    assert sentence.endswith("stayed the same; suspect: rank 2 on b, in load_batch (data.py:41)")
    assert stop_sentence(told) == f"it hung: {sentence}"


def test_nobody_is_named_where_all_are_alike(hung: Hung) -> None:
    hung.b.stacks = {"2": waits(2), "3": waits(3)}
    cause = hung.stands(110).cause
    assert cause is not None and (cause.host, cause.rank, cause.end.missing) == ("", None, ())
    assert cause_sentence(cause).endswith("their stacks stayed the same, in all_reduce (collectives.py:17)")


def test_who_moves_meanwhile_is_waited_for(hung: Hung) -> None:
    hung.stands(66)
    hung.b.stacks = {"2": OTHER, "3": waits(3)}
    assert hung.stands(44).cause is None and hung.a.asked_stacks == 2
    hung.b.stacks = {"2": RankStacks("faulthandler", READS), "3": waits(3)}
    assert hung.stands(30).cause is None and hung.a.asked_stacks == 3
    assert hung.stands(40).cause is not None and hung.a.asked_stacks == 4


def test_a_step_in_between_ends_the_matter(hung: Hung) -> None:
    hung.stands(80)
    assert hung.a.asked_stacks == 1
    run = hung.steps(20)
    assert run.health == () and run.recovered and run.cause is None
    assert hung.stands(60).cause is None and hung.a.asked_stacks == 1
    hung.stands(200)
    assert hung.watch.record.cause is not None and hung.a.asked_stacks == 3


def test_a_step_after_the_second_set_saves_it(hung: Hung) -> None:
    run = hung.stands(66)
    while hung.a.asked_stacks < 2:
        run = hung.stands(1)
    assert run.cause is None
    assert hung.steps(3).cause is None and hung.a.told == []


def test_a_rank_that_tells_no_stacks_proves_nothing(hung: Hung) -> None:
    hung.b.stacks = {"3": waits(3)}
    assert hung.stands(400).cause is None and hung.a.asked_stacks > 3 and hung.a.told == []


def test_a_host_that_answers_no_question_for_stacks_proves_nothing(hung: Hung) -> None:
    hung.b.stacks = None
    assert hung.stands(500).cause is None and hung.a.told == []


def test_the_kernels_word_alone_proves_nothing(hung: Hung) -> None:
    hung.a.stacks = {"0": SLEEPS, "1": SLEEPS}
    hung.b.stacks = {"2": SLEEPS, "3": SLEEPS}
    assert hung.stands(300).cause is None
    hung.a.stacks = {"0": waits(0), "1": SLEEPS}  # beside what a program tells it does
    assert hung.stands(100).cause is not None


def test_a_host_that_cannot_be_seen_proves_nothing(hung: Hung) -> None:
    hung.stands(66)
    hung.b.error = ConnectError("timed out", where="b")
    assert hung.stands(50).cause is None and hung.a.told == []  # it would have been proven by then
    assert hung.watch.record.hosts["b"].error


def test_what_was_while_the_monitor_slept_proves_nothing(hung: Hung) -> None:
    hung.stands(66)
    hung.clock.passes(3600.0)
    assert hung.stands(20).cause is None and hung.a.asked_stacks == 1
    assert hung.stands(20).cause is None and hung.a.asked_stacks == 2
    assert hung.stands(40).cause is not None


def test_without_a_policy_nothing_is_ended(tmp_path: Path) -> None:
    found = Hung(tmp_path)
    found.a.stacks = {"0": waits(0), "1": waits(1)}
    found.b.stacks = {"2": waits(2), "3": waits(3)}
    found.steps(60)
    run = found.stands(300)
    assert [each.kind for each in run.health] == [FindingKind.HANG] and run.cause is None
    assert found.a.asked_stacks == 1 and found.a.told == []
    found.watch.close()


def test_a_policy_ends_hangs_where_it_has_them() -> None:
    assert Restart(max=1).ends_hangs
    assert not Restart().ends_hangs and not Restart(max=1, on=("crash", "host")).ends_hangs


def test_a_failure_of_before_is_the_cause_all_the_same() -> None:
    hang = Cause("", None, End(EndKind.HANG, 100.0, seconds=90.0), 100.0, sure=False)
    crash = Cause("a", 1, End(EndKind.SIGNALLED, 50.0, signal=11), 50.0)
    assert refined(hang, crash) == crash
    later = Cause("a", 1, End(EndKind.EXITED, 101.0, exit_code=1), 101.0)
    assert refined(hang, later) == hang == refined(hang, None)


def test_the_end_of_a_hang_is_kept_as_it_is() -> None:
    end = End(EndKind.HANG, 100.0, phase="step", message="x (y.py:1)", missing=(1, 2), seconds=90.0)
    reason = StopReason(StopKind.WORKER_FAILED, "", None, end)
    assert from_json(StopReason, to_json(reason)) == reason
    assert stop_sentence(reason).startswith("it hung: no rank made a new step for 1m 30s, ")
    assert stop_sentence(reason).endswith("; suspect: rank 1-2, in x (y.py:1)")


# The proof.


def fold(*stacks: RankStacks) -> StackFold:
    made = StackFold()
    for number, each in enumerate(stacks):
        made.add(number, each)
    return made


def looked(proof: HangProof, stacks: StackFold, now: float, ranks: tuple[int, ...] = (0, 1)) -> None:
    proof.looked(stacks, ranks, now, half=30.0, settle=5.0)


def test_two_sets_that_are_alike_prove_it_once_they_have_settled() -> None:
    proof = HangProof()
    assert proof.due == float("inf") and not proof.holds(0.0)
    looked(proof, fold(waits(0), waits(1)), 0.0)
    assert proof.due == 30.0 and not proof.wants_stacks(29.0) and proof.wants_stacks(30.0)
    assert not proof.wants_stacks(31.0) and not proof.holds(1e9)
    looked(proof, fold(waits(1, line=18), waits(0)), 32.0)  # another line of the same function
    assert proof.due == 37.0 and not proof.holds(36.9) and proof.holds(37.0)
    proof.forget()
    assert not proof.holds(1e9) and proof.due == float("inf")


def test_ranks_that_change_places_are_not_alike() -> None:
    proof = HangProof()
    looked(proof, fold(waits(0), OTHER), 0.0)
    looked(proof, fold(OTHER, waits(0)), 30.0)
    assert not proof.holds(1e9) and proof.due == 60.0


POLLS = waits(1).text.replace(
    "Current thread 0x00007f000100 (most recent call first):",
    "Current thread 0x00007f000100 (most recent call first):\n"
    '  File "/usr/lib/python3.10/pathlib.py", line 1134 in read_text\n'
    '  File "/srv/w1/model/collectives.py", line 44 in reached',
)


def test_who_looks_again_and_again_in_a_collective_is_in_it() -> None:
    assert "read_text" in POLLS
    proof = HangProof()
    looked(proof, fold(waits(0), waits(1)), 0.0)
    looked(proof, fold(waits(0), RankStacks("faulthandler", POLLS)), 30.0)
    assert proof.holds(35.0)


def test_a_set_that_is_not_whole_begins_anew() -> None:
    proof = HangProof()
    whole = fold(waits(0), waits(1))
    looked(proof, whole, 0.0)
    looked(proof, whole, 30.0, ranks=())  # a host could not be seen
    looked(proof, whole, 60.0)
    assert not proof.holds(1e9)
    looked(proof, fold(waits(0), RankStacks("faulthandler", "")), 90.0)
    looked(proof, whole, 120.0)
    assert not proof.holds(1e9)
