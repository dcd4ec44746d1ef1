"""Run YAMLs with lines and characters changed at random: a plan, or errors of one line each."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.config.run_yaml import RunYaml
from orchestrator.core.errors import ConfigError
from orchestrator.plan.make_plan import make_plan

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "tests/golden/jobs"
VALUES = ["null", "[]", "{}", "-1", "1.5", "[1, {a: b}]", "{a: {b: c}}", "'../x'", "*mp", "1e400", "9" * 30]
BITS = ["- ", "&a ", "*mp", "<<: ", "'", '"', ": ", "#", "\t", "~", "|\n", "!x ", "\n", "\0", "é", "? "]


def changed(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 4)):
        if chance.random() < 0.5:
            lines = text.split("\n")
            at = chance.randrange(len(lines))
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}: {chance.choice(VALUES)}" if colon else lines[at]
            text = "\n".join(lines)
        else:
            at = chance.randrange(len(text))
            text = text[:at] + chance.choice(BITS) + text[at + chance.randint(0, 5) :]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_changed_there_is_a_plan_or_a_line(tmp_path: Path, seed: int) -> None:
    shutil.copytree(JOBS, tmp_path, dirs_exist_ok=True)
    job = load_job(tmp_path / "mindformers.yaml")
    inventory = load_inventory(ROOT / "inventory/ascend_12x8.yaml")
    run, chance = tmp_path / "run_llama.yaml", random.Random(seed)
    text, planned = run.read_text(), 0
    for _ in range(40):
        run.write_text(changed(text, chance))
        try:
            plan = make_plan(job, inventory)
        except ConfigError as error:
            assert not any("\n" in str(one) for one in error.problems)
        else:
            planned += 1
            assert RunYaml("again.yaml", plan.run_yaml).get("output_dir") == "./attempts/1"
    assert 0 < planned < 40
