"""The recovery of one run, of a fleet that answers as a test says: what it asks, keeps and lets go of."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.inventory import Device, Host
from orchestrator.config.run_terms import Restart
from orchestrator.control.attempts import ended_again, with_decision
from orchestrator.control.decisions import Choice, Decision, DeviceFault, Ground, Level
from orchestrator.control.held_hosts import Held
from orchestrator.control.run_record import Cause, RunRecord, new_record
from orchestrator.core.ends import End, EndKind
from orchestrator.core.errors import AgentError, ConnectError, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt, Claim
from orchestrator.core.states import RankState, RunState
from orchestrator.diagnosis.evidence import Case, HostEvidence, KernelLine, RankEvidence
from orchestrator.plan.launch_plan import LaunchPlan, write_plan
from orchestrator.recovery import ask_devices
from orchestrator.recovery.run_recovery import RunRecovery
from tests.control.judged import rank, view
from tests.recovery.test_read_situation import crash
from tests.simulation.simulated import plan_of

NOW = 1000.0
HOSTS = ("node0001", "node0002", "node0003")


class Clock:
    """A clock that stands where a test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def signal(self) -> Clock:
        return self

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def wait(self, timeout: float) -> bool:
        self.now += timeout
        return False

    def time(self) -> float:
        return self.now

    monotonic = time


class Hosts:
    """A fleet of which a test says who answers; who is asked, and what is let go of, is noted."""

    def __init__(self, *hosts: Host) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.pending: dict[str, Future[Any]] = {}
        self.let_go: list[str] = []
        self.deaf: set[str] = set()
        self.refusals: dict[str, OrchestrateError] = {}
        self.is_closed = False
        self.scheduling: Any = Clock()

    def begin(self, work: Any, name: str) -> Future[Any]:
        return self.pending.setdefault(name, Future())

    def answer(self, name: str, error: Exception | None = None) -> None:
        self.pending.pop(name).set_result((None, error) if error else (NOW, None))

    def part(self, names: Any) -> Any:
        return Hosts(*(self.hosts[name] for name in names))

    def apart(self, names: Any) -> Any:
        return Apart(self, names)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *given: object) -> None: ...


class Apart:
    """Sessions of their own to hosts of a fleet; those that are `deaf` say nothing."""

    def __init__(self, fleet: Hosts, names: Any) -> None:
        self._fleet, self._names = fleet, list(names)

    def begin(self, work: Any, name: str) -> Future[Any]:
        assert name in self._names
        self._fleet.let_go.append(name)
        answer: Future[Any] = Future()
        if name not in self._fleet.deaf:
            answer.set_result((None, self._fleet.refusals.get(name)))
        return answer

    def close(self) -> None:
        self._fleet.is_closed = True


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    made = plan_of(tmp_path, hosts=3, ascend=True)
    return dataclasses.replace(made, restart=Restart(max=5, wait=600.0))


def recovery_of(plan: LaunchPlan, fleet: Any, folder: Path, clock: Clock | None = None) -> RunRecovery:
    shown: Any = clock or fleet.scheduling
    return RunRecovery(ControlDir(folder), plan, fleet, shown)


def failed(plan: LaunchPlan, *silent: str) -> RunRecord:
    """The record of a run in which rank 3 crashed; of hosts that are `silent` nothing is heard any more."""
    views = {
        name: view(name, *(rank(2 * at + own, progress={"step": 40}) for own in (0, 1)), phase="over")
        for at, name in enumerate(HOSTS)
    }
    views.update({name: dataclasses.replace(views[name], error="timed out", lost=True) for name in silent})
    given: dict[str, Any] = {"hosts": views, "ended": NOW - 1, "exit_code": 1, "state": RunState.FAILED}
    return dataclasses.replace(new_record(plan, Claim(1, "here")), cause=crash(host=HOSTS[1]), **given)


def no_faults(monkeypatch: pytest.MonkeyPatch, *told: DeviceFault) -> list[list[str]]:
    """Devices tell these; whose were asked."""
    asked: list[list[str]] = []

    def tell(fleet: Any, plan: Any, names: Any, now: float) -> tuple[DeviceFault, ...]:
        asked.append(list(names))
        return told

    monkeypatch.setattr(ask_devices, "ask_devices", tell)
    return asked


def test_the_hosts_of_the_launch_are_read_where_this_is_not_its_plan(
    plan: LaunchPlan, tmp_path: Path
) -> None:
    """On how many the run can go on depends on them; that of the first attempt knows, reading nothing."""
    control = ControlDir(tmp_path)
    plan = dataclasses.replace(plan, restart=dataclasses.replace(plan.restart, min_hosts=1))
    later = dataclasses.replace(plan, attempt=Attempt(2, "two"), hosts=plan.hosts[:2])

    def wanted(of: LaunchPlan) -> list[str]:
        return [host.name for host in recovery_of(of, Hosts(*plan.hosts), tmp_path)._wanted]

    assert wanted(plan) == list(HOSTS) and wanted(later) == list(HOSTS[:2])  # nothing is written yet
    control.make(1)
    write_plan(control.plan_of(1), plan)
    assert wanted(later) == list(HOSTS)
    control.plan_of(1).write_text("no plan")
    assert wanted(plan) == list(HOSTS)


