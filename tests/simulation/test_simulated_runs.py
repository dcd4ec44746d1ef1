"""Simulated runs: what the real monitor makes of faults in each phase, as with real hosts (tests/e2e)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.core.ends import EndKind, StopKind
from orchestrator.core.states import RankState, RunState
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.workload import Workload
from tests.simulation.simulated import Runs, back, plan_of, power_off

HOST = "node0002"  # has ranks 2 and 3
CONNECTING, PREPARING, STARTING = 0.2, 0.95, 1.06


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("simulated")
    return Runs(plan_of(folder), folder)


def at(time: float, kind: str, **more: object) -> Fault:
    return Fault(time=time, kind=kind, **more)  # type: ignore[arg-type]


def test_a_run_from_its_launch_to_its_good_end(runs: Runs) -> None:
    found = runs()
    assert (found.state, found.exit_code, found.cause) == (RunState.SUCCEEDED, 0, None)
    assert found.steps == 100 and found.orphans == ()
    assert found.running is not None and found.running < 5
    # import 8 s, first step 20 s, 99 of 2 s each
    assert found.ended == pytest.approx(1 + 8 + 20 + 198, abs=2.0)
    assert all(rank.state is RankState.SUCCEEDED for rank in found.record.ranks())


@pytest.mark.parametrize(
    ("faults", "code", "cause", "kind"),
    [
        pytest.param([at(90, "kill", rank=3)], 1, (HOST, 3), EndKind.SIGNALLED, id="kill"),
        pytest.param([at(90, "exit", rank=3, code=7)], 1, (HOST, 3), EndKind.EXITED, id="exit"),
        pytest.param([at(4, "exit", rank=3)], 1, (HOST, 3), EndKind.EXITED, id="exit while it imports"),
        pytest.param([at(90, "freeze", rank=3)], 1, (HOST, 3), EndKind.LOST, id="freeze"),
        pytest.param([at(90, "freeze", rank=3, seconds=30)], 0, None, None, id="freeze for a while"),
        pytest.param([at(90, "hang", rank=3)], 1, (HOST, 3), EndKind.LOST, id="hang"),
        pytest.param(
            [at(90, "kill_supervisor", host=HOST)], 1, (HOST, 2), EndKind.SUPERVISOR_ENDED, id="supervisor"
        ),
        pytest.param(
            [at(90, "kill_guardian", host=HOST)], 1, (HOST, None), EndKind.SUPERVISOR_ENDED, id="guardian"
        ),
        pytest.param([at(90, "reboot", host=HOST, seconds=100)], 1, (HOST, 2), EndKind.LOST, id="reboot"),
        pytest.param([at(90, "reboot", host=HOST, seconds=15)], 1, (HOST, 2), EndKind.LOST, id="quick"),
        pytest.param([power_off(90)], 1, (HOST, 2), EndKind.LOST, id="power off"),
        pytest.param([power_off(90), back(800)], 1, (HOST, 2), EndKind.LOST, id="power off and back"),
        pytest.param([at(90, "partition", host=HOST, seconds=20)], 0, None, None, id="short partition"),
        pytest.param([at(90, "partition", host=HOST, seconds=200)], 0, None, None, id="long partition"),
        pytest.param(
            [at(90, "partition", host=HOST, scope="all"), back(900)], 1, (HOST, 2), EndKind.LOST, id="away"
        ),
        pytest.param([at(90, "refuse_login", host=HOST, seconds=200)], 0, None, None, id="refused login"),
        pytest.param([at(90, "slow", host=HOST, delay=3.0, factor=2.0)], 0, None, None, id="slow"),
        pytest.param([at(90, "clock_jump", host=HOST, jump=500.0)], 0, None, None, id="clock ahead"),
        pytest.param([at(90, "clock_jump", host=HOST, jump=-500.0)], 0, None, None, id="clock behind"),
        pytest.param([at(90, "fill_disk", host=HOST)], 0, None, None, id="full disk"),
        pytest.param(
            [at(90, "monitor_kill", seconds=20.0), at(150, "kill", rank=3)],
            1,
            (HOST, 3),
            EndKind.SIGNALLED,
            id="kill under a second monitor",
        ),
    ],
)  # fmt: skip
def test_a_fault_while_the_run_makes_steps(
    runs: Runs, faults: Sequence[Fault], code: int, cause: tuple[str, int] | None, kind: EndKind | None
) -> None:
    found = runs(*faults)
    named = found.cause
    assert found.exit_code == code
    assert (named and (named.host, named.rank)) == cause
    assert (named and named.end.kind) == kind
    assert found.record.state.is_terminal and found.orphans == ()


def test_what_a_host_says_when_its_supervisor_or_guardian_was_killed(runs: Runs) -> None:
    """As the real ones of tests/agent/test_full_disk.py and test_ending.py."""
    expected = {
        "kill_supervisor": (StopKind.SUPERVISOR_ENDED, RankState.FAILED),
        "kill_guardian": (StopKind.GUARDIAN_ENDED, RankState.STOPPED),
    }
    for kind, (why, state) in expected.items():
        simulation = runs.simulation(at(90, kind, host=HOST))
        status = simulation.run().record.hosts[HOST].status
        assert status is not None and status.is_over and status.stop is not None
        assert status.stop.kind is why and {rank.state for rank in status.ranks} == {state}
        assert simulation.cluster.hosts[HOST].busy_devices(range(8)) == []


@pytest.mark.parametrize("lie", ["no_answer", "other_ranks", "other_run", "garbage", "flood"])
def test_a_host_that_lies_for_a_while_costs_nobody_the_run(runs: Runs, lie: str) -> None:
    found = runs(at(90, "lie", host=HOST, seconds=60, lie=lie))
    assert found.exit_code == 0
    whats = [each.what for each in found.happenings if each.host == HOST]
    if lie in ("no_answer", "flood", "garbage"):  # of what it is the others are only part of a snapshot
        assert "unreachable" in whats and "answers" in whats


@pytest.mark.parametrize("lie", ["no_answer", "other_ranks", "other_run", "garbage", "flood"])
def test_a_host_that_lies_for_good_keeps_no_run_from_its_end(runs: Runs, lie: str) -> None:
    """It can be reached each time, and has never said a word of the run since."""
    found = runs(at(90, "lie", host=HOST, lie=lie), at(130, "exit", rank=5, code=3))
    assert found.state is RunState.FAILED and found.ended is not None and found.ended < 130 + 2 * 60
    assert found.cause is not None and (found.cause.rank, found.cause.end.exit_code) == (5, 3)


def test_a_host_without_room_fails_at_its_next_save(runs: Runs) -> None:
    load = Workload(steps=100, save_every=40, save=20.0)
    found = runs(at(80, "fill_disk", host=HOST), workload=load)
    assert found.exit_code == 1 and found.cause is not None and found.cause.host == HOST
    assert found.cause.end.tail == ()  # its last words find no room either: as test_against_reality has it
    assert found.steps == 40


@pytest.mark.parametrize(
    ("time", "kind", "code", "says"),
    [
        (CONNECTING, "power_off", 3, "the connection broke"),
        (CONNECTING, "fill_disk", 4, "no space: 0 MiB free"),
        (PREPARING, "power_off", 3, "the connection broke"),
        (PREPARING, "reboot", 3, "the connection broke"),
        (PREPARING, "fill_disk", 4, "No space left on device"),
        (STARTING, "power_off", 3, "the connection broke"),
        (STARTING, "reboot", 3, "the connection broke"),
    ],
)
def test_a_launch_that_a_host_spoils_starts_nobody(
    runs: Runs, time: float, kind: str, code: int, says: str
) -> None:
    found = runs(at(time, kind, host=HOST))
    assert (found.state, found.exit_code) == (RunState.FAILED, code)
    assert len(found.record.errors) == 1 and f"{HOST}: " in found.record.errors[0]
    assert says in found.record.errors[0]
    assert found.orphans == ()


@pytest.mark.parametrize("time", [CONNECTING, PREPARING, STARTING])
@pytest.mark.parametrize("seconds", [5.0, 20.0, 400.0])
def test_a_launch_whose_monitor_is_killed_starts_all_or_none(runs: Runs, time: float, seconds: float) -> None:
    found = runs(at(time, "monitor_kill", seconds=seconds))
    if found.exit_code == 0:
        assert found.steps == 100
    else:
        assert found.exit_code == 2 and "launch broke off" in found.record.errors[0]
        assert found.steps == 0
    assert found.orphans == ()


@pytest.mark.parametrize("time", [CONNECTING, PREPARING, STARTING])
def test_the_lease_ends_a_launch_that_nobody_takes_up(runs: Runs, time: float) -> None:
    simulation = runs.simulation(at(time, "monitor_kill", seconds=7200.0))
    found = simulation.run()
    assert found.orphans == () and not found.record.state.is_terminal
    held = [host.busy_devices(range(8)) for host in simulation.cluster.hosts.values()]
    assert held == [[]] * 3


def test_a_partition_during_the_launch_only_makes_it_late(runs: Runs) -> None:
    for time in (CONNECTING, PREPARING, STARTING):
        found = runs(at(time, "partition", host=HOST, seconds=20))
        assert found.exit_code == 0 and found.running is not None and 20 < found.running < 30


def test_the_same_seed_gives_the_same_trace(runs: Runs) -> None:
    faults = (
        at(60, "partition", host="node0003", seconds=90),
        at(100, "monitor_kill", seconds=10.0),
        at(170, "freeze", rank=1, seconds=15),
        at(200, "kill", rank=4),
    )
    first, second = (runs(*faults, seed=5).trace() for _ in range(2))
    assert first == second
    assert first.count("\n") > 12


_ONE_RUN = """
import sys
from pathlib import Path
from tests.simulation.simulated import Fault, Runs, plan_of
folder = Path(sys.argv[1])
faults = Fault(time=60, kind="partition", host="node0003", seconds=90), Fault(time=170, kind="kill", rank=4)
sys.stdout.write(Runs(plan_of(folder), folder)(*faults, seed=5).trace())
"""


def test_the_trace_is_the_same_in_every_process(tmp_path: Path) -> None:
    traces = []
    for hashes in ("1", "2"):  # the order of a set of texts is another in each
        folder = tmp_path / hashes
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _ONE_RUN, str(folder)],
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        )
        traces.append(done.stdout)
    assert traces[0] == traces[1] and b"rank 4" in traces[0]


def decisions(runs: Runs, faults: Sequence[Fault], *, jumps: bool) -> tuple[object, ...]:
    load = Workload(steps=1000, save_every=300, save=40.0, peer_timeout=300.0)
    found = runs(*faults, workload=load, hours=3, jumps=jumps)
    whats = [(each.what, each.host, each.rank) for each in found.happenings]
    times = [each.time for each in found.happenings]
    assert (found.cost.jumped > 600) is jumps
    return found.state, found.exit_code, found.cause and (found.cause.host, found.cause.rank), whats, times


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([], id="none"),
        pytest.param([at(1500, "kill", rank=3)], id="kill"),
        pytest.param([at(900, "partition", host=HOST, seconds=100), power_off(1500)], id="hosts"),
    ],
)
def test_jumping_over_steps_changes_no_decision(runs: Runs, faults: Sequence[Fault]) -> None:
    *with_jumps, times = decisions(runs, faults, jumps=True)
    *without, true_times = decisions(runs, faults, jumps=False)
    assert sorted(map(str, with_jumps.pop())) == sorted(map(str, without.pop()))  # type: ignore[call-overload]
    assert with_jumps == without
    for one, other in zip(sorted(times), sorted(true_times), strict=True):  # type: ignore[call-overload]
        assert abs(one - other) < 40.0  # within two beats and a margin a host that says nothing is noticed


def test_ascend_hosts_are_checked_and_get_a_rank_table(tmp_path: Path) -> None:
    found = Runs(plan_of(tmp_path, 2, 8, ascend=True), tmp_path)(at(90, "kill", rank=9))
    assert found.record.errors == ()
    assert found.exit_code == 1 and found.cause is not None and found.cause.rank == 9
