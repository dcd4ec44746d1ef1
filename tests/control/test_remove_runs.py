"""Which runs `runs rm` means."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.control.remove_runs import old_runs
from orchestrator.control.run_record import RunRecord, write_record
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState

DAY = 86400.0
NOW = 100 * DAY


def runs(folder: Path) -> list[ControlDir]:
    """Oldest first: they ended 9, 8 and 1 days ago; one goes on; of one the record is damaged."""
    found = []
    for name, ago, state in (
        ("a", 9, RunState.SUCCEEDED),
        ("b", 8, RunState.FAILED),
        ("c", 7.5, RunState.RUNNING),
        ("d", 1, RunState.STOPPED),
        ("e", 9, RunState.SUCCEEDED),
    ):
        control = ControlDir(folder / "runs" / name)
        control.make()
        record = RunRecord(name, "job", "command", 1, created=NOW - 10 * DAY, state=state)
        ended = NOW - ago * DAY if state.is_terminal else None
        write_record(control, dataclasses.replace(record, ended=ended))
        found.append(control)
    found[-1].record.write_text("{")
    return found


@pytest.mark.parametrize(
    ("older_than", "keep", "names"),
    [
        (7 * DAY, None, "ab"),
        (8.5 * DAY, None, "a"),
        (None, 3, "ab"),
        (None, 0, "abd"),
        (None, 9, ""),
        (8.5 * DAY, 4, "a"),
        (8.5 * DAY, 5, ""),
    ],
)
def test_the_old_ones_that_have_ended(
    tmp_path: Path, older_than: float | None, keep: int | None, names: str
) -> None:
    found = old_runs(runs(tmp_path), older_than=older_than, keep=keep, now=NOW)
    assert "".join(control.run_id for control in found) == names
