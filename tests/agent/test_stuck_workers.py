"""Workers that outlive SIGKILL, blocked in the kernel: it is said of them, and their devices stay locked."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.daemon import obituary, stuck_status
from orchestrator.agent.device_locks import busy_devices
from orchestrator.agent.processes import is_alive
from orchestrator.core.claims import Tombstone
from orchestrator.core.codec import to_json
from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.records import HostStatus, StallKind
from orchestrator.core.states import RankState
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.waiting import eventually
from tests.agent.test_supervisor_state import BY_HAND, GRACE, Machine

FREEZER = Path("/sys/fs/cgroup/freezer")
LONG = 3600.0


def stopping(machine: Machine) -> Machine:
    machine.begin()
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    return machine


def stuck(machine: Machine) -> list[bool]:
    return [rank.stuck for rank in machine.state.status(machine.now).ranks]


def test_who_outlives_its_kill_is_stuck_and_who_has_not_been_killed_is_not() -> None:
    machine = stopping(Machine())
    machine.exit((0, -15))
    machine.tick(GRACE - 0.1)
    assert stuck(machine) == [False, False]
    machine.tick(0.2)
    assert machine.signals[-1] == (1, signal.SIGKILL)
    machine.tick()
    machine.tick(9.0)
    assert stuck(machine) == [False, False]
    machine.tick(1.1)
    status = machine.state.status(machine.now)
    assert stuck(machine) == [False, True] and status.phase == "stopping"
    assert status.ranks[1].stalled is StallKind.BLOCKED and status.ranks[1].state is RankState.RUNNING
    assert status.ranks[1].stalled_since == pytest.approx(machine.now, abs=11.0)
    machine.exit((1, -9))
    status = machine.state.status(machine.now)
    assert status.phase == "over" and not any(rank.stuck or rank.stalled for rank in status.ranks)


def test_one_that_is_blocked_while_it_may_still_save_is_not_stuck() -> None:
    machine = stopping(Machine(1))
    for _ in range(5):
        machine.state.report_process(0, "D", machine.now, 7)
        machine.tick(1.0)
    status = machine.state.status(machine.now)
    assert status.ranks[0].stalled is StallKind.BLOCKED and not status.ranks[0].stuck


def test_a_host_that_was_suspended_gives_it_its_time_again() -> None:
    machine = stopping(Machine(1))
    machine.carry_out(machine.state.kill())
    machine.tick()
    machine.now += 1000.0
    machine.state.woke(machine.now)
    machine.tick()
    assert stuck(machine) == [False]
    machine.tick(10.1)
    assert stuck(machine) == [True]


def test_a_launch_that_is_taken_back_says_so_too() -> None:
    machine = Machine(1)
    machine.begin(commit=False)
    machine.carry_out(machine.state.undo())
    machine.tick()
    machine.tick(10.1)
    assert stuck(machine) == [True] and machine.state.phase == "undoing"


def test_what_the_guardian_says_of_whom_it_cannot_end() -> None:
    machine = Machine(3)
    machine.begin()
    machine.exit((0, 0))
    status = machine.state.status(machine.now)
    told = stuck_status(status, [2], 50.0)
    assert [rank.stuck for rank in told.ranks] == [False, False, True] and told.phase == "stopping"
    assert told.ranks[2].stalled is StallKind.BLOCKED and told.ranks[2].stalled_since == 50.0
    # Nobody of the ranks: something that one of them has started.
    assert [rank.stuck for rank in stuck_status(status, [], 50.0).ranks] == [True, False, False]
    over = obituary(told, StopReason(StopKind.SUPERVISOR_ENDED, "h"), 60.0)
    assert over.is_over and not any(rank.stuck for rank in over.ranks)


class Frozen:
    """A process that no signal reaches: frozen by a cgroup of version 1, in state D."""

    def __init__(self, name: str) -> None:
        self.folder = FREEZER / name
        self.folder.mkdir()

    def freeze(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))
        (self.folder / "freezer.state").write_text("FROZEN")
        eventually(lambda: (self.folder / "freezer.state").read_text().strip() == "FROZEN", what="frozen")

    def thaw(self) -> None:
        (self.folder / "freezer.state").write_text("THAWED")

    def close(self) -> None:
        self.thaw()
        with contextlib.suppress(OSError):
            eventually(lambda: not (self.folder / "cgroup.procs").read_text().strip(), what="empty")
            self.folder.rmdir()


@pytest.fixture
def frozen() -> Iterator[Frozen]:
    try:
        found = Frozen(f"stuck-{os.getpid()}")
    except OSError as error:
        pytest.skip(f"no freezer of version 1 for us: {error}")
    yield found
    found.close()


@pytest.mark.root
def test_a_frozen_worker_keeps_its_device_whatever_is_done(host: AgentHost, frozen: Frozen) -> None:
    host.launch(sh("while ! [ -e go ]; do sleep 0.05; done; exit 3"), sh("exec sleep 300"), failure_grace=0.2)
    process = host.status().ranks[1].process
    assert process is not None
    frozen.freeze(process.pid)
    (host.run_dir().root / "go").touch()

    def seen() -> HostStatus | None:
        status = host.status()
        return status if status.ranks[1].stuck else None

    status = eventually(seen, 60.0, "stuck")
    assert status.phase == "stopping" and status.ranks[1].stalled is StallKind.BLOCKED
    assert status.ranks[0].state is RankState.FAILED and not status.ranks[0].stuck
    assert busy_devices(host.workdir.locks, (0, 1)) == [0, 1]

    # Killed or buried: its guardian stays, and with it the lock.
    assert status.supervisor is not None
    os.kill(status.supervisor.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(status.supervisor), what="its supervisor is gone")
    stone = Tombstone(RUN, status.attempt, "failed")
    with pytest.raises(AgentError) as caught:
        host.session.call("bury", run_id=RUN, stone=to_json(stone), timeout=60.0)
    assert caught.value.kind == "stuck" and f"process {process.pid}" in caught.value.what
    assert is_alive(status.guardian) and busy_devices(host.workdir.locks, (0, 1)) == [0, 1]
    with pytest.raises(AgentError) as caught:
        host.session.call("undo", run_id=RUN, timeout=60.0)
    assert caught.value.kind == "stuck"
    assert eventually(seen, 60.0, "its guardian says so").phase == "stopping"

    frozen.thaw()
    found = host.wait_over(timeout=60.0)
    assert not any(rank.stuck for rank in found.ranks)
    eventually(lambda: busy_devices(host.workdir.locks, (0, 1)) == [], what="free")
