"""The monitor's life: full disks, launches that another left in their middle, and who starts it again."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.sentences import watch_note
from orchestrator.control.launch import launch
from orchestrator.control.monitor import Monitor
from orchestrator.control.monitor_process import monitor_pid, spawn_monitor, watched_again
from orchestrator.control.run_record import HostView, RunRecord, read_record, write_record
from orchestrator.control.runs import known_runs, make_control_dir
from orchestrator.control.stop import stop_everywhere
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError, ConnectError, OrchestrateError, PreflightError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RunState
from orchestrator.hosts.allocation import AllocationState
from orchestrator.hosts.fleet import HostResults
from orchestrator.hosts.scheduling import SYSTEM
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.testing.local_cluster import processes_with
from tests.config.support import inventory, job
from tests.control.judged import rank, status
from tests.hosts.push_host import MemoryChannel, PushFleet, PushHost

HOSTS = "hosts: [{name: 'n[1-2]', transport: local, devices: 0}]\n"
JOB = "name: x\ntask: command\ndevices_per_host: 1\ncommand: ['true']\nnetworking: {mode: none}\n"


class ScriptedHost(PushHost):
    """An agent that does what its script says at each question, and notes what it is told.

    It knows no `watch`, so that it is asked again and again.
    """

    def __init__(self, host: str, script: Iterator[Callable[[], HostStatus]]) -> None:
        super().__init__(host)
        self.host, self.script, self.knows_watch = host, script, False
        self.heard: list[str] = []

    def status(self, run_id: str, **_: Any) -> HostStatus:
        return replace(next(self.script)(), run_id=run_id)

    def _status(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        try:
            self.said = self.status(args["run_id"])
        except AgentError as error:
            self._refuse(channel, number, error)
        except OrchestrateError:
            channel.cut()
        else:
            super()._status(channel, number, args)

    def _stop(self, channel: MemoryChannel, number: int, args: dict[str, Any]) -> None:
        self.heard.append("stop")
        super()._stop(channel, number, args)

    def stop(self, run_id: str, reason: StopReason, **_: Any) -> None:
        self.heard.append("stop")

    def commit(self, run_id: str) -> None:
        self.heard.append("commit")

    def release(self, run_id: str, **_: Any) -> None:
        self.heard.append("release")

    def undo(self, run_id: str) -> None:
        self.heard.append("undo")


class ScriptedFleet:
    """Scripted hosts as an allocation and as its fleet."""

    state = AllocationState.GRANTED
    until = None

    def __init__(self, *agents: ScriptedHost) -> None:
        self._agents = {agent.host: agent for agent in agents}
        self._sessions = PushFleet(*agents)
        self.hosts: Mapping[str, Any] = {agent.host: SimpleNamespace(name=agent.host) for agent in agents}

    def fleet(self) -> Any:
        return contextlib.nullcontext(self)

    def release(self) -> None:
        pass

    addresses: tuple[Any, ...] = ()

    def address(self, *addresses: Any) -> None:
        pass

    def part(self, names: Iterable[str]) -> ScriptedFleet:
        assert set(names) <= set(self._agents)
        return self

    def apart(self, names: Iterable[str]) -> ScriptedFleet:
        return self.part(names)

    scheduling = SYSTEM

    def begin(self, work: Callable[[Any], Any], name: str) -> Future[Any]:
        """The work of hosts one after the other."""
        answer: Future[Any] = Future()
        found = self.each(work, [name])
        answer.set_result((None, found.errors.get(name)))
        return answer

    def __enter__(self) -> ScriptedFleet:
        return self

    def __exit__(self, *given: object) -> None: ...

    def close(self) -> None:
        pass

    def agent(self, name: str) -> Any:
        return self._sessions.agent(name)

    def drop(self, name: str) -> None:
        self._sessions.drop(name)

    def end_session(self, name: str) -> None:
        self._sessions.end_session(name)

    def each(self, work: Callable[[Any], Any], hosts: Iterable[str] | None = None) -> HostResults[Any]:
        names = list(self._agents if hosts is None else hosts)
        values, errors = {}, {}
        with ThreadPoolExecutor(len(names) or 1) as pool:
            asked = {name: pool.submit(work, self._agents[name]) for name in names}
        for name, future in asked.items():
            error = future.exception()
            if isinstance(error, OrchestrateError):
                errors[name] = error
            else:
                values[name] = future.result()
        return HostResults(values, errors)


def says(host: str, *ranks: RankStatus, **fields: Any) -> Callable[[], HostStatus]:
    return lambda: status(host, *ranks, **fields)


def fails(error: Exception) -> Callable[[], HostStatus]:
    def fail() -> HostStatus:
        raise error

    return fail


def then(*steps: Callable[[], HostStatus]) -> Iterator[Callable[[], HostStatus]]:
    """The steps in order, the last one for ever."""
    yield from steps
    while True:
        yield steps[-1]


def plan_in(folder: Path) -> LaunchPlan:
    return make_plan(job(folder, JOB), inventory(folder, HOSTS))


def control_in(folder: Path, state: RunState = RunState.RUNNING) -> ControlDir:
    control = make_control_dir(plan_in(folder), folder / "state")
    write_record(control, replace(read_record(control), state=state, phase=str(state)))
    return control


def monitor(control: ControlDir, *hosts: ScriptedHost) -> Monitor:
    fleet: Any = ScriptedFleet(*hosts)
    return Monitor(control, fleet)


def test_a_record_that_cannot_be_written_for_a_while_ends_no_watch(tmp_path: Path) -> None:
    """While it cannot, a rank fails: the gang rule holds, and the record has it all in the end."""
    control = control_in(tmp_path)
    away = tmp_path / "away"

    def full() -> HostStatus:
        os.rename(control.root, away)
        return status("n1", rank(0))

    def free() -> HostStatus:
        os.rename(away, control.root)
        return status("n1", rank(0, "failed", ended=1.0, exit_code=7), phase="over")

    failed = says("n1", rank(0, "failed", ended=1.0, exit_code=7), phase="stopping")
    first = ScriptedHost("n1", then(says("n1", rank(0)), full, failed, free))
    second = ScriptedHost(
        "n2", then(*[says("n2", rank(1))] * 4, says("n2", rank(1, "stopped"), phase="over"))
    )
    monitor(control, first, second).run(watch_only=True)
    record = read_record(control)
    assert (record.state, record.exit_code) == (RunState.FAILED, 1)
    assert record.cause is not None and record.cause.end.exit_code == 7
    assert second.heard and record.watched > 0 and not away.exists()


def test_a_turn_that_breaks_off_ends_no_watch(tmp_path: Path) -> None:
    control = control_in(tmp_path)
    broken = replace(status("n1", rank(0)), ranks=(replace(rank(0), state="odd"),))  # type: ignore[arg-type]
    over = says("n1", rank(0, "succeeded"), phase="over")
    first = ScriptedHost("n1", then(says("n1", rank(0)), lambda: broken, over))
    second = ScriptedHost("n2", then(says("n2", rank(1, "succeeded"), phase="over")))
    monitor(control, first, second).run(watch_only=True)
    assert read_record(control).state is RunState.SUCCEEDED


def test_a_launch_left_between_start_and_commit_is_finished(tmp_path: Path) -> None:
    control = control_in(tmp_path, RunState.PREPARING)
    hosts = [
        ScriptedHost(
            f"n{number + 1}",
            then(
                says(f"n{number + 1}", rank(number), phase=phase),
                says(f"n{number + 1}", rank(number, "succeeded"), phase="over"),
            ),
        )
        for number, phase in enumerate(("started", "committed"))
    ]
    monitor(control, *hosts).run(watch_only=True)
    assert [host.heard for host in hosts] == [["commit"], ["commit"]]
    assert read_record(control).state is RunState.SUCCEEDED


@pytest.mark.parametrize("second", [says("n2", rank(1, "pending"), phase="prepared"), None])
def test_a_launch_left_before_all_had_started_is_undone(
    tmp_path: Path, second: Callable[[], HostStatus] | None
) -> None:
    control = control_in(tmp_path, RunState.PREPARING)
    second = second or fails(AgentError("no run", kind="no_run", where="n2"))
    hosts = [
        ScriptedHost("n1", then(says("n1", rank(0), phase="started"))),
        ScriptedHost("n2", then(second)),
    ]
    monitor(control, *hosts).run(watch_only=True)
    assert [host.heard for host in hosts] == [["undo"], ["undo"]]
    record = read_record(control)
    assert record.state is RunState.FAILED
    assert record.errors == (
        "the launch broke off before the run had started: its monitor was ended (launch it again)",
    )


def test_nothing_is_started_where_the_state_directory_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with no_bytes_written(), pytest.raises(PreflightError) as caught:
        launch(plan)
    assert str(tmp_path / "state") in caught.value.where
    assert known_runs() == [] and not (tmp_path / "state/orchestrate/runs" / plan.run_id).exists()


def test_a_monitor_that_cannot_be_noted_does_not_begin(tmp_path: Path) -> None:
    control = control_in(tmp_path, RunState.PREPARING)
    with no_bytes_written(), pytest.raises(OSError, match=r"monitor\.lock"):
        spawn_monitor(control)
    assert not processes_with(str(control.root)) and monitor_pid(control) is None
    assert read_record(control).phase == "preparing"  # as it was written above


@contextlib.contextmanager
def no_bytes_written() -> Iterator[None]:
    """A disk on which files can be made, and nothing written to them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_that_nobody_watches_is_said_and_since_when(tmp_path: Path) -> None:
    control = control_in(tmp_path)
    control.monitor_lock.touch()  # one was started a moment ago: no storm of them
    since = time.time() - 500
    record = replace(read_record(control), watched=since)
    write_record(control, record)
    found = watched_again(control, record)
    assert found.unwatched == since and monitor_pid(control) is None
    told = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
    assert watch_note(found) == (
        f"nobody has watched this run since {told}: its monitor has died; another one is started"
    )
    # It may have written its last word just before it was looked for.
    write_record(control, replace(record, state=RunState.SUCCEEDED, ended=time.time()))
    assert watched_again(control, record).unwatched is None


