"""Verbs between two attempts: a run that restarts is neither over nor watched by what its hosts say."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.run_terms import Restart
from orchestrator.control import runs
from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.control.monitor import Monitor
from orchestrator.control.next_attempt import put_next_in_force
from orchestrator.control.remove_runs import remove_runs
from orchestrator.control.resume import NextJob, require_ended
from orchestrator.control.run_record import read_record, write_record
from orchestrator.control.runs import current_record, find_run, is_active
from orchestrator.control.stop import Ways, stop_run
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan
from tests.control.judged import rank, status
from tests.control.recorded import run_of, with_view
from tests.control.test_monitor import ScriptedFleet, ScriptedHost, fails, then
from tests.control.test_monitor import control_in as planned_in

BECAUSE = StopReason.requested("because")
AGAIN = Decision(Choice.AGAIN, Ground.CRASH)


@pytest.fixture
def control(tmp_path: Path) -> ControlDir:
    """Its first attempt has failed, and another one was decided on."""
    control = planned_in(tmp_path)
    record = read_record(control)
    last = dataclasses.replace(record.attempts[-1], decision=AGAIN)
    write_record(
        control,
        dataclasses.replace(
            record, state=RunState.RESTARTING, phase="restarting", updated=time.time(), attempts=(last,)
        ),
    )
    return control


def over(control: ControlDir) -> list[ScriptedHost]:
    """Its hosts, where nothing of the attempt runs any more."""

    def said(name: str, number: int) -> Any:
        return lambda: status(name, rank(number, "failed"), phase="over")

    return [
        ScriptedHost(name, iter([said(name, number)] * 20))
        for number, name in enumerate(read_record(control).hosts)
    ]


def test_it_is_active_and_hosts_are_not_asked_what_it_is(
    control: ControlDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_looked_at", lambda *given: pytest.fail("the hosts were asked"))
    assert is_active(control) and find_run(None, control.runs.parent).run_id == control.run_id
    assert current_record(control).state is RunState.RESTARTING
    assert read_record(control).state is RunState.RESTARTING


def test_whether_a_run_with_a_policy_has_failed_is_for_its_monitor_to_say(
    control: ControlDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its monitor has died, then a worker: who looks meanwhile must not end what would go on."""
    write_record(control, dataclasses.replace(read_record(control), state=RunState.RUNNING))
    failed: Any = lambda record, *given: dataclasses.replace(record, state=RunState.FAILED)  # noqa: E731
    monkeypatch.setattr(runs, "_looked_at", failed)
    plan = read_plan(control.plan)
    write_plan(control.plan, dataclasses.replace(plan, restart=Restart(max=1)))
    assert current_record(control).state is RunState.RUNNING
    assert read_record(control).state is RunState.RUNNING
    write_plan(control.plan, plan)
    assert current_record(control).state is read_record(control).state is RunState.FAILED


def test_a_stop_between_two_attempts_leaves_nothing_to_go_on_with(control: ControlDir) -> None:
    hosts = over(control)
    ways = Ways(
        living=lambda control: None,
        newest=lambda control: None,
        by_monitor=lambda *given: pytest.fail("there is no monitor"),
        fleet=lambda plan: _entered(hosts),
        watched_again=lambda control, record, **given: record,
    )
    record = stop_run(control, BECAUSE, say=lambda line: None, ways=ways)
    assert (record.state, record.exit_code) == (RunState.STOPPED, 5)
    on_disk = read_record(control)
    assert (on_disk.state, on_disk.phase, on_disk.attempts[-1].decision) == (
        RunState.STOPPED,
        "stopped",
        AGAIN,
    )
    assert on_disk.ended is not None and not is_active(control)
    assert on_disk.held is not None and on_disk.held.hosts == () and on_disk.held.until > on_disk.ended
    assert all(host.heard[-1] == "release" for host in hosts)


def _entered(hosts: list[ScriptedHost]) -> Any:
    fleet: Any = ScriptedFleet(*hosts)
    return fleet.fleet()


def test_it_has_not_ended_for_who_wants_to_resume_or_remove_it(control: ControlDir) -> None:
    record, plan = read_record(control), read_plan(control.plan)
    wanted: Any = NextJob
    with pytest.raises(UsageError, match=r"has not ended: it is restarting .*orchestrate stop"):
        require_ended(record, plan, wanted)
    with pytest.raises(UsageError, match=r"is restarting .*orchestrate stop"):
        list(remove_runs([control]))


def test_leftovers_of_a_run_that_was_stopped_between_attempts_are_still_looked_after() -> None:
    gone = with_view(run_of(2, RunState.STOPPED, ended=time.time()), "h0", lost=True)
    assert gone.needs_monitor and run_of(2, RunState.RESTARTING).needs_monitor


def test_a_monitor_that_finds_the_next_attempt_unstarted_goes_on_from_the_one_before(
    control: ControlDir,
) -> None:
    """The one before it died when the next attempt was written down, and no host had been told."""
    record, plan = read_record(control), read_plan(control.plan)
    second = dataclasses.replace(plan, attempt=Attempt(2, "22"))
    put_next_in_force(control, record, second, time.time())
    assert read_record(control).state is RunState.PREPARING
    none = fails(AgentError("no run", kind="no_run"))
    planned: list[int] = []

    def next_plan(record: Any, before: LaunchPlan, decision: Decision) -> LaunchPlan:
        planned.append(before.attempt.number)
        raise KeyboardInterrupt

    keep = {"let_go": lambda record: record, "close": lambda: None}
    recovery: Any = SimpleNamespace(next_plan=next_plan, **keep)
    fleet: Any = ScriptedFleet(*(ScriptedHost(name, then(none)) for name in record.hosts))
    Monitor(control, fleet, recovery_of=lambda *given: recovery).run(watch_only=True)
    assert planned == [1]
    assert read_record(control).state is RunState.RESTARTING and control.in_force == 1
