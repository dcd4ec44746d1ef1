"""Simulated runs that tell of phases, save when they are stopped, and show their stacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.control.stop import Ways, stop_run
from orchestrator.core.ends import SAVED_EXIT, EndKind, StopReason
from orchestrator.core.errors import AgentError, OrchestrateError
from orchestrator.core.host_answers import StacksAnswer
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Phase
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import read_plan
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import Simulation
from orchestrator.simulation.timetable import Timetable
from orchestrator.simulation.workload import Workload
from tests.simulation.simulated import Runs, plan_of

BY_ME = StopReason.requested("stopped by me")
TRAINS = Workload(
    first_step=60.0, save_every=10, save=25.0, has_phases=True, can=("stacks", "save"), peer_timeout=3600.0
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("phases")
    return Runs(plan_of(folder, 3, 1), folder)


LOADS = {
    "plain": Workload(),
    "saves": Workload(save_every=3, save=7.0),
    "all": Workload(save_every=4, evaluate_every=6, evaluate=11.0, recompile_at=7, recompile=30.0, steps=40),
    "each": Workload(save_every=1, evaluate_every=1, evaluate=0.5),
}


@pytest.mark.parametrize("name", LOADS)
def test_the_timetable_is_that_of_steps_one_by_one(name: str) -> None:
    """Against a walk from pause to pause."""
    load, table = LOADS[name], Timetable(LOADS[name])
    work, step, walked = 0.0, 0, list[tuple[float, Phase, int]]()
    walked.append((0.0, Phase.COMPILE, 0))
    for step in range(1, 40):
        work += load.first_step if step == 1 else load.step
        assert table.work_at(step) == pytest.approx(work)
        assert (table.steps(work - 0.01), table.steps(work + 0.01)) == (step - 1, step)
        for phase, every, seconds in (
            (Phase.SAVE, load.save_every, load.save),
            (Phase.EVALUATE, load.evaluate_every, load.evaluate),
        ):
            if every is not None and step % every == 0:
                walked.append((work, phase, step))
                work += seconds
        if load.recompile_at == step:
            walked.append((work, Phase.COMPILE, step))
            work += load.recompile
        walked.append((work, Phase.STEP, step))
    for begun, phase, step in walked[:-1]:
        place = table.place(begun + 0.01)
        assert (place.phase, place.step, place.since) == (phase, step, pytest.approx(begun))
    changes = [
        begun
        for (begun, phase, _), (_, before, _) in zip(walked[1:], walked, strict=False)
        if phase is not before
    ]
    moments = [0.0]
    while len(moments) <= len(changes) and (then := table.next_phase(moments[-1])) is not None:
        moments.append(then)
    assert moments[1:] == pytest.approx(changes)


def test_ranks_tell_of_their_phases(runs: Runs) -> None:
    seen: dict[Phase | None, float] = {}
    simulation = runs.simulation(workload=TRAINS, hours=0.1, jumps=False)

    def look(_: ControlDir, ways: Ways) -> None:
        for _second in range(160):
            ways.scheduling.sleep(1.0)
            record = simulation.record
            assert record is not None
            for rank in record.ranks():
                seen.setdefault(rank.phase, simulation.world.now)
                if rank.phase is Phase.SAVE:
                    assert rank.progress["step"] % 10 == 0

    simulation.at(1.0, look)
    simulation.run()
    assert list(seen)[-4:] == [Phase.IMPORT, Phase.COMPILE, Phase.STEP, Phase.SAVE] or Phase.INIT in seen
    assert seen[Phase.STEP] == pytest.approx(1 + 8 + 60, abs=4.0)
    assert seen[Phase.SAVE] == pytest.approx(1 + 8 + 60 + 18, abs=4.0)


class Stop:
    """Somebody's `orchestrate stop`, and what came of it."""

    def __init__(self, simulation: Simulation, time: float, reason: StopReason = BY_ME) -> None:
        self.seconds = 0.0
        self.error: OrchestrateError | None = None
        self.said: list[str] = []
        self._reason = reason
        simulation.at(time, self._give)

    def _give(self, control: ControlDir, ways: Ways) -> None:
        begun = ways.scheduling.monotonic()
        try:
            self.record = stop_run(control, self._reason, say=self.said.append, ways=ways)
        except OrchestrateError as error:
            self.error = error
        self.seconds = ways.scheduling.monotonic() - begun