def test_devices_are_asked_once_and_a_host_whose_device_is_broken_is_out(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = DeviceFault(HOSTS[1], 1, "80E18402", Level.DRAIN, time=NOW)
    asked = no_faults(monkeypatch, fault)
    recovery = recovery_of(plan, Hosts(*plan.hosts), tmp_path)
    record = failed(plan, HOSTS[2])
    decision = recovery.decide(record, plan)
    assert asked == [[HOSTS[0], HOSTS[1]]]  # who does not answer is not asked
    assert decision.faults == (fault,)
    assert recovery.decide(record, plan).faults == (fault,) and len(asked) == 1


def test_devices_of_a_run_on_cpus_are_not_asked(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = no_faults(monkeypatch)
    on_cpus = dataclasses.replace(plan, ascend=False)
    decision = recovery_of(on_cpus, Hosts(*plan.hosts), tmp_path).decide(failed(on_cpus), on_cpus)
    assert decision.choice is Choice.AGAIN and asked == []


def test_where_it_is_not_sure_who_failed_all_hosts_are_asked_once_and_the_judge_names_who_did(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 3 told first that a peer is gone; the kernel of another host has killed rank 5."""
    devices, asked = no_faults(monkeypatch), []
    ended = End(EndKind.SIGNALLED, NOW - 2, signal=9)
    case = Case(
        (RankEvidence(5, HOSTS[2], 1, RankState.FAILED, ended, NOW - 2, pid=42),),
        {HOSTS[2]: HostEvidence(HOSTS[2], kernel=(KernelLine("Out of memory: Killed process 42 (python)"),))},
        6,
    )

    def tell(fleet: Any, record: Any, plan: Any, names: Any) -> Case:
        asked.append(list(names))
        return case

    monkeypatch.setattr(ask_devices, "ask_for_evidence", tell)
    record = failed(plan)
    doubtful = dataclasses.replace(record, cause=crash(host=HOSTS[1], sure=False))
    recovery = recovery_of(plan, Hosts(*plan.hosts), tmp_path)
    decision = recovery.decide(doubtful, plan)
    assert (decision.host, decision.rank) == (HOSTS[2], 5)
    assert recovery.decide(doubtful, plan) == decision
    assert (asked, devices) == ([list(HOSTS)], [])
    # Where it is known outright, devices alone are asked; what the monitor saw itself no log knows better.
    assert recovery_of(plan, Hosts(*plan.hosts), tmp_path).decide(record, plan).host == HOSTS[1]
    hang = dataclasses.replace(doubtful, cause=Cause("", None, End(EndKind.HANG, NOW), NOW, sure=False))
    recovery_of(plan, Hosts(*plan.hosts), tmp_path).decide(hang, plan)
    assert (len(asked), devices) == (1, [list(HOSTS)] * 2)


def test_another_monitor_waits_no_longer_for_hosts_than_the_first(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`restart.wait` counts from the first decision to wait, also where monitors die meanwhile."""
    no_faults(monkeypatch)
    record, clock = failed(plan, HOSTS[2]), Clock()
    for seconds in (0.0, 250.0, 500.0):
        clock.now = NOW + seconds
        decision = recovery_of(plan, Hosts(*plan.hosts), tmp_path, clock).decide(record, plan)
        assert (decision.choice, decision.time, decision.not_before) == (Choice.WAIT, NOW, NOW + 600.0)
        record = ended_again(with_decision(record, decision))
    clock.now = NOW + 601.0
    decision = recovery_of(plan, Hosts(*plan.hosts), tmp_path, clock).decide(record, plan)
    assert (decision.choice, decision.ground) == (Choice.GIVE_UP, Ground.TOO_FEW_HOSTS)


def test_a_run_is_not_given_up_while_it_is_not_known_whether_its_spare_answers(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_faults(monkeypatch)
    spare = replace(plan.hosts[0], name="spare")
    plan = dataclasses.replace(plan, spares=(spare,), restart=Restart(max=5))
    fleet = Hosts(*plan.hosts, spare)
    recovery, record = recovery_of(plan, fleet, tmp_path), failed(plan, HOSTS[2])
    recovery.tend(dataclasses.replace(record, state=RunState.RUNNING))
    assert recovery.decide(record, plan).choice is Choice.WAIT
    fleet.answer("spare")
    recovery.tend(dataclasses.replace(record, state=RunState.RUNNING))
    decision = recovery.decide(record, plan)
    assert (decision.choice, decision.spares) == (Choice.REPLACE, ("spare",))


def test_hosts_that_had_not_been_heard_are_looked_at_again(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are back, perhaps after a boot: what was found at the launch may be true no more."""
    no_faults(monkeypatch)
    recovery = recovery_of(plan, Hosts(*plan.hosts), tmp_path)
    recovery.decide(failed(plan, HOSTS[0], HOSTS[2]), plan)
    back = Decision(Choice.AGAIN, Ground.HOSTS_BACK, NOW, hosts=HOSTS, host=HOSTS[1])
    assert recovery.staying(plan, plan, back).trusted == frozenset()
    recovery.begin(plan)
    recovery.decide(failed(plan, HOSTS[2]), plan)
    assert recovery.staying(plan, plan, back).trusted == {HOSTS[0]}


def test_of_a_run_that_is_over_spares_are_let_go_which_this_monitor_never_looked_at(
    plan: LaunchPlan, tmp_path: Path
) -> None:
    spare = replace(plan.hosts[0], name="spare")
    plan = dataclasses.replace(plan, spares=(spare,))
    fleet = Hosts(*plan.hosts, spare)
    recovery = recovery_of(plan, fleet, tmp_path)
    between = dataclasses.replace(failed(plan), state=RunState.RESTARTING)
    assert recovery.let_go(between) is between and fleet.let_go == []
    record = failed(plan, HOSTS[2])
    assert recovery.let_go(record) is record  # of an earlier version
    recovery.let_go(record)
    assert fleet.let_go == [HOSTS[0], HOSTS[1], "spare"]


def test_who_has_not_let_go_is_in_the_record_and_is_asked_again_until_its_lease_is_over(
    plan: LaunchPlan, tmp_path: Path
) -> None:
    """A host that says nothing holds up the end of the run for seconds, and no other host at all."""
    fleet = Hosts(*plan.hosts)
    fleet.deaf = {HOSTS[0]}
    fleet.refusals = {
        HOSTS[1]: AgentError("no such attempt", kind="other_attempt"),
        HOSTS[2]: ConnectError("timed out", where=HOSTS[2]),
    }
    clock, lease = fleet.scheduling, plan.restart.lease
    recovery = recovery_of(plan, fleet, tmp_path)
    record = recovery.ending(failed(plan))
    assert record.held == Held(HOSTS, NOW + lease) and record.needs_monitor_at(NOW)
    record = recovery.let_go(record)
    assert clock.now <= NOW + 10  # it waits for the deaf one no longer
    assert record.held == Held((HOSTS[0], HOSTS[2]), NOW + lease) and fleet.let_go == list(HOSTS)
    assert recovery.let_go(record) is record and fleet.let_go == list(HOSTS)
    # Another monitor goes on with those that are left, and with nobody else.
    fleet.let_go.clear()
    recovery.close()
    assert fleet.is_closed
    recovery = recovery_of(plan, fleet, tmp_path)
    fleet.refusals.clear()
    record = recovery.let_go(record)
    assert fleet.let_go == [HOSTS[0], HOSTS[2]]
    assert record.held == Held((HOSTS[0],), NOW + lease) and record.needs_monitor_at(clock.now)
    clock.now = NOW + lease
    assert not record.needs_monitor_at(clock.now)
    assert recovery.let_go(record).held == Held((), NOW + lease)


def test_a_device_that_is_to_be_reset_gives_way_to_another_one_of_its_host(
    plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = DeviceFault(HOSTS[1], 1, "80C98001", Level.OTHER_DEVICE, time=NOW)
    no_faults(monkeypatch, fault)
    roomy = [replace(host, devices=(*host.devices, Device(id=7, ip="10.20.0.77"))) for host in plan.hosts]
    decision = recovery_of(plan, Hosts(*roomy), tmp_path).decide(failed(plan), plan)
    assert (decision.choice, decision.hosts) == (Choice.AGAIN, HOSTS)
    assert decision.devices_out == {HOSTS[1]: (1,)}
    recovery = recovery_of(plan, Hosts(*roomy), tmp_path)
    staying = recovery.staying(plan, plan, decision)
    assert HOSTS[1] not in staying.devices and staying.avoided == {HOSTS[1]: (1,)}


def test_of_a_host_that_does_not_let_go_there_is_one_line(
    plan: LaunchPlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Hosts(*plan.hosts)
    fleet.refusals = {HOSTS[2]: ConnectError("timed out", where=HOSTS[2])}
    recovery = recovery_of(plan, fleet, tmp_path)
    record = recovery.ending(failed(plan))
    for _ in range(4):
        record = recovery.let_go(record)
        fleet.scheduling.now += 20.0
    assert fleet.let_go.count(HOSTS[2]) == 4
    assert [line.getMessage() for line in caplog.records] == [
        f"{HOSTS[2]} lets go with its lease where it does not answer: timed out"
    ]