def test_a_run_that_nobody_has_watched_from_here_gets_no_monitor_by_being_looked_at(tmp_path: Path) -> None:
    """Such as one of another control node, found again on hosts that both know."""
    control = control_in(tmp_path)
    record = replace(read_record(control), state=RunState.RUNNING)
    write_record(control, record)
    assert watched_again(control, record) == record and not control.monitor_lock.exists()


def test_a_record_that_grows_old_under_a_living_monitor_is_not_shown_as_fresh() -> None:
    def written(seconds_ago: float, state: RunState = RunState.RUNNING) -> RunRecord:
        return RunRecord("r1", "job", "command", 1, 0.0, state, watched=time.time() - seconds_ago)

    assert watch_note(written(1)) == watch_note(written(60, RunState.PREPARING)) == ""
    assert "the monitor has written nothing since then" in watch_note(written(60))


def test_what_is_left_on_a_lost_host_needs_a_monitor_for_a_day() -> None:
    lost = HostView(status("n1", rank(0)), error="no route", lost=True)
    over = RunRecord("r1", "job", "command", 1, 0.0, RunState.FAILED, ended=time.time(), hosts={"n1": lost})
    assert over.needs_monitor and "n1" in watch_note(over)
    assert not replace(over, ended=time.time() - 2 * 86400).needs_monitor
    stopped = replace(lost, status=status("n1", rank(0, "stopped"), phase="over"))
    assert not replace(over, hosts={"n1": stopped}).needs_monitor


def test_stop_names_the_host_that_vanished_and_not_the_one_that_obeyed() -> None:
    """The vanished host's time-out is longer than all the time that the other one has."""

    def gone() -> HostStatus:
        time.sleep(0.6)
        raise ConnectError("timed out", where="n2")

    near = ScriptedHost("n1", then(says("n1", rank(0)), says("n1", rank(0, "stopped"), phase="over")))
    far = ScriptedHost("n2", then(gone))
    fleet: Any = ScriptedFleet(near, far)
    errors = stop_everywhere(fleet, "r1", StopReason.requested("by me"), 0.1, time.monotonic() + 0.4)
    assert {name: str(error) for name, error in errors.items()} == {"n2": "n2: timed out"}
    assert near.heard == far.heard == ["stop"]


def test_stop_names_the_host_whose_workers_outlive_the_grace() -> None:
    host = ScriptedHost("n1", then(says("n1", rank(0))))
    fleet: Any = ScriptedFleet(host)
    errors = stop_everywhere(fleet, "r1", StopReason.requested("by me"), 0.1, time.monotonic() + 0.3)
    assert [str(error) for error in errors.values()] == ["n1: workers still run after 0.1 s of grace"]
