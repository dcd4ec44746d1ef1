"""Records and folders of a run's next attempt, here: put in force, taken back, and told."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.attempt_notes import attempt_notes
from orchestrator.cli.render_run import record_json, summary_data
from orchestrator.control import next_attempt
from orchestrator.control.attempts import came_to_nothing, finished, next_record, with_hosts_before
from orchestrator.control.fence import Fence, stone_of
from orchestrator.control.metrics_curve import joined, rows_of
from orchestrator.control.monitor import Monitor
from orchestrator.control.next_attempt import put_next_in_force, start_next_attempt
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import AttemptRecord, Cause, RunRecord, read_record, write_record
from orchestrator.control.runs import make_control_dir
from orchestrator.core.ends import End, EndKind
from orchestrator.core.errors import AgentError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt, Claim
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from tests.control.recorded import run_of, stepped
from tests.simulation.simulated import plan_of


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    return plan_of(tmp_path)


@pytest.fixture
def control(plan: LaunchPlan, tmp_path: Path) -> ControlDir:
    """A run that has failed."""
    control = make_control_dir(plan, tmp_path)
    over(control)
    return control


def over(control: ControlDir, state: RunState = RunState.FAILED) -> RunRecord:
    record = dataclasses.replace(read_record(control), state=state, ended=9.0, exit_code=1, phase=str(state))
    write_record(control, record)
    return record


def following(plan: LaunchPlan, number: int = 2, token: str = "two") -> LaunchPlan:
    return dataclasses.replace(plan, attempt=Attempt(number, token))


def test_the_next_attempt_is_in_force_with_its_plan_beside_the_one_before(
    control: ControlDir, plan: LaunchPlan
) -> None:
    before = read_record(control)
    put_next_in_force(control, before, following(plan), 100.0)
    record = read_record(control)
    assert control.in_force == 2 and read_plan(control.plan).attempt == Attempt(2, "two")
    assert read_plan(control.plan_of(1)).attempt == plan.attempt
    first, second = record.attempts
    assert (first.state, first.ended, second.state, second.started) == (
        RunState.FAILED,
        9.0,
        RunState.PREPARING,
        100.0,
    )
    assert (record.state, record.exit_code, record.cause, record.ended) == (
        RunState.PREPARING,
        None,
        None,
        None,
    )
    assert record.created == before.created and record.claim == before.claim == Claim(1, record.claim.holder)


def test_a_launch_that_comes_to_nothing_is_as_if_it_had_never_been(
    control: ControlDir, plan: LaunchPlan
) -> None:
    before = read_record(control)
    put_next_in_force(control, before, following(plan), 100.0)
    record = came_to_nothing(control, read_record(control), ["h2: no room"], 4, 101.0)
    refused = record.refused
    assert refused is not None and (refused.number, refused.errors, refused.exit_code) == (
        2,
        ("h2: no room",),
        4,
    )
    assert dataclasses.replace(record, refused=None, watched=before.watched) == before


@pytest.mark.parametrize("number", [1, 3])
def test_only_the_number_behind_the_last_can_follow(
    control: ControlDir, plan: LaunchPlan, number: int
) -> None:
    before = sorted(path for path in control.root.rglob("*"))
    with pytest.raises(UsageError, match="cannot follow"):
        start_next_attempt(control, following(plan, number))
    assert sorted(control.root.rglob("*")) == before


def test_of_two_that_begin_an_attempt_at_once_the_later_leaves_the_first_alone(
    control: ControlDir, plan: LaunchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_it, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    def spawn(control: ControlDir) -> None:
        at_it.set()
        assert go_on.wait(60)

    monkeypatch.setattr(next_attempt, "spawn_monitor", spawn)
    monkeypatch.setattr(next_attempt, "end_monitor", lambda control: ended.append(control.run_id))
    monkeypatch.setattr(next_attempt, "current_record", read_record)
    with ThreadPoolExecutor(2, "both") as pool:
        first = pool.submit(start_next_attempt, control, following(plan))
        assert at_it.wait(60)
        # The later one has found that the run has ended when the first puts its attempt in force.
        later = pool.submit(start_next_attempt, control, following(plan, token="other"))
        assert wait([later], timeout=0.3).not_done
        go_on.set()
        first.result(60)
        with pytest.raises(UsageError, match="is preparing"):
            later.result(60)
    assert len(ended) == 1 and read_record(control).attempts[-1].token == "two"


def test_nothing_follows_an_attempt_that_has_not_ended(control: ControlDir, plan: LaunchPlan) -> None:
    write_record(control, dataclasses.replace(read_record(control), state=RunState.RUNNING, ended=None))
    with pytest.raises(UsageError, match="is running"):
        put_next_in_force(control, read_record(control), following(plan), 1.0)
    assert control.in_force == 1 and not control.folder_of(2).exists()


def test_the_record_says_which_attempt_is_in_force_where_who_wrote_both_died_between(
    control: ControlDir, plan: LaunchPlan
) -> None:
    put_next_in_force(control, read_record(control), following(plan), 100.0)
    control.put_in_force(1)
    Monitor(control)
    assert control.in_force == 2


def test_hosts_of_attempts_before_are_among_those_that_a_run_has(
    control: ControlDir, plan: LaunchPlan
) -> None:
    fewer = dataclasses.replace(following(plan), hosts=plan.hosts[1:])
    put_next_in_force(control, read_record(control), fewer, 1.0)
    names = [host.name for host in with_hosts_before(control, read_plan(control.plan)).hosts]
    assert names == ["node0002", "node0003", "node0001"]


def test_what_is_asked_about_means_an_attempt_and_says_what_is_over() -> None:
    record = run_of(2)
    assert address_of(record).over is None
    ended = dataclasses.replace(record, state=RunState.FAILED, ended=5.0, exit_code=1)
    assert address_of(ended).over == "failed"
    going = dataclasses.replace(record, attempts=(AttemptRecord(1, "a"), AttemptRecord(2, "b")))
    assert (address_of(going).attempt, address_of(going).over) == (Attempt(2, "b"), None)
    assert address_of(going, 1).attempt == Attempt(1, "a")
    assert address_of(going, 1).over == stone_of(going, going.attempts[0], 0.0).state.replace(
        "follows", "followed"
    )


def test_of_an_attempt_that_is_over_its_steps_and_lost_hosts_are_remembered() -> None:
    record = stepped(run_of(2, RunState.FAILED, ended=5.0, exit_code=1), 40)
    known = finished(record)
    assert (known.last_step, known.hosts, known.left) == (40, ("h0", "h1"), ("h0", "h1"))


def test_a_run_of_one_attempt_is_told_as_before() -> None:
    record = run_of(2, claim=Claim(1, "me"))
    data = record_json(record)
    assert list(data["attempts"][0]) == ["number", "token", "state", "started", "ended"]
    assert "claim" not in data and "refused" not in data and "attempt" not in data["summary"]
    assert attempt_notes(record) == []


def test_of_several_attempts_it_is_told_how_each_ended(control: ControlDir, plan: LaunchPlan) -> None:
    record = next_record(read_record(control), following(plan), 100.0)
    assert summary_data(record)["attempt"] == 2 and record_json(record)["attempts"][1]["number"] == 2
    first, second = attempt_notes(record)
    assert first.startswith("attempt 1 failed") and second == "attempt 2 is in force"


def test_how_an_attempt_ended_fits_a_line() -> None:
    """It wrapped before its last word."""
    cause = Cause("host2", 3, End(EndKind.SIGNALLED, signal=9), 0.0)
    before = AttemptRecord(1, "a", RunState.FAILED, 0.0, 98.0, cause=cause, last_step=40)
    record = dataclasses.replace(run_of(2), attempts=(before, AttemptRecord(2, "b")))
    line = "attempt 1 failed at step 40 (1m 38s): rank 3 on host2 was killed by signal 9"
    assert attempt_notes(record)[0] == line and len(line) <= 80


def test_metrics_of_attempts_join_into_one_curve() -> None:
    first = rows_of([b'{"step": 1, "loss": 9}\n{"step": 2, "lo', b'ss": 8}\nnoise\n{"step": 3, "loss": 7}\n'])
    second = rows_of([b'{"phase": "save", "step": 3}\n{"step": 3, "loss": 6}\n{"step": 4, "loss": 5}\n{"st'])
    curve = joined([(1, first), (2, second)])
    assert [(row["attempt"], row["step"], row["loss"]) for row in curve] == [
        (1, 1, 9),
        (1, 2, 8),
        (2, 3, 6),
        (2, 4, 5),
    ]


class Stuck:
    """A fleet of hosts that all answer, and on which what is over does not end; its time is a test's."""

    addresses = ()
    now = 0.0

    def __init__(self, plan: LaunchPlan) -> None:
        self.hosts = {host.name: host for host in plan.hosts}

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def begin(self, work: object, name: str) -> Future[object]:
        answer: Future[object] = Future()
        answer.set_result((None, AgentError("attempt 1 does not end", where=name, kind="still_running")))
        return answer


