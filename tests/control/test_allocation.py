"""Hosts come from an allocation: the monitor waits until they are granted, and gives them back at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.control.monitor import Monitor
from orchestrator.control.run_record import read_record
from orchestrator.control.runs import make_control_dir
from orchestrator.core.errors import TransportError
from orchestrator.core.states import RunState
from orchestrator.hosts.allocation import Allocation, AllocationState, StaticAllocation
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job

HOSTS = "hosts: [{name: n1, transport: local, devices: 0, workdir: WORKDIR}]\n"
JOB = "name: x\ntask: command\ndevices_per_host: 1\ncommand: ['true']\nnetworking: {mode: none}\n"


@dataclass
class Queued:
    """Hosts that a batch system grants when it has been asked three times, or never grants."""

    inner: Allocation
    end: AllocationState = AllocationState.GRANTED
    until: float | None = None
    seen: list[AllocationState] = field(default_factory=list)
    released: int = 0

    @property
    def state(self) -> AllocationState:
        states = (AllocationState.ASKED, AllocationState.PENDING, self.end)
        self.seen.append(states[min(len(self.seen) // 2, 2)])
        return self.seen[-1]

    def hosts(self) -> tuple[Host, ...]:
        return self.inner.hosts()

    def fleet(self) -> Fleet:
        if self.end is AllocationState.REVOKED:
            raise TransportError("the job of the hosts was cancelled")
        return self.inner.fleet()

    def release(self) -> None:
        self.released += 1


def test_an_inventory_is_an_allocation_that_never_ends() -> None:
    hosts = (Host(name="a", transport="local"), Host(name="b", transport="local"))
    static: Allocation = StaticAllocation(hosts, SshOptions())
    assert (static.state, static.until, static.hosts()) == (AllocationState.GRANTED, None, hosts)
    static.release()
    with static.fleet() as fleet:
        assert list(fleet.hosts) == ["a", "b"]


def test_a_launch_waits_for_its_hosts_and_gives_them_back(tmp_path: Path) -> None:
    plan = make_plan(job(tmp_path, JOB), inventory(tmp_path, HOSTS.replace("WORKDIR", str(tmp_path / "w"))))
    control = make_control_dir(plan, tmp_path / "state")
    allocation = Queued(StaticAllocation(plan.hosts, plan.ssh))
    Monitor(control, allocation).run(watch_only=False)
    record = read_record(control)
    assert (record.state, record.exit_code, record.errors) == (RunState.SUCCEEDED, 0, ())
    assert allocation.seen[-1] is AllocationState.GRANTED and len(allocation.seen) > 4
    assert allocation.released == 1


def test_hosts_that_are_never_granted_fail_the_launch_in_one_line(tmp_path: Path) -> None:
    plan = make_plan(job(tmp_path, JOB), inventory(tmp_path, HOSTS.replace("WORKDIR", str(tmp_path / "w"))))
    control = make_control_dir(plan, tmp_path / "state")
    allocation = Queued(StaticAllocation(plan.hosts, plan.ssh), AllocationState.REVOKED)
    Monitor(control, allocation).run(watch_only=False)
    record = read_record(control)
    assert (record.state, record.exit_code) == (RunState.FAILED, 3)
    assert record.errors == ("the job of the hosts was cancelled",)
    assert allocation.released == 1 and not (tmp_path / "w").exists()
