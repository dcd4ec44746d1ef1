"""`simulate --what-if` and `--from RUN`: what is taken from a run, and what is printed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.cli.render_what_if import estimate_data, estimate_lines
from orchestrator.config.run_terms import Restart
from orchestrator.control.run_record import write_record
from orchestrator.control.runs import make_control_dir
from orchestrator.core.errors import UsageError
from orchestrator.core.paths import state_root
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.simulation.measured_figures import figures_of_run, is_covered
from orchestrator.simulation.scaled_plan import scaled_plan
from tests.cli.restarted import given_up, running

JOB = Path(__file__).parents[2] / "jobs/demo.yaml"


@pytest.fixture(scope="module")
def plan() -> LaunchPlan:
    """Of the demo, which saves after each 160 steps."""
    made = scaled_plan(JOB, None, 2).plan
    return dataclasses.replace(made, run_id=running().run_id, restart=Restart(max=3))


def test_the_figures_of_a_run_are_those_of_its_attempts(plan: LaunchPlan) -> None:
    found = figures_of_run(running(), plan)
    figures = found.figures
    assert found.failures == 2
    assert figures.step == pytest.approx((1038.0 + 1560.0 + 400.0) / (519 + 799 + 199))
    assert figures.save_every == 160
    assert figures.save == pytest.approx((60.0 + 60.0) / (519 // 160 + 799 // 160 + 199 // 160))
    assert figures.start == pytest.approx((60.0 + 45.0 + 40.0) / 3)
    assert figures.restart == pytest.approx((10.0 + 5.0) / 2)
    assert figures.notice == pytest.approx((15.0 + 125.0) / 2)
    assert figures.mtbf == pytest.approx((1190.0 + 1665.0 + 440.0) / 2)
    assert figures.host_share == 0.5  # by what was decided


def test_a_run_that_has_not_failed_says_not_how_often_one_does(plan: LaunchPlan) -> None:
    once = dataclasses.replace(running(), attempts=running().attempts[-1:])
    with pytest.raises(UsageError, match="--mtbf"):
        figures_of_run(once, plan)
    found = figures_of_run(once, plan, 7200.0)
    assert found.figures.mtbf == 7200.0 and found.failures == 0
    assert found.figures.restart == 10.0 and any("10 s after a failure" in line for line in found.assumed)


def test_a_run_without_steps_has_no_figures(plan: LaunchPlan) -> None:
    stripped = [dataclasses.replace(each, spent=None) for each in running().attempts]
    with pytest.raises(UsageError, match="no steps"):
        figures_of_run(dataclasses.replace(running(), attempts=tuple(stripped)), plan, 7200.0)


def test_the_last_attempt_is_a_failure_where_the_run_has_failed(plan: LaunchPlan) -> None:
    ended = given_up()
    assert figures_of_run(ended, plan).failures == 2
    done = dataclasses.replace(ended, state=RunState.SUCCEEDED)
    assert figures_of_run(done, plan).failures == 1


def test_replicas_on_another_host_are_as_good_as_copies(plan: LaunchPlan) -> None:
    assert is_covered(plan)
    alone = [item for item in plan.placements if item.host == plan.placements[0].host]
    assert not is_covered(dataclasses.replace(plan, placements=tuple(alone)))
    sharded = plan.worker_config.replace("optimizer_shard: false", "optimizer_shard: true")
    assert sharded != plan.worker_config
    assert not is_covered(dataclasses.replace(plan, worker_config=sharded))


def test_the_table_fits_80_columns_and_its_data_say_the_same(plan: LaunchPlan) -> None:
    found = figures_of_run(running(), plan)
    lines = list(estimate_lines(found))
    assert max(map(len, lines)) <= 80
    rows = {line[2:27].strip(): line[27:].split() for line in lines[3:] if "assumed" not in line}
    data = estimate_data(found)
    assert [each["name"] for each in data["variants"]] == list(rows)
    for each in data["variants"]:
        assert rows[each["name"]][0] == f"{100 * each['goodput']:.2f}%"
        assert sum(each["shares"].values()) == pytest.approx(1.0)
        shown = [float(cell.rstrip("%")) for cell in rows[each["name"]][:5]]
        assert sum(shown) == pytest.approx(100.0, abs=0.05)
    assert data["variants"][0]["hours_gained_a_day"] == 0.0
    assert {"one more spare", "saves that stall nobody"} < set(rows)


def simulate(*words: str) -> Result:
    return CliRunner().invoke(cli, ["simulate", *words])


@pytest.fixture
def known(plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run, known here; it has ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    control = make_control_dir(plan, state_root())
    write_record(control, given_up())
    return control.run_id


def test_from_a_run_the_estimate_alone(known: str) -> None:
    result = simulate("--from", known)
    assert result.exit_code == 0, result.output
    assert "What if (estimated)" in result.output and "as it is" in result.output
    assert "SIMULATED" not in result.output
    data = json.loads(simulate("--from", known, "--mtbf", "3h", "--json").stdout)
    assert data["figures"]["mtbf"] == 10_800.0 and data["failures"] == 2


def test_from_a_run_a_job_is_simulated_with_its_figures(known: str) -> None:
    words = (str(JOB), "--hosts", "2", "--from", known, "--mtbf", "100h", "--what-if", "--json")
    result = simulate(*words)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["simulated"] is True
    step = (1038.0 + 1560.0) / (519 + 799)
    assert data["what_if"]["figures"]["step"] == pytest.approx(step)
    assert data["account"]["productive"] == pytest.approx(319 * step, rel=0.01)


def test_without_a_job_and_a_run_there_is_nothing_to_simulate() -> None:
    result = simulate("--what-if")
    assert isinstance(result.exception, UsageError) and "no job to simulate" in str(result.exception)


def test_what_if_needs_failures() -> None:
    result = simulate(str(JOB), "--hosts", "2", "--what-if")
    assert isinstance(result.exception, UsageError) and "--mtbf" in str(result.exception)
