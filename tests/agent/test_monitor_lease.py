"""The lease of a monitor: workers of which nobody hears end by themselves, and only those."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from orchestrator.core.ends import UNASKED, StopKind
from orchestrator.core.states import RankState
from orchestrator.testing.agent_host import AgentHost, processes_in, sh
from orchestrator.testing.waiting import eventually
from tests.agent.test_supervisor_state import Machine

LEASE = 100.0
STEPS = (
    'for step in $(seq 1000); do echo "{\\"step\\": $step}" >> metrics/rank_0.jsonl; {}; done; exec sleep 300'
)


def machine(lease: float | None = LEASE) -> Machine:
    found = Machine(monitor_lease=lease)
    found.begin()
    return found


def say(run: Machine, rank: int = 0, **line: Any) -> None:
    """A line of a worker's metrics, seen by now."""
    run.state.report_lines(rank, [line], run.now, run.now)


def test_neither_a_monitor_nor_a_step_for_the_lease_ends_the_workers() -> None:
    run = machine()
    run.tick()
    run.tick(LEASE - 0.1)
    assert run.signals == [] and run.state.lease_ends == pytest.approx(200.0)
    run.tick(0.2)
    assert run.signals == [(0, signal.SIGTERM), (1, signal.SIGTERM)]
    assert run.state.stop_reason is not None and run.state.stop_reason.kind is StopKind.LEASE_ENDED
    assert run.state.stop_reason.kind in UNASKED and run.state.lease_ends is None
    run.exit((0, -15), (1, -15))
    assert run.state.phase == "over" and run.states() == [RankState.STOPPED] * 2


def test_a_monitor_that_is_heard_renews_it() -> None:
    run = machine()
    for _ in range(5):
        run.tick(LEASE * 0.9)
        run.state.heard(run.now)
    assert run.signals == [] and run.state.phase == "committed"


def test_a_step_of_any_rank_renews_it() -> None:
    run = machine()
    for step in range(5):
        run.tick(LEASE * 0.9)
        say(run, step % 2, step=step // 2)
        run.tick()
    assert run.signals == []
    say(run, 0, step=2)  # told a second time: that is no step
    run.tick(LEASE)
    assert len(run.signals) == 2


def test_a_phase_without_steps_has_the_lease_of_its_own() -> None:
    run = machine()
    say(run, 0, step=1)
    run.tick(LEASE * 0.9)
    say(run, 0, phase="save", step=1)
    run.tick()
    run.tick(LEASE * 0.9)
    assert run.signals == []
    run.tick(LEASE * 0.2)
    assert len(run.signals) == 2


def test_without_restart_there_is_none() -> None:
    run = machine(lease=None)
    run.tick(1e9)
    assert run.signals == [] and run.state.lease_ends is None


def test_a_launch_under_way_has_the_lease_of_launches_alone() -> None:
    run = Machine(monitor_lease=1.0)
    run.tick(30.0)
    run.begin(commit=False)
    run.tick(30.0)
    assert run.state.phase == "started" and run.signals == []
    run.state.heard(run.now)
    run.state.commit()
    run.tick(0.5)
    assert run.state.phase == "committed"


def test_who_slept_has_missed_nobody() -> None:
    run = machine()
    run.now += 10 * LEASE
    run.state.woke(run.now)
    run.tick()
    assert run.signals == []
    run.tick(LEASE)
    assert len(run.signals) == 2


def test_a_lease_that_ends_waits_for_no_checkpoint() -> None:
    """The ranks of other hosts, with which they would have to agree, cannot be reached."""
    run = machine()
    for rank in (0, 1):
        say(run, rank, step=1, can=["save"])
        say(run, rank, step=2)
    run.tick()
    run.tick(LEASE)
    assert run.state.stop_reason is not None and run.state.stop_reason.kind is StopKind.LEASE_ENDED
    assert not run.state.saves and run.state.grace == 10.0


def test_a_worker_that_nobody_watches_and_that_makes_no_steps_ends_by_itself(host: AgentHost) -> None:
    host.launch(sh("exec sleep 300"), monitor_lease=2.0)
    host.session.close()  # the monitor and its session are gone
    host.session = host.new_session()
    found = host.wait_over(timeout=60.0)
    assert found.stop is not None and found.stop.kind is StopKind.LEASE_ENDED
    assert not processes_in(host.run_dir().root)


def test_with_steps_it_goes_on_until_they_end(host: AgentHost) -> None:
    """Its steps are made until a file is there: far longer than the lease."""
    host.launch(sh(STEPS), monitor_lease=3.0)
    step = eventually(lambda: host.status().ranks[0].progress.get("step", 0) >= 30, 60.0, "thirty steps")
    assert step and host.status().phase == "committed"
    (host.run_dir().root / "enough").touch()
    found = host.wait_over(timeout=60.0)
    assert found.stop is not None and found.stop.kind is StopKind.LEASE_ENDED


def test_with_a_monitor_it_goes_on_and_without_a_lease_for_ever(host: AgentHost) -> None:
    agent = host.new_agent()
    host.launch(sh("exec sleep 300"), monitor_lease=4.0)
    host.launch(sh("exec sleep 300"), run_id="run-2", devices=(1,))
    until = time.monotonic() + 5.0
    phases = {"committed"}
    while time.monotonic() < until:
        phases.add(agent.renew("run-1").phase)
        time.sleep(0.05)
    assert phases == {"committed"}
    agent.close()
    assert host.wait_over(timeout=60.0).stop is not None
    assert host.status("run-2").phase == "committed"


def test_of_a_run_that_is_over_a_renewal_says_so(host: AgentHost) -> None:
    agent = host.new_agent()
    host.launch(sh("exit 0"), monitor_lease=60.0)
    host.wait_over()
    assert agent.renew("run-1").phase == "over"
    agent.close()
