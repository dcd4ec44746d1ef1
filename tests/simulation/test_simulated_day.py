"""A simulated day: its attempts, what still lasts of a fault, the account of time, and what is printed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.config.run_terms import Restart
from orchestrator.core.states import RunState
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.scaled_plan import scaled_plan
from orchestrator.simulation.simulated_day import SimulatedDay, faults_from, simulated_day

ROOT = Path(__file__).parents[2]
JOB, LOCAL = ROOT / "jobs/demo.yaml", ROOT / "inventory/local.yaml"


def live(folder: Path, *faults: Fault, hours: float = 1.0, relaunch: float | None = 600.0) -> SimulatedDay:
    scaled = scaled_plan(JOB, LOCAL, None)
    return simulated_day(
        dataclasses.replace(scaled.plan, restart=Restart()),  # a person is what is looked at here
        folder,
        workload=scaled.workload(2.0),
        faults=faults,
        hours=hours,
        relaunch=relaunch,
    )


def test_copies_are_not_simulated_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: x\ntask: command\ndevices_per_host: 1\ncommand: [a]\ncheckpoint: {copies: 1}\n")
    scaled = scaled_plan(path, None, 2)
    assert scaled.plan.copies is None and "checkpoint.copies=0" in scaled.job.source.overrides
    assert any("copies" in note for note in scaled.notes)


def test_a_failed_run_goes_on_from_its_last_complete_save(tmp_path: Path) -> None:
    """320 steps of 2 s, saved after every 160: it is killed at 460 s, behind the first save."""
    day = live(tmp_path, Fault(460, "kill", rank=3))
    first, second = day.attempts
    assert first.outcome.state is RunState.FAILED and 160 < first.outcome.steps < 320
    assert first.kept == second.resumed == 160
    assert second.outcome.state is RunState.SUCCEEDED and second.outcome.steps == 160
    assert day.step == 320 and second.times.ended == day.seconds
    assert second.launched == pytest.approx(first.times.ended + 600 if first.times.ended else 0)
    account = day.account
    assert account.whole == pytest.approx(day.seconds)
    assert account.down == pytest.approx(600)
    assert account.productive == pytest.approx(640, abs=10)
    assert account.lost == pytest.approx((first.outcome.steps - 160) * 2, abs=3)
    assert account.saving > 0 and account.starting > 0


def test_without_a_person_the_first_failure_is_the_end(tmp_path: Path) -> None:
    day = live(tmp_path, Fault(200, "exit", rank=0, code=3), relaunch=None)
    (only,) = day.attempts
    assert only.kept == 0 and day.step == 0
    assert day.seconds == only.times.ended and day.account.productive == 0


def test_a_host_without_power_refuses_launches_until_it_returns(tmp_path: Path) -> None:
    day = live(tmp_path, Fault(200, "power_off", host="host2"), Fault(2000, "return", host="host2"))
    states = [attempt.outcome.record.has_started for attempt in day.attempts]
    assert states[0] and states[-1] and False in states
    assert all(attempt.launched + 60 < 2000 for attempt in day.attempts[1:-1])
    assert day.step > 0


def test_a_run_with_a_policy_goes_on_by_itself_within_one_launch(tmp_path: Path) -> None:
    """Nobody waits for a person: the demo's own `restart`."""
    scaled, kill = scaled_plan(JOB, LOCAL, None), Fault(460, "kill", rank=3)
    day = simulated_day(scaled.plan, tmp_path, workload=scaled.workload(2.0), faults=[kill], hours=1.0)
    (only,) = day.attempts
    first, second = only.all_times
    assert only.outcome.state is RunState.SUCCEEDED and only.kept == 320
    assert [seen.resumed for seen in only.outcome.attempts] == [0, 160]
    assert first.restarts and first.kept == 160 and second.kept == 160
    assert first.ended is not None and second.launched - first.ended < 5.0


def test_what_still_lasts_meets_the_next_attempt() -> None:
    faults = (
        Fault(10, "kill", rank=0),
        Fault(15, "kill_supervisor", host="a"),
        Fault(16, "kill_guardian", host="b"),
        Fault(20, "partition", host="a", seconds=100),
        Fault(30, "power_off", host="b"),
        Fault(40, "fill_disk", host="c", seconds=5),
        Fault(50, "power_off", host="d"),
        Fault(60, "return", host="d"),
        Fault(70, "clock_jump", host="a", jump=5),
        Fault(200, "kill", rank=1),
    )
    assert faults_from(faults, 100) == (
        Fault(0, "partition", host="a", seconds=20),
        Fault(0, "power_off", host="b"),
        Fault(0, "clock_jump", host="a", jump=5),
        Fault(100, "kill", rank=1),
    )


