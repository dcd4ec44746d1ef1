"""The monitor of a run that goes on by itself: what another one left, what breaks off, what it lets go of."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.attempt_notes import attempt_notes
from orchestrator.cli.sentences import watch_note
from orchestrator.control.attempts import next_record
from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.control.held_hosts import Held
from orchestrator.control.monitor import Monitor
from orchestrator.control.next_attempt import put_next_in_force
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.core.errors import AgentError, ConnectError, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from tests.control.judged import rank
from tests.control.recorded import run_of
from tests.control.test_monitor import ScriptedFleet, ScriptedHost, control_in, fails, says, then

AGAIN = Decision(Choice.AGAIN, Ground.CRASH, hosts=("n1", "n2"))


class StandIn:
    """What goes on by itself, as far as a test wants it: it notes what it is told; nothing of it works."""

    def __init__(self, decision: Decision | None = None) -> None:
        self.decision = decision
        self.planned_after: list[int] = []
        self.closed: list[RunState] = []

    def begin(self, plan: LaunchPlan) -> None: ...

    def tend(self, record: RunRecord) -> RunRecord:
        return record

    def decide(self, record: RunRecord, plan: LaunchPlan) -> Decision:
        if self.decision is None:
            raise RuntimeError("what nobody has thought of")
        return self.decision

    def next_plan(self, record: RunRecord, plan: LaunchPlan, decision: Decision) -> LaunchPlan:
        self.planned_after.append(plan.attempt.number)
        raise OrchestrateError("nothing is planned here")

    def failed(self, error: OrchestrateError) -> None:
        self.decision = Decision(Choice.GIVE_UP, Ground.CANNOT_START, time.time())

    def ending(self, record: RunRecord) -> RunRecord:
        return dataclasses.replace(record, held=Held(("n1",), time.time() + 60))

    def let_go(self, record: RunRecord) -> RunRecord:
        self.closed.append(record.state)
        return record if record.held is None else dataclasses.replace(record, held=Held())

    def close(self) -> None: ...


def watched(control: ControlDir, recovery: Any, *hosts: ScriptedHost) -> RunRecord:
    fleet: Any = ScriptedFleet(*hosts)
    Monitor(control, fleet, recovery_of=lambda *given: recovery).run(watch_only=True)
    return read_record(control)


def test_after_a_launch_that_its_monitor_left_the_attempt_before_is_the_one_that_counts(
    tmp_path: Path,
) -> None:
    """A monitor is killed while it launches attempt 2: the next one launches attempt 2, and not attempt 3."""
    control = control_in(tmp_path)
    plan, record = read_plan(control.plan), read_record(control)
    last = dataclasses.replace(record.attempts[-1], decision=AGAIN, state=RunState.FAILED)
    record = dataclasses.replace(record, state=RunState.RESTARTING, attempts=(last,))
    write_record(control, record)
    second = dataclasses.replace(plan, attempt=Attempt(2, "token"))
    put_next_in_force(control, record, second, time.time())
    assert next_record(record, second, 0.0).state is RunState.PREPARING
    absent = AgentError("no attempt 2", kind="no_run")
    hosts = [ScriptedHost(name, then(fails(absent))) for name in ("n1", "n2")]
    recovery = StandIn(AGAIN)
    record = watched(control, recovery, *hosts)
    assert recovery.planned_after == [1]
    assert control.in_force == 1 and record.attempts[-1].number == 1
    assert record.state is RunState.FAILED  # as this stand-in says


class Interrupting(StandIn):
    """A person stops the run at the moment at which its next attempt has been put in force."""

    def next_plan(self, record: RunRecord, plan: LaunchPlan, decision: Decision) -> LaunchPlan:
        return dataclasses.replace(plan, attempt=Attempt(2, "token"))

    def staying(self, plan: LaunchPlan, before: LaunchPlan, decision: Decision) -> Any:
        raise KeyboardInterrupt


def test_who_stops_a_run_before_its_next_attempt_is_launched_finds_none(tmp_path: Path) -> None:
    control = control_in(tmp_path)
    fleet: Any = ScriptedFleet(over("n1", 0), over("n2", 1))
    monitor = Monitor(control, fleet, recovery_of=lambda *given: Interrupting(AGAIN))
    monitor._has_started = True  # it has launched the attempt before
    monitor.run(watch_only=True)
    assert (read_record(control).state, control.in_force) == (RunState.RESTARTING, 1)


def over(name: str, number: int) -> ScriptedHost:
    failed = rank(number, "failed", ended=1.0, exit_code=7)
    return ScriptedHost(name, then(says(name, rank(number)), says(name, failed, phase="over")))


def test_a_run_of_which_nothing_can_be_decided_ends(tmp_path: Path) -> None:
    control, recovery = control_in(tmp_path), StandIn(None)
    record = watched(control, recovery, over("n1", 0), over("n2", 1))
    decision = record.attempts[-1].decision
    assert record.state is RunState.FAILED and decision is not None
    assert (decision.choice, decision.ground) == (Choice.GIVE_UP, Ground.CANNOT_START)


def test_why_a_next_attempt_cannot_be_planned_is_told(tmp_path: Path) -> None:
    """As of a run of MindFormers that was killed after its last save: nothing is left to train."""
    control, recovery = control_in(tmp_path), StandIn(AGAIN)
    record = watched(control, recovery, over("n1", 0), over("n2", 1))
    assert record.state is RunState.FAILED and recovery.planned_after == [1]
    assert record.refused is not None and record.refused.number == 2
    assert attempt_notes(record)[-1] == "attempt 2 came to nothing: nothing is planned here"


def test_what_is_held_is_let_go_when_the_run_is_over_and_not_when_its_last_host_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.control.monitor._LEFTOVERS_INTERVAL", 0.1)
    control = control_in(tmp_path)
    give_up = Decision(Choice.GIVE_UP, Ground.MOST_ATTEMPTS, time.time())
    recovery = StandIn(give_up)
    record = read_record(control)
    seen = says("n2", rank(1))()
    views = {
        name: dataclasses.replace(view, status=seen, error="timed out", lost=True) if name == "n2" else view
        for name, view in record.hosts.items()
    }
    state, now = RunState.FAILED, time.time()
    write_record(control, dataclasses.replace(record, state=state, hosts=views, ended=now, exit_code=1))
    closed_first: list[bool] = []

    def back() -> Any:
        closed_first.append(bool(recovery.closed))
        return says("n2", rank(1, "stopped"), phase="over")()

    gone = fails(ConnectError("timed out", where="n2"))
    first = ScriptedHost("n1", then(says("n1", rank(0, "failed", ended=1.0, exit_code=7), phase="over")))
    watched(control, recovery, first, ScriptedHost("n2", then(gone, gone, gone, back)))
    assert closed_first and closed_first[0]


class Killed(StandIn):
    """Its monitor dies when hosts are to let go."""

    def let_go(self, record: RunRecord) -> RunRecord:
        if record.state.is_terminal:
            raise KeyboardInterrupt
        return record


def test_what_a_killed_monitor_did_not_let_go_of_the_next_one_does(tmp_path: Path) -> None:
    """That the run is over and who holds something for it is written at once, and before anybody is asked."""
    control = control_in(tmp_path)
    give_up = Decision(Choice.GIVE_UP, Ground.MOST_ATTEMPTS, time.time())
    with pytest.raises(KeyboardInterrupt):
        watched(control, Killed(give_up), over("n1", 0), over("n2", 1))
    record = read_record(control)
    assert record.state is RunState.FAILED and record.held is not None
    assert record.held.hosts == ("n1",) and record.needs_monitor
    recovery = StandIn(give_up)
    record = watched(control, recovery, over("n1", 0), over("n2", 1))
    assert RunState.FAILED in recovery.closed
    assert record.held == Held() and not record.needs_monitor


def test_who_may_hold_devices_of_a_run_that_is_over_is_shown_until_they_are_free() -> None:
    held = Held(("h0", "h1"), 2800.0)
    over = run_of(0, RunState.FAILED, ended=1000.0, watched=1000.0, held=held)
    assert watch_note(over).startswith("devices may be held for it on h[0-1] until ")
    assert watch_note(dataclasses.replace(over, watched=2800.0)) == ""
    assert watch_note(dataclasses.replace(over, held=Held((), 2800.0))) == ""
