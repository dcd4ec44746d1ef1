"""What simulated hosts have saved, as the real gathering finds it; where attempts go on; late saves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.core.errors import AgentError
from orchestrator.core.records import Attempt, Load
from orchestrator.simulation.sim_process import SimRun
from orchestrator.simulation.sim_shards import keep_passed_over
from orchestrator.simulation.timetable import Timetable
from orchestrator.simulation.virtual_time import World
from orchestrator.simulation.workload import Gang, Workload
from orchestrator.transfer.saved_attempts import choose_checked, gather_saved
from tests.simulation.simulated import Runs, plan_of, power_off

SAVING = Workload(step=1.0, first_step=5.0, imports=2.0, save_every=10, save=3.0, peer_timeout=300.0)


@pytest.mark.parametrize("begin", [0, 10, 13])
@pytest.mark.parametrize("more", [{}, {"evaluate_every": 7, "evaluate": 4.0}])
def test_the_step_at_any_work_is_that_whose_work_is_done(begin: int, more: dict[str, float]) -> None:
    table = Timetable(dataclasses.replace(SAVING, **more), begin)
    for step in range(begin + 1, begin + 40):
        assert table.steps(table.work_at(step)) == step
        assert table.steps(table.work_at(step) - 0.01) == step - 1
    assert table.work_at(begin + 1) == 5.0


def gang_at(seconds: float, load: Workload, begin: int = 0) -> Gang:
    world = World()
    gang = Gang(world, load, 1)
    gang.begin_at(begin)
    gang.join(0)
    world.after(seconds, lambda: None)
    while world.now < seconds and world.next_event():
        pass
    return gang


def test_a_save_counts_once_it_is_written_in_the_background_too() -> None:
    load = dataclasses.replace(SAVING, save=1.0, write=30.0)
    # Step 10 is made after 14 s of work, and its save is whole 31 s later; step 20 25 s after that of 10.
    assert gang_at(44.0, load).saved == 0
    assert gang_at(45.5, load).saved == 10
    assert gang_at(45.5, load, begin=100).saved == 110


def test_the_last_saves_are_found_checked_and_placed(tmp_path: Path) -> None:
    runs = Runs(plan_of(tmp_path), tmp_path)
    simulation = runs.simulation(power_off(200.0), workload=SAVING, hours=0.1)
    found: list[object] = []

    def look(control: object, ways: object) -> None:
        fleet = simulation.cluster.fleet(simulation.scheduling, timeout=5.0)
        plans = {1: runs.plan}
        saved, notes = gather_saved(fleet, runs.plan.run_id, plans)
        assert [len(files) for files in saved[0].listed.values()] == [4, 4, 4]
        placed = {item.rank: item.host for item in runs.plan.placements}
        chosen = choose_checked(fleet, saved, placed=placed, same_layout=[1])
        assert chosen.sources is not None and notes == []
        found.append(chosen.step.at)
        host, file = chosen.sources[2]
        agent = fleet.agent(host)
        with pytest.raises(AgentError) as refused:
            agent.check_shard(file.path, (1, 2, 3))
        assert refused.value.kind == "checkpoint"
        sha256 = agent.check_shard(file.path, file.identity, hashed=True).sha256
        assert sha256 is not None
        buffer = memoryview(bytearray(file.identity[0]))
        ((data, _),) = agent.read_segments(
            buffer, [(file.path, [(0, len(buffer))])], {file.path: file.identity}, timeout=60.0
        )
        assert bytes(data).startswith(b"rank 2, step 60 of attempt 1")
        load = Load("rank_2/x.ckpt", "/nowhere/checkpoint_rank_2-1_60.ckpt", file.identity)
        with pytest.raises(AgentError) as refused:
            agent.place_shards(runs.plan.run_id, 1, [load], (1, 60))
        assert refused.value.kind == "missing_shard"
        with pytest.raises(AgentError):
            agent.place_shards(runs.plan.run_id, 2, [], (1, 60))

    simulation.at(95.0, look)
    outcome = simulation.run()
    assert found == [(1, 60)]
    assert outcome.saved >= 60


def test_what_a_monitor_would_have_removed_is_gone_after_saves_that_were_passed_over(
    tmp_path: Path,
) -> None:
    """An attempt that followed another, of whose saves nothing is needed once the new ones are whole."""
    cluster = Runs(plan_of(tmp_path), tmp_path).simulation(workload=SAVING).cluster
    gang, hosts = gang_at(100.0, SAVING, begin=20), list(cluster.hosts.values())
    manifests = plan_of(tmp_path).manifests
    for host in hosts:
        before = SimRun(manifests[host.name], {}, gang_at(50.0, SAVING))
        run = SimRun(dataclasses.replace(manifests[host.name], attempt=Attempt(2)), {}, gang)
        run.before = host.runs["r"] = before
        host.runs["r"] = run
    first = hosts[0].runs["r"]
    first.unsaved.add(gang.kept_steps[0])
    keep_passed_over(hosts, gang)
    assert first.before is not None  # not all have that step
    first.unsaved.clear()
    keep_passed_over(hosts, gang)
    assert all(host.runs["r"].before is None for host in hosts)
    assert first.oldest_kept == (2, gang.kept_steps[0])
