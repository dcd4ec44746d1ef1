"""How often to save: by what was measured of the job, else what is assumed; and what plan says of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.checkpoint.save_interval import BYTES_COPIED, default_mtbf
from orchestrator.cli.cmd_plan import command
from orchestrator.config.job_file import load_job
from orchestrator.control.launch import plan_launch
from orchestrator.control.past_saves import past_saves, saves_in
from orchestrator.control.run_record import AttemptRecord, HostView, RunRecord, write_record
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState, RunState
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan
from orchestrator.preflight.host_facts import needs_of
from orchestrator.sizing.estimate import Estimate, StageEstimate
from orchestrator.sizing.saving import PastSaves, saving_of
from tests.config.support import inventory

ROOT = Path(__file__).parents[2]
HOUR = 3600.0


def estimate(*sizes: tuple[int, int]) -> Estimate:
    stages = tuple(
        StageEstimate(stage, 1, 0, weights, 0, optimizer, 0, 0)
        for stage, (weights, optimizer) in enumerate(sizes)
    )
    return Estimate(stages, 0, 0, 0, 0.0)


MADE = estimate((10, 20), (1_000_000, 3_000_000))


def test_a_snapshot_is_the_largest_shard_of_each_rank_of_a_host() -> None:
    behind = saving_of(MADE, world_size=16, ranks_per_host=8, asynchronous=True, past=PastSaves())
    assert (behind.shard, behind.snapshots) == (4_000_000, 32_000_000)
    assert behind.stall == pytest.approx(4_000_000 / BYTES_COPIED) and behind.measured_in == ""
    waits = saving_of(MADE, world_size=16, ranks_per_host=8, asynchronous=False, past=PastSaves())
    assert waits.snapshots == 0 and waits.stall > behind.stall and waits.interval > behind.interval
    assert waits.mtbf == default_mtbf(16) and waits.failures == 0 and waits.steps is None


def test_what_was_measured_goes_before_what_is_assumed() -> None:
    past = PastSaves("x-1", stall=8.0, write=8.0, step=2.0, failures=4, device_seconds=16 * 40 * HOUR)
    found = saving_of(MADE, world_size=16, ranks_per_host=8, asynchronous=False, past=past)
    assert (found.stall, found.mtbf, found.measured_in, found.failures) == (8.0, 10 * HOUR, "x-1", 4)
    assert found.interval == pytest.approx(math.sqrt(2 * 8 * 10 * HOUR)) and found.steps == 379
    half = saving_of(MADE, world_size=32, ranks_per_host=8, asynchronous=False, past=past)
    assert half.mtbf == 5 * HOUR, "twice the devices fail twice as often"
    told = saving_of(MADE, world_size=16, ranks_per_host=8, asynchronous=False, past=past, mtbf=HOUR)
    assert (told.mtbf, told.failures) == (HOUR, 0)
    # How long a save was waited for tells nothing of one that is not.
    other = saving_of(MADE, world_size=16, ranks_per_host=8, asynchronous=True, past=past)
    assert other.measured_in == "" and other.stall < 1.0 and other.step == 2.0


def record(run: str, *ends: tuple[RunState, float], stall: float | None = None, steps: int = 50) -> RunRecord:
    rank = RankStatus(0, 0, 0, RankState.FAILED, progress={"step": steps}, save_stall=stall, save_write=stall)
    status = HostStatus(run, "job", "a", 0.0, (rank,))
    attempts = [
        AttemptRecord(number, state=state, started=0.0, ended=hours * HOUR, last_step=steps or None)
        for number, (state, hours) in enumerate(ends, 1)
    ]
    last = attempts[-1]
    return RunRecord(
        run_id=run,
        job="job",
        task="pretrain",
        world_size=8,
        created=0.0,
        state=last.state,
        ended=last.ended,
        hosts={"a": HostView(status=status)},
        attempts=tuple(attempts),
        step_interval=2.0,
    )


def test_failures_are_counted_over_attempts_of_all_runs_and_the_newest_save_is_taken() -> None:
    newest = record("job-3", (RunState.FAILED, 10), (RunState.STOPPED, 20))
    before = record("job-2", (RunState.FAILED, 5), (RunState.FAILED, 5), (RunState.SUCCEEDED, 10), stall=3.0)
    broken = record("job-1", (RunState.FAILED, 1), steps=0)  # it never trained
    foreign = replace(record("job-0", (RunState.FAILED, 1), stall=9.0), job="other")
    found = saves_in("job", [newest, foreign, before, broken])
    assert (found.run_id, found.stall, found.step, found.failures) == ("job-2", 3.0, 2.0, 3)
    assert found.device_seconds == 8 * 50 * HOUR and found.mtbf(4) == pytest.approx(100 * HOUR / 3)
    assert saves_in("job", []) == PastSaves() and PastSaves().mtbf(8) is None


def test_records_of_the_job_are_found_and_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    for run, seconds in (("job-20260101-000000-aaaa", 1.0), ("job-20260102-000000-aaaa", 2.0)):
        control = ControlDir(tmp_path / "runs" / run)
        control.make()
        control.plan.write_text("{}")
        write_record(control, record(run, (RunState.FAILED, 1), stall=seconds))
    damaged = ControlDir(tmp_path / "runs/job-20260103-000000-aaaa")
    damaged.make()
    damaged.plan.write_text("{}")
    damaged.record.write_text("nonsense")
    found = past_saves("job", tmp_path)
    assert (found.run_id, found.stall, found.failures) == ("job-20260102-000000-aaaa", 2.0, 2)
    assert past_saves("jo", tmp_path) == PastSaves()


def planned(job: str, *overrides: str, data: bool = True) -> str:
    words = [str(ROOT / f"jobs/{job}.yaml"), *(f"--set={each}" for each in overrides)]
    done = CliRunner().invoke(command, [*words, *(["--json"] if data else [])], standalone_mode=False)
    assert done.return_value == 0, (done.output, done.exception)
    return done.output


def test_plan_says_what_saving_takes_and_how_often_it_pays() -> None:
    ours = ("checkpoint.save_steps=null", "checkpoint.save_every=auto", "checkpoint.async=true")
    found = json.loads(planned("finetune_7.1b", *ours, "checkpoint.mtbf=3h"))["saving"]
    assert found["snapshots_of_a_host"] == 8 * found["shard"] > 0
    assert found["mtbf_s"] == 3 * HOUR and found["stall_measured_in"] is None
    assert found["interval_s"] == pytest.approx(math.sqrt(2 * found["stall_s"] * 3 * HOUR), rel=1e-3)
    text = " ".join(planned("finetune_7.1b", *ours, data=False).split())
    assert "copied into its host's memory: up to" in text and "(save_every: auto does so)" in text
    assert "Llama 3's rate" in text and "assumed, 4 GB/s copied" in text
    assert "saving" not in json.loads(planned("predict_7.1b"))


def test_a_launch_asks_its_hosts_for_that_memory(tmp_path: Path) -> None:
    known = inventory(tmp_path, "defaults: {devices: 0-7}\nhosts: [{name: n1, address: 10.0.0.1}]\n")
    needed = {}
    for text in ("true", "false"):
        job = load_job(ROOT / "jobs/finetune_7.1b.yaml", (f"checkpoint.async={text}",))
        needed[text] = needs_of(make_plan(job, known)).snapshot_bytes
    shown = json.loads(planned("finetune_7.1b", "checkpoint.async=true"))["saving"]
    assert needed == {"true": shown["snapshots_of_a_host"], "false": 0}


def test_workers_that_choose_are_told_how_often_something_fails(tmp_path: Path) -> None:
    hosts = "defaults: {devices: 0-7}\nhosts: [{name: 'n[1-16]', address: '10.0.0.[1-16]'}]\n"
    known = inventory(tmp_path, hosts)

    def told(*overrides: str, mtbf: float | None = None) -> object:
        job = load_job(ROOT / "jobs/finetune_7.1b.yaml", ("checkpoint.save_steps=null", *overrides))
        plan = make_plan(job, known, mtbf=mtbf)
        return yaml.safe_load(plan.worker_config)["checkpoint"]["mtbf"]

    auto = "checkpoint.save_every=auto"
    assert told(auto) == pytest.approx(default_mtbf(8))
    assert told(auto, mtbf=5000.0) == 5000.0
    assert told(auto, "checkpoint.mtbf=1h", mtbf=5000.0) == HOUR
    assert told("checkpoint.save_every=10m", mtbf=5000.0) is None


def test_a_launch_tells_workers_how_often_this_job_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    runs = tmp_path / "state/orchestrate/runs"
    control = ControlDir(runs / "job-20260101-000000-aaaa")
    control.make()
    control.plan.write_text("{}")
    write_record(control, record(control.run_id, (RunState.FAILED, 6), (RunState.FAILED, 6)))
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text("hosts: [{name: n1, address: 10.0.0.1, devices: 0-7}]\n")
    auto = ("checkpoint.save_steps=null", "checkpoint.save_every=auto", "name=job")
    _, plan = plan_launch(ROOT / "jobs/finetune_7.1b.yaml", hosts, auto)
    assert yaml.safe_load(plan.worker_config)["checkpoint"]["mtbf"] == 6 * HOUR
    found = past_saves("job")
    assert (found.failures, found.device_seconds) == (2, 8 * 12 * HOUR)


def test_the_next_attempt_reckons_with_the_same(tmp_path: Path) -> None:
    hosts = "defaults: {devices: 0-7}\nhosts: [{name: 'n[1-16]', address: '10.0.0.[1-16]'}]\n"
    known = inventory(tmp_path, hosts)
    auto = ("checkpoint.save_steps=null", "checkpoint.save_every=auto", "checkpoint.load=null")
    job = load_job(ROOT / "jobs/finetune_7.1b.yaml", auto)
    before = make_plan(job, known, mtbf=5000.0)
    after = next_plan(before, job, known)
    assert yaml.safe_load(after.worker_config)["checkpoint"]["mtbf"] == 5000.0