@pytest.mark.parametrize("monitor", ["lives", "is dead"])
def test_a_stop_waits_for_the_checkpoint_of_all(runs: Runs, monitor: str) -> None:
    faults = [Fault(time=170.0, kind="monitor_kill", seconds=7200.0)] if monitor == "is dead" else []
    simulation = runs.simulation(*faults, workload=TRAINS, hours=0.2, jumps=False)
    stop = Stop(simulation, 180.0)
    found = simulation.run()
    assert stop.error is None and stop.record.state is RunState.STOPPED
    ends = [rank.end for rank in stop.record.ranks()]
    saved = {end.saved for end in ends if end is not None}
    assert [end and (end.kind, end.exit_code) for end in ends] == [(EndKind.STOPPED, SAVED_EXIT)] * 3
    assert len(saved) == 1 and found.saved in saved and found.orphans == ()
    assert 20.0 < stop.seconds < 2 * 2 + 2 * 25 + 5 + 3
    if monitor == "is dead":
        assert stop.said == ["saving a checkpoint: up to 59 s; --now ends it at once"]


def test_a_stop_at_once_ends_what_is_saving(runs: Runs) -> None:
    simulation = runs.simulation(workload=TRAINS, hours=0.2, jumps=False)
    first = Stop(simulation, 180.0)
    now = Stop(simulation, 185.0, StopReason(BY_ME.kind, text="now", now=True))
    found = simulation.run()
    assert now.error is None and now.seconds < 3.0 and first.seconds < 9.0 and found.orphans == ()
    ends = [rank.end for rank in now.record.ranks()]
    assert [end and (end.kind, end.saved) for end in ends] == [(EndKind.STOPPED, None)] * 3


def test_a_rank_that_has_failed_is_not_saved_around(runs: Runs) -> None:
    """Nobody can save without it: the others get the moment that `failure_grace` gives."""
    simulation = runs.simulation(
        Fault(time=180.0, kind="kill", rank=1), workload=TRAINS, hours=0.2, jumps=False
    )
    found = simulation.run()
    assert found.state is RunState.FAILED and found.cause is not None and found.cause.rank == 1
    assert found.ended == pytest.approx(182.0, abs=2.0)
    assert {rank.end and rank.end.saved for rank in found.record.ranks()} == {None}


def test_hosts_show_the_stacks_of_their_ranks_and_refuse_a_late_control_node(runs: Runs) -> None:
    simulation = runs.simulation(
        Fault(time=150.0, kind="hang", rank=1), workload=TRAINS, hours=0.05, jumps=False
    )
    told: dict[str, StacksAnswer] = {}
    refused: list[str] = []

    def look(control: ControlDir, ways: Ways) -> None:
        plan = read_plan(control.plan)
        with ways.fleet(plan) as fleet:
            told.update(fleet.each(lambda agent: agent.stacks(plan.run_id)).values)
            agent: object = fleet.agent(plan.hosts[0].name)
            for epoch in (2, 1):
                claim = {"epoch": epoch, "holder": f"control node {epoch}"}
                try:
                    agent._do("commit", run_id=plan.run_id, claim=claim)  # type: ignore[attr-defined]
                except AgentError as error:
                    refused.append(f"{error.kind}: {error.what}")

    simulation.at(160.0, look)
    simulation.run()
    texts = {rank: each.text for answer in told.values() for rank, each in answer.ranks.items()}
    assert set(texts) == {"0", "1", "2"}
    assert texts["0"] == texts["2"] != texts["1"] and "data.py" in texts["1"]
    [line] = refused
    assert line.startswith("claim: run ") and line.endswith(" is in the hands of control node 2 (claim 2)")


def test_a_frozen_rank_is_seen_within_a_few_seconds(runs: Runs) -> None:
    simulation = runs.simulation(
        Fault(time=150.0, kind="freeze", rank=1), workload=TRAINS, hours=0.05, jumps=False
    )
    seen: list[float] = []

    def look(_: ControlDir, ways: Ways) -> None:
        for _second in range(20):
            ways.scheduling.sleep(0.5)
            assert simulation.record is not None
            if any(rank.stalled is not None for rank in simulation.record.ranks()):
                seen.append(simulation.world.now)
                return

    simulation.at(150.0, look)
    simulation.run()
    assert seen and seen[0] <= 154.0


def test_a_line_in_a_hundred_steps(runs: Runs, tmp_path: Path) -> None:
    """MindFormers' sink mode."""
    load = Workload(first_step=20.0, step=1.0, steps=500, report_every=100)
    found = runs(workload=load)
    assert found.exit_code == 0 and {rank.progress["step"] for rank in found.record.ranks()} == {500}
