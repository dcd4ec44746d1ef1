"""The watch over spares, on hosts that are folders of this machine: what it notes; it waits for nobody."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.device_locks import DeviceLocks
from orchestrator.agent.processes import is_alive
from orchestrator.agent.spare_holder import SpareFolder
from orchestrator.config.inventory import Host
from orchestrator.control.let_go import LettingGo
from orchestrator.control.run_record import RunRecord, new_record
from orchestrator.control.spare_view import SpareState, SpareView
from orchestrator.control.spares import SpareWatch
from orchestrator.control.start import check_hosts, start_run
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.paths import Workdir
from orchestrator.core.records import ProcessId
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.hosts.run_address import RunAddress
from orchestrator.hosts.scheduling import SYSTEM
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan
from orchestrator.plan.spare_hosts import kept_inventory
from orchestrator.testing.waiting import eventually
from tests.config.support import inventory, job

JOB = """\
name: demo
task: command
command: ["{python}", work.py]
sync: [work.py]
devices_per_host: 2
device_target: CPU
networking: {mode: none}
restart: {max: 3, spares: idle, lease: 10m}
"""
HOSTS = """\
transport: local
defaults: {devices: 0-2, workdir: 'FOLDER/hosts/{name}'}
hosts:
  - {name: 'n[1-3]'}
groups:
  idle: [n3]
