"""A supervisor's decisions, without a process: sequences of what happens, and random ones."""

from __future__ import annotations

import dataclasses
import random
import signal
from collections import Counter
from typing import Any

import pytest

from orchestrator.agent.supervisor_state import Action, Exit, Signal, Start, SupervisorState
from orchestrator.core.ends import SCHEDULER, EndKind, StopKind, StopReason
from orchestrator.core.records import Manifest, ProcessId, WorkerSpec
from orchestrator.core.states import RankState

LEASE, GRACE = 60.0, 10.0
BY_HAND = StopReason.requested("by hand")


def manifest(ranks: int = 2, scheduler: bool = False, **changes: Any) -> Manifest:
    specs = tuple(WorkerSpec(f"rank_{rank}", rank, rank, rank, ("x",)) for rank in range(ranks))
    made = Manifest(
        run_id="r",
        job="j",
        host="h",
        created=0.0,
        workers=specs,
        scheduler=WorkerSpec("scheduler", -1, -1, -1, ("x",)) if scheduler else None,
        grace=GRACE,
        lease=LEASE,
    )
    return dataclasses.replace(made, **changes)


class Machine:
    """A supervisor's state with pretended processes: `alive` are those that run."""

    def __init__(self, ranks: int = 2, scheduler: bool = False, **changes: Any) -> None:
        self.now = 100.0
        self.state = SupervisorState(manifest(ranks, scheduler, **changes), self.now)
        self.alive: set[int] = set()
        self.starts: Counter[int] = Counter()
        self.signals: list[tuple[int, int]] = []
        self.cannot_start: set[int] = set()

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Signal):
                if action.rank in self.alive:
                    self.signals.append((action.rank, action.number))
                    self.state.signalled(action.rank)
            elif self.state.may_start(action.rank):
                self.start(action)

    def start(self, action: Start) -> None:
        self.starts[action.rank] += 1
        if action.rank in self.cannot_start:
            self.carry_out(self.state.not_started(action.rank, "no such file", self.now, self.now))
            return
        self.alive.add(action.rank)
        self.state.started(action.rank, ProcessId(action.rank + 10, 1, "b"), self.now)

    def begin(self, commit: bool = True) -> None:
        self.carry_out(self.state.start(self.now))
        if commit:
            self.state.commit()

    def exit(self, *codes: tuple[int, int], done: bool = False) -> None:
        """Processes that end in the same moment."""
        self.alive -= {rank for rank, _ in codes}
        exits = [Exit(rank, code, self.now, done, ("last",)) for rank, code in codes]
        self.carry_out(self.state.exited(exits, self.now))
        self.tick()

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.carry_out(self.state.tick(self.now, self.now))

    def states(self) -> list[str]:
        return [str(status.state) for status in self.state.workers.values()]


def test_all_succeed() -> None:
    machine = Machine(scheduler=True)
    machine.begin()
    assert list(machine.starts) == [SCHEDULER, 0, 1]
    machine.exit((0, 0))
    machine.exit((1, 0))
    assert machine.state.phase == "committed"
    machine.exit((SCHEDULER, 0))
    assert machine.state.phase == "over" and machine.states() == ["succeeded"] * 3
    assert machine.signals == [] and machine.state.stop_reason is None


def test_a_failure_ends_the_others_and_says_so() -> None:
    machine = Machine()
    machine.begin()
    machine.exit((1, 3))
    assert machine.signals == [(0, signal.SIGTERM)] and machine.state.failed_first == 1
    machine.exit((0, -15))
    status = machine.state.status(5.0)
    assert status.phase == "over" and status.updated == 5.0
    stopped, failed = (rank.end for rank in status.ranks)
    assert failed is not None and (failed.kind, failed.exit_code, failed.tail) == (
        EndKind.EXITED,
        3,
        ("last",),
    )
    assert stopped is not None and stopped.reason == StopReason(StopKind.WORKER_FAILED, "h", 1)


def test_who_fails_in_the_same_instant_has_an_end_of_its_own() -> None:
    machine = Machine(3)
    machine.begin()
    machine.exit((1, 3), (0, -9))
    assert machine.states() == ["failed", "failed", "running"] and machine.state.failed_first == 1
    assert machine.signals == [(2, signal.SIGTERM)]


def test_the_grace_period_ends_with_sigkill() -> None:
    machine = Machine(1)
    machine.begin()
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    machine.tick(GRACE - 0.1)
    assert machine.signals == [(0, signal.SIGTERM)]
    machine.tick(0.1)
    machine.tick(100.0)
    assert machine.signals == [(0, signal.SIGTERM), (0, signal.SIGKILL)]
    assert machine.state.phase == "stopping"  # not over before it has really ended
    machine.exit((0, -9))
    assert machine.state.phase == "over" and machine.states() == ["stopped"]


def test_a_second_stop_changes_neither_reason_nor_grace() -> None:
    machine = Machine(1)
    machine.begin()
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    machine.now += GRACE / 2
    assert machine.state.stop(StopReason.requested("again"), machine.now) == []
    machine.tick(GRACE / 2)
    assert machine.signals[-1] == (0, signal.SIGKILL) and machine.state.stop_reason == BY_HAND


