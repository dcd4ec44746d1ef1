"""What is said of a launch whose control node is gone, while its hosts may still undo it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control import runs
from orchestrator.control.run_record import read_record, write_record
from orchestrator.control.runs import current_record
from orchestrator.core.states import RunState
from tests.control.judged import rank, view
from tests.control.test_monitor import control_in as planned_in


@pytest.mark.parametrize(
    ("phases", "state"),
    [
        (("started", "started"), RunState.PREPARING),
        (("started", "committed"), RunState.PREPARING),
        (("prepared", "started"), RunState.PREPARING),
        (("committed", "committed"), RunState.RUNNING),
    ],
)
def test_a_launch_that_hosts_may_undo_is_not_said_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phases: tuple[str, str], state: RunState
) -> None:
    """Its next monitor finishes what is `preparing`; what it took for a run it would only watch end."""
    control = planned_in(tmp_path, RunState.PREPARING)
    write_record(control, dataclasses.replace(read_record(control), updated=1.0))

    def seen(record: Any, *given: object) -> Any:
        views = {
            name: view(name, rank(number, "running"), phase=phase)
            for number, (name, phase) in enumerate(zip(record.hosts, phases, strict=True))
        }
        return dataclasses.replace(record, state=RunState.RUNNING, phase="running", hosts=views)

    monkeypatch.setattr(runs, "_looked_at", seen)
    assert current_record(control).state is read_record(control).state is state