def test_of_a_host_that_says_the_same_again_and_again_there_is_one_line(
    control: ControlDir, plan: LaunchPlan, caplog: pytest.LogCaptureFixture
) -> None:
    put_next_in_force(control, read_record(control), following(plan), 100.0)
    record = read_record(control)
    first, last = record.attempts
    left = dataclasses.replace(first, left=("node0001", "node0002"))
    record = dataclasses.replace(record, state=RunState.RUNNING, attempts=(left, last))
    fleet: Any = Stuck(plan)
    fence = Fence(control, record, fleet, lambda *given: fleet, fleet)
    for _ in range(5):
        record = fence.step(record)
        fleet.now += 20.0
    assert sorted(line.getMessage() for line in caplog.records) == [
        "node0001: attempt 1 does not end",
        "node0002: attempt 1 does not end",
    ]


def test_the_plan_of_an_attempt_that_left_something_is_read_once(
    control: ControlDir, plan: LaunchPlan
) -> None:
    """A host that is away for days is asked for by each attempt that follows, and a plan has megabytes."""
    put_next_in_force(control, read_record(control), following(plan), 100.0)
    record = read_record(control)
    first, last = record.attempts
    fleet: Any = Stuck(plan)
    for left in (("node0001", "node0002"), ("node0002",)):
        attempts = (dataclasses.replace(first, left=left), last)
        away = dataclasses.replace(record, state=RunState.RUNNING, attempts=attempts)
        fence = Fence(control, away, fleet, lambda *given: fleet, fleet)
        assert fence.left == {1: list(left)}
        control.plan_of(1).unlink(missing_ok=True)
    attempts = (dataclasses.replace(first, left=("node0003",)), last)
    fence = Fence(control, dataclasses.replace(away, attempts=attempts), fleet, lambda *given: fleet, fleet)
    assert fence.left == {}  # of it nothing is known