def test_leases() -> None:
    prepared = Machine()
    prepared.tick(LEASE)
    assert prepared.state.phase == "undone" and prepared.starts == {}
    started = Machine()
    started.begin(commit=False)
    started.tick(LEASE)
    assert started.state.phase == "stopping"
    assert started.state.stop_reason == StopReason(StopKind.LAUNCH_LAPSED)
    committed = Machine()
    committed.begin()
    committed.tick(100 * LEASE)
    assert committed.state.phase == "committed"


def test_workers_that_end_before_the_commit_wait_for_it() -> None:
    machine = Machine(1)
    machine.begin(commit=False)
    machine.exit((0, 0))
    assert machine.state.phase == "started"
    machine.state.commit()
    machine.tick()
    assert machine.state.phase == "over"


def test_a_program_that_cannot_be_run_keeps_the_later_ones_from_being_started() -> None:
    machine = Machine(3)
    machine.cannot_start = {1}
    machine.begin()
    assert dict(machine.starts) == {0: 1, 1: 1} and machine.signals == [(0, signal.SIGTERM)]
    machine.exit((0, -15))
    assert machine.states() == ["stopped", "failed", "stopped"]
    end = machine.state.workers[1].end
    assert end is not None and (end.kind, end.exit_code, end.message) == (
        EndKind.NOT_STARTED,
        127,
        "no such file",
    )


@pytest.mark.parametrize(
    ("code", "done", "state", "kind"),
    [
        (-11, True, RankState.SUCCEEDED, EndKind.CRASHED_WHEN_DONE),
        (-11, False, RankState.FAILED, EndKind.SIGNALLED),
        (-9, True, RankState.FAILED, EndKind.SIGNALLED),  # the kernel's, not a crash
        (3, True, RankState.FAILED, EndKind.EXITED),
        (0, False, RankState.SUCCEEDED, EndKind.EXITED),
    ],
)
def test_what_an_exit_means(code: int, done: bool, state: RankState, kind: EndKind) -> None:
    machine = Machine(1)
    machine.begin()
    machine.exit((0, code), done=done)
    status = machine.state.workers[0]
    assert status.state is state and status.end is not None and status.end.kind is kind


def test_the_end_has_the_last_step_and_progress_keeps_its_first() -> None:
    machine = Machine(1)
    machine.begin()
    machine.state.report_progress(0, {"step": 1, "time": 5.0, "loss": 2.0})
    machine.state.report_progress(0, {"step": 7, "time": 9.0})
    assert machine.state.workers[0].progress == {"step": 7, "time": 9.0, "first": {"step": 1, "time": 5.0}}
    machine.exit((0, 1))
    end = machine.state.workers[0].end
    assert end is not None and end.step == 7


def test_undo_kills_at_once_and_leaves_nothing() -> None:
    machine = Machine()
    machine.begin()
    machine.carry_out(machine.state.undo())
    assert machine.signals == [(0, signal.SIGKILL), (1, signal.SIGKILL)]
    machine.exit((0, -9), (1, -9))
    assert machine.state.phase == "undone"
    assert machine.state.undo() == [] and machine.state.kill() == []


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_in_whatever_order(seed: int) -> None:
    """No worker is started twice; a stop reaches every worker, by force in the end."""
    chance = random.Random(seed)
    machine = Machine(chance.randint(1, 5), scheduler=chance.random() < 0.5)
    machine.cannot_start = {rank for rank in machine.state.workers if chance.random() < 0.05}
    for _ in range(60):
        step = chance.choice(["start", "commit", "stop", "undo", "kill", "exit", "exit", "tick", "tick"])
        if step == "start":
            machine.begin(commit=False)
        elif step == "exit" and machine.alive:
            count = chance.randint(1, len(machine.alive))
            ranks = chance.sample(sorted(machine.alive), count)
            machine.exit(*((rank, chance.choice([0, 0, 1, -9, -11])) for rank in ranks))
        elif step == "stop" and chance.random() < 0.3:
            machine.carry_out(machine.state.stop(BY_HAND, machine.now))
        elif step == "undo" and chance.random() < 0.1:
            machine.carry_out(machine.state.undo())
        elif step == "kill" and chance.random() < 0.3:
            machine.carry_out(machine.state.kill())
        elif step == "commit":
            machine.state.commit()
        elif step == "tick":
            machine.tick(chance.choice([0.0, 1.0, GRACE, LEASE]))
        check(machine)
    finish(machine)
    check(machine)
    assert machine.state.has_ended and not machine.alive
    assert all(status.state.is_terminal for status in machine.state.workers.values())


def check(machine: Machine) -> None:
    assert max(machine.starts.values(), default=0) <= 1
    running = {rank for rank in machine.state.workers if machine.state.is_running(rank)}
    assert running == machine.alive
    if machine.state.has_ended:
        assert not running
    if machine.state.phase == "stopping":
        assert running <= {rank for rank, _ in machine.signals}
        assert machine.state.stop_reason is not None
    for status in machine.state.workers.values():
        assert status.state.is_terminal == (status.end is not None)
    failed = [rank for rank, status in machine.state.workers.items() if status.state is RankState.FAILED]
    assert (machine.state.failed_first in failed) if failed else machine.state.failed_first is None


def finish(machine: Machine) -> None:
    """A stop by hand, and a world in which SIGKILL is heeded."""
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    for _ in range(3):
        machine.tick(GRACE)
        killed = {rank for rank, number in machine.signals if number == signal.SIGKILL} & machine.alive
        assert machine.state.phase != "stopping" or killed == machine.alive
        machine.exit(*((rank, -9) for rank in killed))
