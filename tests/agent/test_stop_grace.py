"""Stops that save, failures that are not waited for, signals that were not ours: all without a process."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from orchestrator.agent.last_save import is_last_save_written, is_set_to_save
from orchestrator.agent.stop_grace import grace_of, saves_at_its_end
from orchestrator.agent.supervisor_state import Signal, SupervisorState
from orchestrator.core.ends import SAVED_EXIT, SCHEDULER, EndKind, StopKind, StopReason
from orchestrator.core.records import Manifest, RankStatus, StallKind, WorkerSpec
from orchestrator.core.states import RankState
from orchestrator.testing.waiting import eventually
from tests.agent.test_supervisor_state import BY_HAND, GRACE, Machine, manifest

FAILED = StopReason(StopKind.WORKER_FAILED, "elsewhere", 7)
FAILURE_GRACE = 2.0


def several_hosts(machine: Machine) -> Machine:
    """The same on one of two hosts."""
    alone = manifest(
        len(machine.state.specs) - (SCHEDULER in machine.state.specs), SCHEDULER in machine.state.specs
    )
    machine.state = SupervisorState(dataclasses.replace(alone, hosts=("h", "other")), machine.now)
    return machine


def trains(
    machine: Machine, *, save: float | None = 30.0, step: float = 4.0, can: tuple[str, ...] = ("save",)
) -> None:
    """Every rank has made steps, and a save."""
    for number in range(1, 6):
        machine.now += step
        for rank in machine.state.workers:
            if rank != SCHEDULER:
                lines = [{"step": number, "can": list(can), "time": machine.now}]
                lines.append({"phase": "step", "can": list(can), "time": machine.now})
                machine.state.report_lines(rank, lines, machine.now, machine.now)
        machine.tick()
    if save is not None:
        for phase, seconds in (("save", 0.0), ("step", save)):
            machine.now += seconds
            for rank in machine.state.workers:
                if rank != SCHEDULER:
                    line = {"phase": phase, "step": 5, "saved": 5, "time": machine.now}
                    machine.state.report_lines(rank, [line], machine.now, machine.now)
            machine.tick()


def test_a_stop_gives_the_time_that_steps_and_saves_need() -> None:
    machine = Machine()
    machine.begin()
    trains(machine)
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    assert machine.state.grace == 2 * 4.0 + 2 * 30.0 + 5.0 and machine.state.saves
    assert machine.state.status(0.0).grace == machine.state.grace
    machine.tick(72.0)
    assert {number for _, number in machine.signals} == {signal.SIGTERM}
    machine.state.report_lines(0, [{"phase": "step", "saved": 6}], machine.now, machine.now)
    machine.state.report_lines(1, [{"phase": "step", "saved": 6}], machine.now, machine.now)
    machine.exit((0, SAVED_EXIT), (1, SAVED_EXIT))
    ends = [status.end for status in machine.state.workers.values()]
    assert [end and (end.kind, end.exit_code, end.saved, end.reason) for end in ends] == [
        (EndKind.STOPPED, SAVED_EXIT, 6, BY_HAND)
    ] * 2
    assert machine.states() == ["stopped"] * 2 and machine.state.phase == "over"


@pytest.mark.parametrize(
    ("reason", "can", "step", "save", "seconds"),
    [
        (BY_HAND, ("save",), 1.0, 0.5, GRACE),  # what the job says, if that is more
        (BY_HAND, ("save",), 1.0, 30.0, 67.0),
        (BY_HAND, ("save",), 1.0, None, 247.0),  # nobody has seen a save
        (BY_HAND, ("save",), 10.0, 1e6, 1800.0),
        (BY_HAND, ("stacks",), 10.0, 30.0, GRACE),
        (FAILED, ("save",), 10.0, 30.0, FAILURE_GRACE),
        (FAILED, ("end_of_life_save",), 10.0, 30.0, GRACE),
        (StopReason(StopKind.LAUNCH_LAPSED), ("save",), 10.0, 30.0, GRACE),
    ],
)
def test_how_long_workers_are_let_live(
    reason: StopReason, can: tuple[str, ...], step: float, save: float | None, seconds: float
) -> None:
    ranks = [RankStatus(0, 0, 0, RankState.RUNNING, progress={"step": 3}, can=can)]
    assert grace_of(manifest(), reason, ranks, step, save) == seconds


def test_who_has_made_no_step_has_nothing_to_save() -> None:
    ranks = [RankStatus(0, 0, 0, RankState.RUNNING, can=("save",))]
    assert grace_of(manifest(), BY_HAND, ranks, None, None) == GRACE


@pytest.mark.parametrize("stalled", list(StallKind))
def test_where_one_does_not_go_on_nobody_can_save(stalled: StallKind) -> None:
    ranks = [RankStatus(0, 0, 0, RankState.RUNNING, progress={"step": 3}, can=("save",)) for _ in range(2)]
    ranks.append(dataclasses.replace(ranks[0], stalled=stalled))
    assert grace_of(manifest(), BY_HAND, ranks, 1.0, 30.0) == GRACE


@pytest.mark.parametrize(
    ("value", "saves"),
    [
        ("{TTP:1,UCE:1}", True),
        ("{TTP: 1}", True),
        ("{UCE:1}", True),
        ("{ARF:1}", True),
        ("{TTP:0,TRE:1}", False),
        ("{HCCE:1}", False),
        ("", False),
    ],
)
def test_a_job_that_has_mindspore_save_at_the_end(value: str, saves: bool) -> None:
    spec = WorkerSpec("rank_0", 0, 0, 0, ("x",), {"MS_ENABLE_TFT": value})
    made = Manifest("r", "j", "h", 0.0, (spec,), grace=GRACE)
    assert saves_at_its_end(made) is saves
    ranks = [RankStatus(0, 0, 0, RankState.RUNNING)]
    assert grace_of(made, FAILED, ranks, None, None) == (GRACE if saves else FAILURE_GRACE)


def test_the_others_of_one_that_has_failed_are_given_a_moment() -> None:
    machine = Machine()
    machine.begin()
    machine.exit((1, 3))
    machine.tick(FAILURE_GRACE - 0.1)
    assert machine.signals == [(0, signal.SIGTERM)]
    machine.tick(0.1)
    assert machine.signals == [(0, signal.SIGTERM), (0, signal.SIGKILL)]


def test_one_that_is_seen_to_save_at_its_end_is_given_the_grace() -> None:
    machine = Machine()
    machine.begin()
    machine.exit((1, 3))
    machine.now += 1.0
    machine.state.report_last_save()
    machine.tick(GRACE - 1.5)
    assert machine.signals == [(0, signal.SIGTERM)]
    machine.tick(0.5)
    assert machine.signals[-1] == (0, signal.SIGKILL)
    other = Machine()
    other.begin()
    other.carry_out(other.state.stop(BY_HAND, other.now))
    other.state.report_last_save()
    assert other.state.grace == GRACE  # a stop has its own


def test_a_checkpoint_that_is_written_at_the_end_of_a_life_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "attempts" / "1" / "output"
    folder.mkdir(parents=True)
    assert not is_last_save_written(tmp_path)
    whole = folder / "ttp_saved_checkpoints-step_12"
    whole.mkdir()
    (tmp_path / "elsewhere").symlink_to("/")
    assert not is_last_save_written(tmp_path)
    whole.rename(folder / "ttp_saved_checkpoints-step_12_tmp")
    assert is_last_save_written(tmp_path)
    assert not is_last_save_written(tmp_path / "nothing")


def test_what_the_script_of_a_host_has_set_is_found_in_the_process() -> None:
    for value, saves in (("{TTP:1}", True), ("{TTP:0}", False)):
        env = {**os.environ, "MS_ENABLE_TFT": value}
        with subprocess.Popen(["sleep", "60"], env=env) as process:
            environment = Path(f"/proc/{process.pid}/environ")
            # The kernel lays it out a moment after the parent hears that the program has begun.
            eventually(lambda file=environment: b"MS_ENABLE_TFT" in file.read_bytes(), what="an environment")
            assert is_set_to_save(process.pid) is saves
            process.kill()
    assert not is_set_to_save(process.pid)


@pytest.mark.parametrize("code", [SAVED_EXIT, -signal.SIGTERM])
def test_a_signal_that_was_not_ours_is_a_failure(code: int) -> None:
    machine = Machine()
    machine.begin()
    trains(machine)
    machine.exit((1, code))
    end = machine.state.workers[1].end
    assert machine.states() == ["running", "failed"] and end is not None and machine.state.failed_first == 1
    assert (end.kind, end.signal) == (
        (EndKind.EXITED, None) if code == SAVED_EXIT else (EndKind.SIGNALLED, signal.SIGTERM)
    )


def test_on_several_hosts_one_that_has_saved_may_be_ahead_of_the_stop() -> None:
    """The ranks agree among themselves: the stop of another host reaches it before ours."""
    machine = several_hosts(Machine())
    machine.begin()
    trains(machine)
    machine.exit((0, SAVED_EXIT), (1, SAVED_EXIT))
    assert machine.state.phase == "committed" and machine.states() == ["running"] * 2
    machine.tick(4.0)
    assert machine.state.phase == "committed"
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    machine.tick()
    assert machine.states() == ["stopped"] * 2 and machine.state.phase == "over" and machine.signals == []
    assert {status.end and status.end.saved for status in machine.state.workers.values()} == {5}


def test_on_several_hosts_one_that_has_saved_without_a_stop_has_failed() -> None:
    machine = several_hosts(Machine())
    machine.begin()
    trains(machine)
    machine.exit((0, SAVED_EXIT))
    machine.tick(6.0)
    assert machine.states() == ["failed", "running"] and machine.signals == [(1, signal.SIGTERM)]
    undone = several_hosts(Machine(1))
    undone.begin()
    trains(undone)
    undone.exit((0, SAVED_EXIT))
    undone.carry_out(undone.state.undo())
    undone.tick()
    assert undone.state.phase == "undone"


def test_while_ranks_save_one_that_fails_is_not_waited_for_long() -> None:
    machine = Machine(3)
    machine.begin()
    trains(machine)
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    machine.exit((1, 1))
    machine.tick(GRACE)
    assert [each for each in machine.signals if each[1] == signal.SIGKILL] == [
        (0, signal.SIGKILL),
        (2, signal.SIGKILL),
    ]


def test_the_scheduler_is_let_be_until_the_ranks_have_saved() -> None:
    machine = Machine(2, scheduler=True)
    machine.begin()
    trains(machine)
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    assert {rank for rank, _ in machine.signals} == {0, 1}
    machine.exit((0, SAVED_EXIT))
    machine.tick(1.0)
    assert SCHEDULER in machine.alive and {rank for rank, _ in machine.signals} == {0, 1}
    machine.exit((1, SAVED_EXIT))
    assert machine.signals[-1] == (SCHEDULER, signal.SIGTERM)
    machine.exit((SCHEDULER, -signal.SIGTERM))
    assert machine.state.phase == "over" and machine.states() == ["stopped"] * 3
    stuck = Machine(1, scheduler=True)
    stuck.begin()
    trains(stuck)
    stuck.carry_out(stuck.state.stop(BY_HAND, stuck.now))
    stuck.tick(2000.0)
    killed = [rank for rank, number in stuck.signals if number == signal.SIGKILL]
    assert sorted(killed) == [SCHEDULER, 0]


def test_a_stop_at_once_ends_those_that_save() -> None:
    machine = Machine()
    machine.begin()
    trains(machine)
    machine.carry_out(machine.state.stop(BY_HAND, machine.now))
    assert machine.state.kill() == [Signal(0, signal.SIGKILL), Signal(1, signal.SIGKILL)]