def simulate(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["simulate", *map(str, words)], standalone_mode=False)


def test_the_report_fits_80_columns(tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults:\n  - {time: 5m, kind: kill, rank: 3}\n")
    job = tmp_path / "jobs/demo.yaml"
    job.parent.mkdir()
    (job.parent / "data").symlink_to(JOB.parent / "data")
    job.write_text(re.sub("(?m)^restart:.*$", "", JOB.read_text()))
    said = simulate(job, "-i", LOCAL, "--hours", "0.5", "--faults", faults, "--relaunch", "10m")
    assert said.return_value == 0, said.output
    lines = said.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("SIMULATED")
    assert lines[1] == "2 hosts, 4 ranks, 0.4 h, seed 0"
    assert "  0:05:00  fault kill: rank 3" in lines
    assert "Attempt 1: failed after 136 steps; cause: rank 3 on host2 was killed by signal 9" in lines
    assert any(line.startswith("  whole") for line in lines)


# What differs from one to the next, on the machine that simulates.
_COSTS = (
    *("controller_cpu", "controller_launch_cpu", "controller_watch_share", "hosts_cpu"),
    *("memory", "seconds_of_real_time", "told"),
)


def test_a_run_that_goes_on_by_itself_is_one_launch_and_its_restarts_are_told(tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults:\n  - {time: 8m, kind: kill, rank: 3}\n")
    words = (JOB, "-i", LOCAL, "--hours", "0.5", "--faults", faults)
    said = simulate(*words)
    lines = said.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  it went on by itself 1 time: 1 x crash" in lines
    (launch,) = json.loads(simulate(*words, "--json").stdout)["attempts"]
    first, second = launch["restarts"]
    assert launch["state"] == "succeeded"
    assert first["decision"]["sentence"].startswith("goes on with the same hosts: ")
    assert second["begun"] >= first["ended"] and second["resumed"] == 160


def test_why_a_run_that_might_have_gone_on_did_not_is_told(tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults:\n  - {time: 5m, kind: power_off, host: host2}\n")
    said = simulate(JOB, "-i", LOCAL, "--hours", "0.5", "--faults", faults)
    assert "  gives up: too few hosts are left" in said.stdout.splitlines()


def test_the_same_seed_gives_the_same_day_as_data() -> None:
    words = ("--hosts", "3", "--hours", "2", "--mtbf", "30m", "--relaunch", "5m", "--seed", "4", "--json")
    days = [json.loads(simulate(JOB, *words).stdout) for _ in range(2)]
    for day in days:
        for attempt in day["attempts"]:
            for name in _COSTS:
                attempt.pop(name)
    assert days[0] == days[1]
    assert days[0]["ranks"] == 6 and sum(days[0]["account"].values()) == pytest.approx(days[0]["seconds"])


def test_as_many_hosts_as_are_asked_for_and_what_is_changed_is_told() -> None:
    scaled = scaled_plan(JOB, LOCAL, 5)
    assert list(scaled.ranks) == [f"node000{number}" for number in range(1, 6)]
    assert scaled.ranks["node0005"] == (8, 9)
    assert scaled.notes[1] == "parallel.data_parallel is 5 on 10 ranks, not 2"


@pytest.mark.parametrize(("name", "hosts"), [("demo", 2), ("finetune_65b", 12)])
def test_without_an_inventory_the_hosts_of_the_job_are_made_up(
    name: str, hosts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for an inventory, and for the data of real servers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATE_INVENTORY", raising=False)
    scaled = scaled_plan(ROOT / f"jobs/{name}.yaml", None, None)
    assert len(scaled.ranks) == hosts
    assert [note.endswith(": made up") for note in scaled.notes] == [True]


def test_two_sources_of_faults_are_refused() -> None:
    said = simulate(JOB, "-i", LOCAL, "--mtbf", "3h", "--faults", "none.yaml")
    assert "two sources of faults" in str(said.exception)