"""


class Ground:
    """A plan, and a fleet that has its hosts and its spares."""

    def __init__(self, folder: Path, hosts: str = HOSTS, text: str = JOB) -> None:
        (folder / "work.py").write_text("print('works')\n")
        found = inventory(folder, hosts.replace("FOLDER", str(folder)))
        self.plan = make_plan(job(folder, text), found)
        self.fleet: Fleet = fleet_of((*self.plan.hosts, *self.plan.spares), self.plan.ssh)
        self.fleet.address(RunAddress(self.plan.run_id, self.plan.attempt))
        self.watch = SpareWatch(self.fleet, self.plan, SYSTEM)
        self.now = 0.0

    def workdir(self, name: str = "n3") -> Workdir:
        return Workdir(self.fleet.hosts[name].workdir)

    def holder(self, name: str = "n3") -> ProcessId:
        found = SpareFolder(self.workdir(name), self.plan.run_id).holder().holder
        assert found is not None
        return found

    def wait(self, state: SpareState, name: str = "n3", *, of: SpareWatch | None = None) -> SpareView:
        """How the spare is once it is so; at each look some time has passed."""
        watch = of or self.watch

        def found() -> SpareView | None:
            self.now += 1.0
            watch.look(self.now)
            view = watch.state_of(name)
            return view if view.state is state else None

        view = eventually(found, what=f"{name} is {state}")
        assert isinstance(view, SpareView)
        return view

    def release(self, *names: str) -> None:
        """Let go of these spares, or of all."""
        chosen = names or self.watch.names
        if not names:
            self.watch.give_up()
        asked = LettingGo(self.fleet, self.plan.run_id, chosen, chosen)
        asked.step(60.0)
        asked.close()

    def close(self) -> None:
        self.release()
        self.fleet.close()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.close()


def test_a_spare_is_checked_prepared_and_held(ground: Ground) -> None:
    watch = ground.watch
    watch.hold_all()
    assert watch.state_of("n3").state is SpareState.CHECKING and not watch.state_of("n3").is_ready
    view = ground.wait(SpareState.READY)
    assert view.is_ready and view.devices == (0, 1) and not view.why and view.since > 0
    with ground.fleet.part(["n3"]) as part:
        assert part.each(lambda agent: agent.busy_devices([0, 1, 2], None)).values == {"n3": [0, 1]}
    # What an attempt will bring is there.
    kept = {path.name for path in ground.workdir().store.iterdir()}
    assert kept == set(ground.plan.sources) and kept
    # The hosts of the run are left alone.
    assert not ground.workdir("n1").spares.exists()
    holder = ground.holder()
    ground.release()
    assert not is_alive(holder) and list(ground.workdir().spares.iterdir()) == []
    assert watch.states == {}


def test_the_record_has_them(ground: Ground) -> None:
    ground.watch.hold_all()
    ground.wait(SpareState.READY)
    record = ground.watch.noted(new_record(ground.plan), ground.now)
    assert record.spares == {"n3": ground.watch.state_of("n3")}
    assert ground.watch.noted(record, ground.now) is record
    assert from_json(RunRecord, to_json(record)).spares == record.spares


def test_the_next_monitor_finds_what_is_held(ground: Ground) -> None:
    ground.watch.hold_all()
    ground.wait(SpareState.READY)
    holder = ground.holder()
    again = SpareWatch(ground.fleet, ground.plan, SYSTEM)
    again.hold_all(ground.plan)
    assert ground.wait(SpareState.READY, of=again).devices == (0, 1)
    assert ground.holder() == holder


def test_one_whose_holder_was_killed_is_held_again(ground: Ground) -> None:
    ground.watch.hold_all()
    ground.wait(SpareState.READY)
    holder = ground.holder()
    os.kill(holder.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(holder))

    def is_another() -> bool:
        ground.now += 100.0
        ground.watch.look(ground.now)
        folder = SpareFolder(ground.workdir(), ground.plan.run_id)
        return folder.note.exists() and is_alive(folder.holder().holder)

    eventually(is_another)
    ground.wait(SpareState.READY)
    assert ground.holder() != holder


def test_one_with_too_few_free_devices_is_unfit_and_tried_again(ground: Ground) -> None:
    locks = DeviceLocks(ground.workdir().locks, [1, 2], "another-run")
    ground.watch.hold_all()
    view = ground.wait(SpareState.UNFIT)
    assert view.why == "1 of its 3 devices are free, and 2 are wanted" and not view.is_ready
    locks.release()
    # Not at once.
    ground.watch.look(ground.now + 100.0)
    assert ground.watch.state_of("n3").state is SpareState.UNFIT
    ground.now += 400.0
    assert ground.wait(SpareState.READY).since > view.since


def test_one_that_is_another_runs_spare_is_unfit(ground: Ground) -> None:
    other = dataclasses.replace(ground.plan, run_id="demo-2")
    theirs = SpareWatch(ground.fleet, other, SYSTEM)
    theirs.hold_all()
    ground.wait(SpareState.READY, of=theirs)
    ground.watch.hold_all()
    assert "are free, and 2 are wanted" in ground.wait(SpareState.UNFIT).why
    theirs.give_up()
    asked = LettingGo(ground.fleet, other.run_id, ["n3"], ["n3"])
    assert asked.step(60.0) == ()
    asked.close()


def test_one_that_fails_a_check_is_unfit_by_the_checks_own_words(tmp_path: Path) -> None:
    text = JOB.replace('["{python}", work.py]', '["{python}", work.py, /dev/null]')
    ground = Ground(tmp_path, text=text)
    ground.plan = dataclasses.replace(ground.plan, host_paths=(f"{tmp_path}/nowhere",))
    ground.watch = SpareWatch(ground.fleet, ground.plan, SYSTEM)
    ground.watch.hold_all()
    assert ground.wait(SpareState.UNFIT).why == f"{tmp_path}/nowhere does not exist"
    assert not ground.workdir().spares.exists()
    ground.close()


def test_one_that_does_not_answer_is_away_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    away = "  - {name: n4, transport: ssh, address: 127.0.0.1, port: 1}\n"
    hosts = HOSTS.replace("transport: local\n", "").replace("devices: 0-2", "devices: 0-2, transport: local")
    hosts = hosts.replace("groups:", f"{away}groups:").replace("[n3]", "[n3, n4]")
    ground = Ground(tmp_path, hosts)
    ground.watch.hold_all()
    ground.wait(SpareState.READY)
    view = ground.wait(SpareState.AWAY, "n4")
    assert view.why and not view.is_ready
    ground.close()


def _next_plan(plan: LaunchPlan, hosts: tuple[Host, ...], text: str) -> LaunchPlan:
    found = kept_inventory(plan, hosts)
    return next_plan(plan, job(Path(found.hosts[0].workdir).parents[1], text, "hosts=all"), found)


def test_the_next_attempt_takes_the_spare_s_devices_over(tmp_path: Path) -> None:
    text = JOB.replace('command: ["{python}", work.py]', 'command: [sleep, "300"]').replace("[work.py]", "[]")
    ground = Ground(tmp_path, text=text)
    ground.watch.hold_all()
    ground.wait(SpareState.READY)
    holder = ground.holder()
    n1, _, n3 = (ground.fleet.hosts[name] for name in ("n1", "n2", "n3"))
    after = _next_plan(ground.plan, (n1, n3), text)
    ground.fleet.address(RunAddress(after.run_id, after.attempt))
    seen: list[list[int]] = []
    with ground.fleet.part(["n1", "n3"]) as part:

        def look(phase: str) -> None:
            seen.append(ground.fleet.agent("n3").busy_devices([0, 1, 2], None))

        started = check_hosts(after, part, look, lambda lines: None)
        start_run(started, part, look)
        look("started")
    # At no moment could another launch have taken them.
    assert len(seen) > 3 and all(busy == [0, 1] for busy in seen)
    eventually(lambda: not is_alive(holder))
    ground.watch.hold_all(after)
    assert ground.watch.state_of("n3").state is SpareState.USED
    reason = StopReason.requested("over")
    ground.fleet.each(lambda agent: agent.stop(after.run_id, reason), ["n1", "n3"]).raise_on_error()
    eventually(lambda: ground.fleet.agent("n3").status(after.run_id).is_over)
    assert ground.fleet.agent("n3").busy_devices([0, 1, 2], None) == []
    ground.close()


def test_a_spare_that_is_a_host_now_is_used_and_one_that_was_may_be_one_again(ground: Ground) -> None:
    ground.watch.hold_all()
    ground.wait(SpareState.READY)
    n1, n2, n3 = (ground.fleet.hosts[name] for name in ("n1", "n2", "n3"))
    after = dataclasses.replace(ground.plan, hosts=(n1, n3), spares=(n2,))
    ground.watch.hold_all(after)
    assert ground.watch.state_of("n3").state is SpareState.USED
    ground.wait(SpareState.READY, "n2")
    assert ground.watch.state_of("n3").state is SpareState.USED
    ground.release("n2")
    ground.watch.hold_all(ground.plan)
    ground.wait(SpareState.READY, "n3")


def test_why_one_is_unfit_does_not_begin_with_the_path_of_our_own_file(ground: Ground) -> None:
    file = f"/data1/somebody/orchestrate/agent/{'0af3' * 16}.pyz"
    said = f"[Errno 20] Not a directory: '{file}/orchestrator/agent/warm.py'"
    ground.watch._note("n3", SpareState.UNFIT, said)
    assert ground.watch.state_of("n3").why == (
        "[Errno 20] Not a directory: 'agent.pyz/orchestrator/agent/warm.py'"
    )
