"""What a job's policy has no use for, or does not keep, is said at launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.restart_notes import restart_notes
from tests.config.support import JOB, inventory, job
from tests.config.test_job import PREDICT

SAVES = JOB + "checkpoint: {save_steps: 10}\n"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (SAVES, []),
        (SAVES + "restart: {max: 1}\n", []),
        (SAVES + "restart: {max: 1, wait: 5m, min_hosts: 1}\n", []),
        (
            SAVES + "restart: {min_hosts: 1, wait: 5m}\n",
            [
                "restart.min_hosts, restart.wait are not used: restart.max is 0, and a run that fails has "
                "ended",
            ],
        ),
        (
            SAVES + "restart: {lease: 5m}\n",
            ["restart.lease is not used: restart.max is 0, and a run that fails has ended"],
        ),
        (
            SAVES + "restart: {max: 1, wait: 5m}\n",
            [
                "restart.wait: when hosts have been missing for 300 s the run ends; restart.min_hosts would "
                "let it go on with fewer",
            ],
        ),
        (
            JOB + "restart: {max: 1}\n",
            ["restart: without checkpoint.save_steps nothing is saved on the way: attempts begin anew"],
        ),
        (
            PREDICT + "restart: {max: 1}\n",
            ["restart: each attempt of a prediction answers all prompts anew"],
        ),
    ],
)
def test_notes(tmp_path: Path, text: str, notes: list[str]) -> None:
    assert list(restart_notes(job(tmp_path, text))) == notes


def test_they_are_notes_of_the_launch(tmp_path: Path) -> None:
    made = make_plan(job(tmp_path, JOB + "restart: {max: 1}\n"), inventory(tmp_path))
    assert any(note.startswith("restart: without checkpoint.save_steps") for note in made.notes)
