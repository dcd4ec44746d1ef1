"""What a planned launch asks of its hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.preflight.host_facts import needs_of
from tests.plan.test_make_plan import COMMAND, TRAIN, plan

NETWORKING = COMMAND + "networking: {mode: %s}\n"


@pytest.mark.parametrize(
    ("text", "mindspore", "bundled"),
    [
        (TRAIN, True, True),
        # Only MindSpore starts by a scheduler alone; with a rank table a command may be anything.
        (NETWORKING % "dynamic", True, False),
        (NETWORKING % "rank_table", False, False),
        (NETWORKING % "none", False, False),
    ],
    ids=["bundled", "dynamic", "rank_table", "none"],
)
def test_whose_defaults_hold(tmp_path: Path, text: str, mindspore: bool, bundled: bool) -> None:
    needs = needs_of(plan(tmp_path, text))
    assert (needs.mindspore, needs.bundled) == (mindspore, bundled)


def test_only_variables_that_matter_are_asked_about(tmp_path: Path) -> None:
    env = "{HCCL_BUFFSIZE: 200, ASCEND_RT_VISIBLE_DEVICES: '0,1', PYTHONPATH: /lib, TOKEN: secret}"
    needs = needs_of(plan(tmp_path, COMMAND + f"env: {env}\n"))
    assert needs.env == {
        "HCCL_BUFFSIZE": "200",
        "ASCEND_RT_VISIBLE_DEVICES": "0,1",
        "PYTHONPATH": "/lib",
    }
