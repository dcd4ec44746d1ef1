"""Which runs `runs rm` means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.remove_runs import old_runs, remove_on_hosts
from orchestrator.control.run_record import RunRecord, write_record
from orchestrator.core.errors import AgentError, ConnectError, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.fleet import HostResults


class Agent:
    """A host with the run, which it refuses to remove, or that cannot be reached."""

    def __init__(self, error: OrchestrateError | None = None) -> None:
        self.error, self.has_run = error, True

    def remove_run(self, run_id: str, *, dry_run: bool, timeout: float) -> int:
        if self.error:
            raise self.error
        self.has_run = self.has_run and dry_run
        return 5


class Fleet:
    def __init__(self, **agents: Agent) -> None:
        self.agents = agents

    def each(self, work: Callable[[Any], Any], hosts: Iterable[str] | None = None) -> HostResults[Any]:
        values, errors = {}, {}
        for name in self.agents if hosts is None else hosts:
            try:
                values[name] = work(self.agents[name])
            except OrchestrateError as error:
                errors[name] = error
        return HostResults(values, errors)


@pytest.mark.parametrize(
    ("error", "is_left"),
    [
        (AgentError("is read by run next", kind="run_needed"), True),
        (AgentError("no run", kind="no_run"), False),
        (ConnectError("is off"), False),
        (None, False),
    ],
)
def test_a_refusal_of_one_host_keeps_the_others_from_losing_the_run(
    tmp_path: Path, error: OrchestrateError | None, is_left: bool
) -> None:
    fleet = Fleet(a=Agent(), b=Agent(error))
    control = ControlDir(tmp_path / "runs" / "x")
    assert remove_on_hosts(fleet, control, dry_run=True).hosts["a"] == 5  # type: ignore[arg-type]
    assert fleet.agents["a"].has_run
    removal = remove_on_hosts(fleet, control, dry_run=False)  # type: ignore[arg-type]
    assert fleet.agents["a"].has_run is is_left
    assert removal.is_removed is (error is None or getattr(error, "kind", "") == "no_run")


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
